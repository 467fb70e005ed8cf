"""Generation by the paper's public code on a GPU, with its own timing of each token.

Published: Anagnostidis et al. 2023, arXiv 2305.15805. `--directory` holds a checkout of the code.
"""

import argparse
import json
import math
import statistics
import sys

import torch


def build(gated):
    from model import GPT, GPTConfig

    config = GPTConfig(
        block_size=1024,
        vocab_size=50257,
        n_layer=12,
        n_head=12,
        n_embd=768,
        int_n_embd=64,
        sparse_attention=gated,
        # With gates drawn like this a bias of 2.576 leaves about a fifth of 1000 tokens.
        sparse_attention_int_bias=2.576,
        propagate_in_depth=False,
    )
    model = GPT(config)
    if gated:
        for block in model.transformer.h:
            # Hard gates, as its generation script loads them.
            block.attn.sparsity_alpha = "inf"
            for gate in (block.attn.q_int, block.attn.k_int):
                torch.nn.init.normal_(gate.weight, std=1 / math.sqrt(config.n_embd))
    return model.eval().cuda()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--context", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.directory)
    torch.manual_seed(0)
    model = build(True).to(getattr(torch, arguments.dtype))
    ids = torch.randint(0, 50257, (arguments.batch, arguments.context), device="cuda")
    length = arguments.context + arguments.tokens
    _, times, sizes, loads = model.generate(ids, max_length=length, do_sample=False, measure_time=True)
    # The first token is the prompt's.
    median = statistics.median(times[1:])
    sizes = sizes[-1].float().mean().item() if sizes is not None else None
    load = loads[-1].mean().item() if loads is not None else None
    json.dump({"milliseconds": 1e3 * median, "slots": sizes, "load": load}, sys.stdout)


if __name__ == "__main__":
    main()
