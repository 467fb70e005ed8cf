"""PyTorch on CPU: a plain GPT-2 with a preallocated key-value cache, eager or compiled.

A model written directly over torch operations, because the general one of transformers spends time in
Python that is no part of the arithmetic; `--variant transformers` measures that one too.
"""

import argparse

import torch
import torch.nn.functional as F

from peers.shape import HEADS, HIDDEN, LAYERS, POSITIONS, THREADS, VOCABULARY, WORKLOADS, emit, sample


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.qkv = torch.nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = torch.nn.Linear(HIDDEN, HIDDEN)
        self.up = torch.nn.Linear(HIDDEN, 4 * HIDDEN)
        self.down = torch.nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, x, keys, values, positions, end: int):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(b, t, 3, HEADS, HIDDEN // HEADS).permute(2, 0, 3, 1, 4)
        # Written in place into the cache; attention reads a view of it: nothing is reallocated or copied.
        keys.index_copy_(2, positions, k)
        values.index_copy_(2, positions, v)
        k, v = keys[:, :, :end], values[:, :, :end]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, HIDDEN))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Gpt2(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.positions = torch.nn.Embedding(POSITIONS, HIDDEN)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = torch.nn.LayerNorm(HIDDEN)

    def forward(self, ids, cache, positions, end: int):
        x = self.tokens(ids) + self.positions(positions)
        for block, (keys, values) in zip(self.blocks, cache):
            x = block(x, keys, values, positions, end)
        return F.linear(self.norm(x[:, -1]), self.tokens.weight)


def fresh_cache(batch, length):
    """Random entries: the time does not depend on their values."""
    shape = (batch, HEADS, length, HIDDEN // HEADS)
    return [(torch.randn(shape), torch.randn(shape)) for _ in range(LAYERS)]


class Plain:
    """The model above; one step is one call."""

    def __init__(self, compiled):
        model = Gpt2().eval()
        if compiled:
            import torch._inductor.config as inductor

            # Weights are constants of the compiled code, so that oneDNN may pack them once.
            inductor.freezing = True
            model = torch.compile(model)
        self.model = model

    def start(self, batch, length):
        self.cache = fresh_cache(batch, length)

    def step(self, ids, positions, end):
        return self.model(ids, self.cache, positions, end)


class Transformers:
    """GPT2LMHeadModel of transformers with its preallocated cache."""

    def __init__(self):
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(n_positions=POSITIONS, attn_implementation="sdpa")
        self.model = GPT2LMHeadModel(config).eval()

    def start(self, batch, length):
        from transformers import StaticCache

        self.cache = StaticCache(config=self.model.config, max_cache_len=length)

    def step(self, ids, positions, end):
        return self.model(ids, past_key_values=self.cache, cache_position=positions, logits_to_keep=1).logits


def measure(runner, workload):
    runner.start(workload.batch, workload.length)
    count = 1 if workload.kind == "decode" else workload.length
    ids = torch.randint(0, VOCABULARY, (workload.batch, count))
    positions, end = None, 0

    def prepare(step):
        nonlocal positions, end
        first = workload.depth + max(step, 0)
        positions, end = torch.arange(first, first + count), first + count

    return sample(workload, prepare, lambda: runner.step(ids, positions, end))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=["eager", "compiled", "transformers"], required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    runner = Transformers() if arguments.variant == "transformers" else Plain(arguments.variant == "compiled")
    with torch.inference_mode():
        for workload in WORKLOADS:
            emit(f"PyTorch f32 {arguments.variant}", workload, measure(runner, workload))


if __name__ == "__main__":
    main()
