"""PyTorch on a GPU: decoding with a static cache inside a CUDA graph, and prefill with flash attention.

The model is written out in the operations that PyTorch is fastest with (fused projections, scaled dot product
attention, tied head), so that what is compared is the library and not a wrapper around it.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = {
    "gpt2-medium": dict(layers=24, hidden=1024, heads=16, kv_heads=16, d=64, mlp=4096, vocabulary=50257, gated=False),
    "llama-1b": dict(layers=16, hidden=2048, heads=32, kv_heads=8, d=64, mlp=8192, vocabulary=128256, gated=True),
}


class Model:
    """Random weights of a shape; GPT-2 with learned positions and GELU, or Llama with rotation and SwiGLU."""

    def __init__(self, shape, batch, context):
        self.shape, self.batch, self.context = shape, batch, context
        c, q, k = shape["hidden"], shape["heads"] * shape["d"], shape["kv_heads"] * shape["d"]
        make = lambda *size: torch.randn(*size, device="cuda", dtype=torch.bfloat16) * 0.02
        up = 2 * shape["mlp"] if shape["gated"] else shape["mlp"]
        self.layers = [
            dict(qkv=make(q + 2 * k, c), out=make(c, q), up=make(up, c), down=make(c, shape["mlp"]),
                 norms=[torch.ones(c, device="cuda", dtype=torch.bfloat16) for _ in range(2)],
                 biases=[make(n) for n in (q + 2 * k, c, up, c)])
            for _ in range(shape["layers"])
        ]
        self.embedding = make(shape["vocabulary"], c)
        self.positions = make(context, c)
        self.final = torch.ones(c, device="cuda", dtype=torch.bfloat16)
        self.zero = torch.zeros(c, device="cuda", dtype=torch.bfloat16)
        angle = torch.outer(torch.arange(context, device="cuda").float(),
                            500000.0 ** (-torch.arange(0, shape["d"], 2, device="cuda") / shape["d"]))
        self.cos = torch.cat([angle.cos()] * 2, -1).bfloat16()
        self.sin = torch.cat([angle.sin()] * 2, -1).bfloat16()

    def norm(self, x, weight):
        if self.shape["gated"]:
            return F.rms_norm(x, (x.shape[-1],), weight, 1e-5)
        return F.layer_norm(x, (x.shape[-1],), weight, self.zero, 1e-5)

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def forward(self, ids, position, attend):
        s = self.shape
        b, t = ids.shape
        x = self.embedding[ids]
        if not s["gated"]:
            x = x + self.positions[position]
        cos, sin = self.cos[position], self.sin[position]
        for index, layer in enumerate(self.layers):
            bias = layer["biases"] if not s["gated"] else [None] * 4
            qkv = F.linear(self.norm(x, layer["norms"][0]), layer["qkv"], bias[0])
            q, k, v = qkv.view(b, t, -1, s["d"]).transpose(1, 2).split([s["heads"], s["kv_heads"], s["kv_heads"]], 1)
            if s["gated"]:
                q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
            y = attend(index, q, k, v).transpose(1, 2).reshape(b, t, -1)
            x = x + F.linear(y, layer["out"], bias[1])
            h = F.linear(self.norm(x, layer["norms"][1]), layer["up"], bias[2])
            if s["gated"]:
                gate, up = h.chunk(2, -1)
                h = F.silu(gate) * up
            else:
                h = F.gelu(h, approximate="tanh")
            x = x + F.linear(h, layer["down"], bias[3])
        return F.linear(self.norm(x[:, -1], self.final), self.embedding)


def decode(shape, batch, context, steps=50):
    """Milliseconds of a step whose cache holds `context` entries, as replays of one captured graph."""
    model = Model(shape, batch, context)
    size = (shape["layers"], 2, batch, shape["kv_heads"], context, shape["d"])
    cache = torch.randn(size, device="cuda", dtype=torch.bfloat16)
    position = torch.full((1,), context - 1, device="cuda")
    ids = torch.randint(0, shape["vocabulary"], (batch, 1), device="cuda")

    def attend(index, q, k, v):
        keys, values = cache[index, 0], cache[index, 1]
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        return F.scaled_dot_product_attention(q, keys, values, enable_gqa=shape["heads"] != shape["kv_heads"])

    def step():
        return model.forward(ids, position, attend).argmax(-1)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / steps * 1e3)
    return statistics.median(times)


def prefill(shape, tokens, repeats=4):
    """Milliseconds of a whole prompt, causal, by the flash backend."""
    model = Model(shape, 1, tokens)
    ids = torch.randint(0, shape["vocabulary"], (1, tokens), device="cuda")
    position = torch.arange(tokens, device="cuda")

    def attend(index, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=shape["heads"] != shape["kv_heads"])

    times = []
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for _ in range(repeats + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            model.forward(ids, position, attend)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--decode", type=int, help="entries of the cache")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--prefill", type=int, help="tokens of the prompt")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shape = SHAPES[arguments.shape]
    result = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    with torch.no_grad():
        if arguments.decode:
            batches = map(int, arguments.batches.split(","))
            result["decode"] = {batch: decode(shape, batch, arguments.decode) for batch in batches}
        if arguments.prefill:
            result["prefill"] = prefill(shape, arguments.prefill)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
