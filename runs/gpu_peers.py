"""Decoding and prefill on a GPU: dropcap, PyTorch and the paper's public code, one after the other.

`gpu_bench.sh` prepares the environment and calls this. Every contender runs in a process of its own; all run on the same
card, one at a time. Prints Markdown tables; what failed is in them as what it said.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DROPCAP = str((HERE.parent / os.environ["DROPCAP"]).resolve())
PUBLIC_CODE = "https://github.com/sanagno/adaptively_sparse_attention"
PUBLIC_COMMIT = "c1045f1"
PARTS = ["decode", "bandwidth", "blocks", "pruned", "batch", "public", "prefill", "start"]
LLAMA_8B_KV = 32 * 8 * 128 * 2 * 2  # bytes of an entry, all layers, bf16
REPEATS = os.environ.get("REPEATS", "3")
PROMPT_CHUNK = os.environ.get("CHUNK", "2048")


def say(*words):
    print(*words, flush=True)


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"


def dropcap(*arguments, dtype="bf16"):
    """The rows of `dropcap bench`, or a text that says why there are none."""
    command = [DROPCAP, "bench", "--device", "cuda:0", "--dtype", dtype, "--kv-dtype", "bf16", "--json", "-r", REPEATS]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode:
        return last_line(done.stderr)
    answer = json.loads(done.stdout)
    for row in answer["rows"]:
        row["machine"] = answer["machine"]
    return answer["rows"]


def decode(shape, depth, batches, *more, dtype="bf16"):
    return dropcap("--shape", shape, "-p", "0", "-n", "32", "-d", str(depth), "-b", batches, *more, dtype=dtype)


def peer(module, *arguments):
    command = [sys.executable, "-m", f"peers.{module}", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        return last_line(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def gb(number):
    return f"{number / 1e9:.2f}"


def part_decode():
    say("\n### Dense decode, GPT-2-medium shape, bf16, 1024 entries\n")
    ours = decode("gpt2-medium", 990, "1,16,64")
    theirs = peer("gpu_pytorch", "--shape", "gpt2-medium", "--decode", "1024", "--batches", "1,16,64")
    if isinstance(ours, str) or isinstance(theirs, str):
        return say(f"dropcap: {ours}\nPyTorch: {theirs}")
    say(f"PyTorch {theirs['torch']}: CUDA graph, static cache.\n")
    say("| batch | dropcap ms | PyTorch ms | ratio | asked | of read bandwidth |\n|--:|--:|--:|--:|--:|--:|")
    asked = {1: 2.8, 16: 1.6, 64: 1.25}
    for row in ours:
        other = theirs["decode"][str(row["batch"])]
        mine = row["best_milliseconds"]
        say(f"| {row['batch']} | {mine:.3f} | {other:.3f} | {other / mine:.2f} | {asked[row['batch']]} | {row['bandwidth_share']:.0%} |")


def bandwidth_rows(rows):
    for row in rows:
        say(
            f"| {row['model']} | {row['method']} | {row['depth']} | {row['batch']} | {row['best_milliseconds']:.3f} "
            f"| {row['tokens_per_second']:.0f} | {gb(row['bytes_per_step'])} | {row['bandwidth_share']:.0%} "
            f"| {gb(row['held_bytes'])} |"
        )


HEAD = "| shape | method | entries | batch | ms | tok/s | GB read | of read bandwidth | GB of KV pages |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"


def part_bandwidth():
    say("\n### Dense decode against the read bandwidth (asked: 80 %; 8B, 32768, 8: 92 %)\n\n" + HEAD)
    for shape in ["llama-1b", "llama-8b"]:
        for depth, batches in [(4096, "1,8"), (32768, "1,8")]:
            rows = decode(shape, depth, batches)
            bandwidth_rows(rows) if not isinstance(rows, str) else say(f"| {shape} | {rows} |")


def part_blocks():
    say("\n### Llama-3-8B shape, 4096 entries, by the format of the weights (asked: 4 bits 2.6x bf16 at batch 1)\n")
    say("| weights | batch | ms | times faster | of read bandwidth |\n|---|--:|--:|--:|--:|")
    plain = {}
    for dtype in ["bf16", "q8", "q4"]:
        rows = decode("llama-8b", 4096, "1,8", dtype=dtype)
        if isinstance(rows, str):
            say(f"| {dtype} | {rows} |")
            continue
        for row in rows:
            mine = row["best_milliseconds"]
            times = plain.setdefault(row["batch"], mine) / mine
            say(f"| {dtype} | {row['batch']} | {mine:.3f} | {times:.2f} | {row['bandwidth_share']:.0%} |")


def part_pruned():
    say("\n### Pruned decode at keep 0.2, votes included (asked: 70 %; 82 and 88 %)\n\n" + HEAD)
    for shape, depth, batches in [("gpt2-medium", 4096, "64"), ("llama-8b", 32768, "8,32")]:
        rows = decode(shape, depth, batches, "--method", "simulate(keep=0.2)")
        bandwidth_rows(rows) if not isinstance(rows, str) else say(f"| {shape} | {rows} |")
    say("\nPages of a dense cache: GPT-2-medium 4128 x 64 entries "
        f"{gb(4128 * 64 * 24 * 4096)} GB; Llama-3-8B 32800 entries {gb(32800 * LLAMA_8B_KV)} GB a sequence.")


def part_batch():
    say("\n### Largest batch, Llama-3-8B shape, 32768 entries (asked: 4x, and 4x the tokens/s; 88 %)\n\n" + HEAD)
    free = int(subprocess.check_output(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"], text=True).split()[0]) << 20
    largest = {}
    for method, share in [("none", 1.0), ("simulate(keep=0.2)", 0.208)]:
        batch = int((free - 17.5e9) * 0.9 / (LLAMA_8B_KV * 32832 * share))
        while batch > 0:
            rows = decode("llama-8b", 32768, str(batch), "--method", method)
            if not isinstance(rows, str):
                bandwidth_rows(rows)
                largest[method] = rows[0]
                break
            say(f"| llama-8b | {method} | 32768 | {batch} | {rows} |")
            batch -= max(1, batch // 25)
    if len(largest) == 2:
        dense, pruned = largest.values()
        say(f"\nbatch {pruned['batch'] / dense['batch']:.2f}x, "
            f"tokens/s {pruned['tokens_per_second'] / dense['tokens_per_second']:.2f}x")


def part_public():
    say("\n### The paper's public code, GPT-2-small shape, 1000 tokens, a fifth of them kept (asked: 10x)\n")
    directory = Path(os.environ.get("PUBLIC", HERE / "out" / "adaptively_sparse_attention")).resolve()
    if not directory.exists():
        subprocess.run(["git", "clone", "--quiet", PUBLIC_CODE, str(directory)], check=True)
        subprocess.run(["git", "checkout", "--quiet", PUBLIC_COMMIT], cwd=directory, check=True)
    say("| batch | dropcap tok/s | public code tok/s | ratio |\n|--:|--:|--:|--:|")
    for batch in [1, 16, 64]:
        ours = decode("gpt2", 1000, str(batch), "--method", "simulate(keep=0.2)")
        best = 0.0
        for dtype in ["float32", "bfloat16"]:
            theirs = peer("gpu_public", "--directory", str(directory), "--batch", str(batch), "--dtype", dtype)
            if isinstance(theirs, str):
                say(f"{dtype}: {theirs}")
            else:
                best = max(best, batch * 1e3 / theirs["milliseconds"])
        mine = 0.0 if isinstance(ours, str) else ours[0]["tokens_per_second"]
        say(f"| {batch} | {mine:.0f} | {best:.0f} | {mine / best if best else 0:.1f} |")


def part_prefill():
    say("\n### Prefill, Llama-3.2-1B shape, bf16 (asked at 32768: 0.83 of PyTorch's time, keep 0.2 0.42)\n")
    ours = dropcap("--shape", "llama-1b", "-p", "8192,32768", "-n", "0", "--chunk", PROMPT_CHUNK,
                   "--method", "none", "--keep", "0.2")
    if isinstance(ours, str):
        return say(ours)
    say("| tokens | method | dropcap ms | PyTorch ms (flash) | of PyTorch's time |\n|--:|---|--:|--:|--:|")
    times = {}
    for row in ours:
        tokens = int(row["test"][2:])
        if tokens not in times:
            other = peer("gpu_pytorch", "--shape", "llama-1b", "--prefill", str(tokens))
            times[tokens] = other["prefill"] if isinstance(other, dict) else last_line(other)
        time, mine = times[tokens], row["best_milliseconds"]
        shown = f"{time} | -" if isinstance(time, str) else f"{time:.1f} | {mine / time:.2f}"
        say(f"| {tokens} | {row['method']} | {mine:.1f} | {shown} |")


def part_start():
    say("\n### Start-up (asked: under 1 s with a warm kernel cache)\n")
    times = []
    for _ in range(4):
        start = time.perf_counter()
        command = [DROPCAP, "generate", "--device", "cuda:0", "--dtype", "bf16", "--kv-dtype", "bf16", "-n", "1", "Once upon a time"]
        done = subprocess.run(command, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        if done.returncode:
            return say(last_line(done.stderr))
    say(f"`dropcap generate -n 1` with the carried model: first {times[0]:.2f} s, then "
        + ", ".join(f"{seconds:.2f} s" for seconds in times[1:]))


def main():
    say(subprocess.check_output(["nvidia-smi", "-L"], text=True).split(" (UUID")[0])
    probe = dropcap("--shape", "gpt2", "-p", "0", "-n", "1", "-d", "64")
    if isinstance(probe, str):
        sys.exit(probe)
    say(f"plain read {probe[0]['machine']['read_bytes_per_second'] / 1e12:.3f} TB/s, commit {probe[0]['machine']['commit']}")
    for part in sys.argv[1:] or PARTS:
        start = time.perf_counter()
        globals()[f"part_{part}"]()
        say(f"\n({part}: {time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
