"""Training steps on a GPU: dropcap's, dense and gated, beside PyTorch's dense one, each in a process of its own.

`gpu_train_bench.sh` prepares the environment and calls this. Prints Markdown tables; what failed is in them as what it said.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEP_TIME = str((HERE.parent / os.environ["STEP_TIME"]).resolve())
PARTS = ["dense", "lora", "memory"]
# As in train_shape.py: biases at which about a fifth is kept.
HARD = ["method=hard", "width=16", "bias=1.95", "sinks=4", "recent=16"]
SOFT = ["method=soft", "gates=1", "width=64", "bias=2.4", "alpha=2", "gamma=0.3"]
SHAPES = [("gpt2-medium", 8, 1024, 16), ("smollm2-135m", 16, 1024, 3), ("8.7m", 64, 1024, 4)]
HEAD = "| shape | step | ms: min / median / max | tokens/s | device MiB | keep | ratio |\n|---|---|--:|--:|--:|--:|---|"
LIMIT = int(os.environ.get("LIMIT", "240"))


def say(*words):
    print(*words, flush=True)


def record_of(command):
    """The JSON line that a command prints, or a text that says why there is none."""
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"not done within {LIMIT} s"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit status {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def dropcap(shape, sequences, tokens, *more):
    batch = [f"shape={shape}", f"sequences={sequences}", f"tokens={tokens}"]
    return record_of([STEP_TIME, "device=cuda:0", "warmup=3", "repeats=10", *batch, *more])


def pytorch(shape, sequences, tokens, *more):
    batch = ["--shape", shape, "--sequences", str(sequences), "--tokens", str(tokens)]
    record = record_of([sys.executable, "-m", "peers.train_gpu", *batch, *more])
    if not isinstance(record, str) and record["why"]:
        print(f"{shape}: torch.compile failed: {record['why']}", file=sys.stderr, flush=True)
    return record


def median(record):
    return None if isinstance(record, str) else record["milliseconds"]["median"]


def mode(record):
    """How PyTorch ran, as its row says it."""
    return "" if isinstance(record, str) else f" {record['torch']} {record['mode']}"


def row(shape, name, record, tokens, against=None, whose=""):
    if isinstance(record, str):
        return say(f"| {shape} | {name} | {record} | | | | |")
    times = " / ".join(f"{record['milliseconds'][which]:.1f}" for which in ("min", "median", "max"))
    keep = record.get("keep") if record.get("keep") is not None else record.get("survival")
    ratio = f"{median(record) / against:.2f} of {whose}" if against else ""
    rate = tokens * 1e3 / median(record)
    shown = "" if keep is None else f"{keep:.2f}"
    say(f"| {shape} | {name} | {times} | {rate:,.0f} | {record['device_mib']:,} | {shown} | {ratio} |")


def part_dense():
    say("\n### A step of all weights (asked: dense at most 1.1 of PyTorch, gated at most 1.35 of our dense)\n\n" + HEAD)
    for shape, sequences, tokens, kv_heads in SHAPES:
        batch, count = (shape, sequences, tokens), sequences * tokens
        theirs = pytorch(*batch)
        dense = dropcap(*batch)
        row(shape, f"PyTorch{mode(theirs)}, dense", theirs, count)
        row(shape, "dropcap, dense", dense, count, median(theirs), "PyTorch")
        row(shape, "dropcap, hard, r=16 per KV head", dropcap(*batch, *HARD, f"gates={kv_heads}"), count, median(dense), "dense")
        row(shape, "dropcap, soft, r=64 per layer", dropcap(*batch, *SOFT), count, median(dense), "dense")


def part_lora():
    say("\n### A step of LoRA, r = 16 beside every linear layer (asked: gated at most 1.2 of PyTorch + PEFT dense; 8B runs)\n\n" + HEAD)
    batch, count = ("llama-3.2-1b", 8, 2048), 8 * 2048
    theirs = pytorch(*batch, "--lora", "16")
    row(batch[0], f"PyTorch + PEFT{mode(theirs)}, dense", theirs, count)
    for name, more in [("dense", []), ("hard, r=16 per KV head", [*HARD, "gates=8"])]:
        record = dropcap(*batch, "train=lora", *more)
        row(batch[0], f"dropcap, {name}", record, count, median(theirs), "PyTorch")
    record = dropcap("llama-3-8b", 2, 4096, "train=lora", "recompute=true", *HARD, "gates=8")
    row("llama-3-8b", "dropcap, hard, checkpointed", record, 2 * 4096)


def part_memory():
    say("\n### Memory by length, one sequence, GPT-2-medium shape with 16,384 positions\n\n" + HEAD)
    for tokens in [1024, 4096, 16384]:
        for name, more in [("dense", []), ("hard, r=16 per KV head", [*HARD, "gates=16"])]:
            record = dropcap("gpt2-medium", 1, tokens, "positions=16384", *more)
            row(f"T = {tokens}", f"dropcap, {name}", record, tokens)


def main():
    parts = sys.argv[1:] or PARTS
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"no part is called {unknown[0]}: there are {', '.join(PARTS)}")
    card = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)
    say(f"{card.stdout.strip().splitlines()[0] if card.stdout else 'no card'}; commit {commit.stdout.strip() or 'unknown'}.")
    say("bf16 products, f32 masters; 3 steps of warm-up, 10 measured. Keep: of entries; of soft gates the mean of I.")
    for part in parts:
        globals()[f"part_{part}"]()


if __name__ == "__main__":
    main()
