#!/usr/bin/env python3
"""Methods that rank entries, on a real model and on the processor, beside what kvpress left and lost there.

    python3 runs/kvpress_compare.py DROPCAP MODEL GOLDEN [WINDOWS] [PRESS,PRESS ...]

GOLDEN holds what kvpress gave: `ids.safetensors` (`P.ids` [n, 1153]), `open.json` (`P.results`: the mean loss of each window)
and `bitmaps.safetensors` (for the first two windows which positions stayed, and the loss of every token). A context of
1,024 tokens is pruned where it ends, and 128 more are predicted. Needs nothing but Python; about ten seconds a line.
"""

import array
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT, TOKENS = 1024, 1152
SPECS = {
    "knorm": "knorm",
    "keydiff": "keydiff",
    "snapkv": "snapkv",
    "tova": "tova",
    "observed_attention": "observed_attention",
    "expected_attention": "expected_attention",
    "lagkv": "lagkv",
    "pyramidkv": "pyramid(snapkv)",
    "adakv_snapkv": "ada(snapkv)",
    "adakv_expected": "ada(expected_attention)",
}


class Tensors:
    def __init__(self, path):
        self.file = open(path, "rb")
        size = struct.unpack("<Q", self.file.read(8))[0]
        self.header = json.loads(self.file.read(size))
        self.base = 8 + size

    def read(self, name, kind, first=0, count=None):
        begin, end = self.header[name]["data_offsets"]
        width = array.array(kind).itemsize
        self.file.seek(self.base + begin + first * width)
        return array.array(kind, self.file.read(end - begin if count is None else count * width))


def losses(out, ids):
    width = out.header["logits"]["shape"][1]
    for row in range(CONTEXT, TOKENS):
        logits = out.read("logits", "f", row * width, width)
        top = max(logits)
        yield math.log(math.fsum(math.exp(x - top) for x in logits)) + top - logits[ids[row + 1]]


def differing(out, kept):
    """Positions over layers and heads that stayed here and not there, or the other way round."""
    layers = sum(name.endswith(".expires_at") for name in out.header)
    heads, count = len(kept) * 8 // (layers * CONTEXT), 0
    for layer in range(layers):
        name = f"layers.{layer}.expires_at"
        lanes, ends = out.header[name]["shape"][0], out.read(name, "I")
        for head in range(heads):
            bits = (layer * heads + head) * CONTEXT
            for position in range(CONTEXT):
                here = ends[min(head, lanes - 1) * TOKENS + position] != CONTEXT
                count += here != bool(kept[(bits + position) // 8] >> position % 8 & 1)
    return count


def main(dropcap, model, golden, windows="1", presses=",".join(SPECS)):
    golden = Path(golden)
    ids = Tensors(golden / "ids.safetensors").read("P.ids", "i")
    bitmaps = Tensors(golden / "bitmaps.safetensors")
    expected = json.loads((golden / "open.json").read_text())["P"]["results"]
    print("| method | window | loss | of kvpress | largest difference of a token | positions that differ |\n|---|--:|--:|--:|--:|--:|", flush=True)
    for press in presses.split(","):
        for removed, keep in (("0.5", "@0.5"), ("0.8", "@0.2")):
            for window in range(int(windows)):
                text = ids[window * (TOKENS + 1) : (window + 1) * (TOKENS + 1)]
                with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
                    command = [dropcap, "forward", "--model", model, "--device", "cpu", "--dtype", "f32", "--kv-dtype", "f32"]
                    command += ["--method", SPECS[press] + keep, "--context", str(CONTEXT)]
                    command += ["--ids", ",".join(map(str, text[:TOKENS])), "-o", file.name]
                    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                    out = Tensors(file.name)
                    found, case = list(losses(out, text)), f"w{window}.{press}.r{removed}"
                    worst = swapped = "-"
                    if f"{case}.kept" in bitmaps.header:
                        theirs = bitmaps.read(f"{case}.nll", "f")
                        worst = f"{max(abs(a - b) for a, b in zip(found, theirs)):.1e}"
                        swapped = differing(out, bitmaps.read(f"{case}.kept", "B"))
                want = expected[f"{press}.r{removed}"]["nll"][window]
                mean = math.fsum(found) / len(found)
                print(f"| `{SPECS[press]}{keep}` | {window} | {mean:.6f} | {want:.6f} | {worst} | {swapped} |", flush=True)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
