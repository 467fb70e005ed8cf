"""Training steps of a dense GPT-2 in PyTorch on the CPU: the model of transformers with causal attention.

A stronger opponent for a dense step than the public code's, whose attention is given a mask of zeros.
"""

import argparse

import torch
import torch.nn.functional as F

from peers.train_shape import LEARNING_RATE, SHAPES, THREADS, Measured, emit, measure, peak_mib


def main():
    from transformers import GPT2Config, GPT2LMHeadModel

    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, required=True)
    shape = SHAPES[parser.parse_args().shape]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.tokens,
        n_embd=shape.hidden,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config).train()
    measured = Measured(start_mib=peak_mib(), parameters=sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0, fused=True)
    ids = torch.randint(0, shape.vocabulary, (shape.sequences, shape.tokens))
    targets = torch.roll(ids, -1, dims=-1)
    targets[:, -1] = -1

    def step():
        logits = model(ids).logits
        loss = F.cross_entropy(logits.view(-1, shape.vocabulary), targets.view(-1), ignore_index=-1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        measured.loss = loss.item()

    measure(shape, step, measured)
    emit(measured)


if __name__ == "__main__":
    main()
