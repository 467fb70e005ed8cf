#!/usr/bin/env python3
"""Whether the function that a question describes survives `dropcap compress`:
    runs/compress_needles.py MODEL [DEVICE] [QUESTIONS]
Each question of compress_needles.jsonl is asked about its file and others of this repository, 40,000 bytes together. A function
survives where its first line and half of its bytes are kept. With a number of QUESTIONS only so many are asked, spread over all. `random` keeps lines at random up to the same share.
On `cuda:N` four texts are read side by side, which the seconds of each then include.
DROPCAP names the binary (default: target/release/dropcap). Prints a Markdown table."""
import json, os, random, re, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DROPCAP = os.environ.get("DROPCAP", str(ROOT / "target/release/dropcap"))
BYTES, SHARES = 40_000, {"4x": 0.25, "6x": 1 / 6}


def code(path):
    """A file without its tests, which would name what is asked for."""
    return (ROOT / path).read_text().split("#[cfg(test)]")[0]


def haystack(needle, seed):
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("crates/*/src/**/*.rs") if "tests" not in path.name)
    rng = random.Random(seed)
    rng.shuffle(files)
    chosen, size = [needle["file"]], len(code(needle["file"]))
    for path in files:
        if path != needle["file"] and size + len(code(path)) <= BYTES:
            chosen.append(path)
            size += len(code(path))
    rng.shuffle(chosen)
    text, start = "", 0
    for path in chosen:
        if path == needle["file"]:
            start = len(text.encode())
        text += code(path) + "\n"
    own = code(needle["file"])
    head = re.search(rf"^( *)[a-z() ]*fn {needle['function']}\b.*$", own, re.M)
    end = re.compile(rf"^{head[1]}}}$", re.M).search(own, head.start()).end()
    at = lambda place: start + len(own[:place].encode())
    return text, (at(head.start()), at(head.end()), at(end))


def survives(spans, place):
    first, line, end = place
    kept = lambda a, b: sum(max(0, min(b, span["end"]) - max(a, span["start"])) for span in spans)
    return kept(first, line) == line - first and kept(first, end) * 2 >= end - first


def at_random(text, share, seed):
    rng, data, spans, at = random.Random(seed), text.encode(), [], 0
    for line in data.splitlines(keepends=True):
        spans.append({"start": at, "end": at + len(line)})
        at += len(line)
    rng.shuffle(spans)
    left, kept = share * len(data), []
    for span in spans:
        if span["end"] - span["start"] <= left:
            left -= span["end"] - span["start"]
            kept.append(span)
    return kept


def compress(text, question, share, method, model, device):
    with tempfile.NamedTemporaryFile("w", suffix=".rs") as file:
        file.write(text)
        file.flush()
        command = [DROPCAP, "compress", file.name, "--model", model, "--device", device, "--budget", f"{share:.6f}", "--json"]
        # Plain perplexity does not know the question.
        command += ["--method", method] + (["-i", question] if method == "longcodezip" else [])
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main():
    model, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "auto"
    needles = [json.loads(line) for line in (ROOT / "runs/compress_needles.jsonl").read_text().splitlines()]
    asked = int(sys.argv[3]) if len(sys.argv) > 3 else len(needles)
    numbered = [(seed, needle) for seed, needle in enumerate(needles) if seed * asked % len(needles) < asked]
    print("| method | compression | survive | tokens kept | s per text |\n|---|---|---|---|---|")
    for name, share in SHARES.items():
        for method in ("longcodezip", "perplexity", "random"):

            def one(numbered):
                seed, needle = numbered
                text, place = haystack(needle, seed)
                if method == "random":
                    return survives(at_random(text, share, seed), place), share, 0.0
                result = compress(text, needle["question"], share, method, model, device)
                return survives(result["spans"], place), result["share"], result["seconds"]

            with ThreadPoolExecutor(4 if device.startswith("cuda") else 1) as pool:
                found, kept, seconds = map(sum, zip(*pool.map(one, numbered)))
            n = len(numbered)
            print(f"| {method} | {name} | {found} of {n} | {100 * kept / n:.1f} % | {seconds / n:.1f} |", flush=True)


main()
