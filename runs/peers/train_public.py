"""Training steps of the paper's public code on the CPU: its model, and its training loop without the logging.

Published: Anagnostidis et al. 2023, arXiv 2305.15805. `--directory` holds a checkout of the code; the parts of its
train.py that make up a step are repeated here, because that file needs a GPU and a data set of the hub.
"""

import argparse
import math
import sys

import torch

from peers.train_shape import ALPHA, GAMMA, LEARNING_RATE, SHAPES, SOFT_BIAS, SOFT_WIDTH, THREADS, Measured
from peers.train_shape import emit, measure, peak_mib


def build(shape, gated):
    from model import GPT, GPTConfig

    config = GPTConfig(
        block_size=shape.tokens,
        vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.hidden,
        int_n_embd=SOFT_WIDTH,
        sparse_attention=gated,
        sparse_attention_int_bias=SOFT_BIAS,
        propagate_in_depth=False,
    )
    model = GPT(config)
    if gated:
        for block in model.transformer.h:
            block.attn.sparsity_alpha = ALPHA
            # As the code means to draw them; it overwrites that with a deviation of 0.02.
            for gate in (block.attn.q_int, block.attn.k_int):
                torch.nn.init.normal_(gate.weight, std=1 / math.sqrt(shape.hidden))
    return model.train()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--variant", choices=["gated", "dense"], required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.directory)
    shape, gated = SHAPES[arguments.shape], arguments.variant == "gated"
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    measured = Measured()
    model = build(shape, gated)
    measured.start_mib = peak_mib()
    measured.parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0)
    ids = torch.randint(0, shape.vocabulary, (shape.sequences, shape.tokens))
    targets = torch.roll(ids, -1, dims=-1)
    targets[:, -1] = -1

    def step():
        logits, survival, loss, _ = model(ids, targets=targets)
        total = loss
        if gated:
            sparsity = (torch.stack(survival, dim=0)[:, :, :, :-1, :] * GAMMA).mean()
            measured.survival = sparsity.item() / GAMMA
            total = loss + sparsity
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        measured.loss = loss.item()

    measure(shape, step, measured)
    emit(measured)


if __name__ == "__main__":
    main()
