#!/usr/bin/env python3
"""What choosing among examples finds of noise that was planted, and what the model learns from the rest:
    runs/choose_examples.py MODEL OUT [DEVICE] [STEPS]
2,000 questions of six kinds with their answers, and 500 whose answers are those of other questions, in a file of their own. LoRA
factors learn from all of it, from a random quarter, from a coreset of a quarter and by Q-Tuning at a quarter, each for equal steps
and three seeds, and are measured on 400 other questions. Interrupted, the same command goes on. Prints a Markdown table: of
each file the share that was learned from, the share of the noise that was left out, held-out perplexity, seconds of a step and of the choice in it.
DROPCAP names the binary (default: target/release/dropcap)."""
import json, os, random, re, subprocess, sys
from pathlib import Path

DROPCAP = os.environ.get("DROPCAP", str(Path(__file__).resolve().parent.parent / "target/release/dropcap"))
WORDS = "river stone apple window garden silver night table forest candle mirror paper ocean winter bridge cloud honey marble".split()
CHOICES = {
    "all": None,
    "random quarter": "random(share=0.25)",
    "coreset, a quarter": "coreset(share=0.25, strata=20)",
    "q_tuning, a quarter": "q_tuning(sample=0.25, token=0.5)",
}
SEEDS = (1, 2, 3)


def question(rng):
    words = rng.sample(WORDS, rng.randint(3, 6))
    a, b = rng.randint(2, 60), rng.randint(2, 30)
    listed = " ".join(words)
    return rng.choice(
        [
            (f"Write these words in reverse order: {listed}", " ".join(reversed(words))),
            (f"Sort these words by the alphabet: {listed}", " ".join(sorted(words))),
            (f"Which of these words is the longest? {listed}", max(words, key=len)),
            (f"How many words are these? {listed}", f"There are {len(words)} words."),
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"Write in capital letters: {listed}", listed.upper()),
        ]
    )


def write(path, pairs):
    lines = [json.dumps({"prompt": f"Question: {q}\nAnswer:", "completion": " " + a}) for q, a in pairs]
    path.write_text("\n".join(lines) + "\n")


def data(out):
    rng = random.Random(7)
    made, seen = [], set()
    while len(made) < 2900:
        one = question(rng)
        if one[0] not in seen:
            seen.add(one[0])
            made.append(one)
    clean, planted, held = made[:2000], made[2000:2500], made[2500:]
    answers = [a for _, a in planted]
    # Every answer is that of another question.
    shifted = answers[137:] + answers[:137]
    write(out / "clean.jsonl", clean)
    write(out / "noise.jsonl", [(q, a) for (q, _), a in zip(planted, shifted)])
    write(out / "held.jsonl", held)


def run(model, out, device, steps, seed, choice):
    name = f"{choice.split(',')[0].replace(' ', '-')}-{seed}"
    config = {
        "model": model,
        "data": {"train": [str(out / "clean.jsonl"), str(out / "noise.jsonl")], "valid": [str(out / "held.jsonl")], "cache": str(out / "cache")},
        "output": str(out / name), "seed": seed, "steps": steps, "train": "lora", "method": "none", "lora": {"rank": 8, "alpha": 16},
        "batch": {"sequences": 8, "micro_sequences": 4, "tokens": 256}, "evaluate": {"every": max(steps // 4, 1), "windows": 24}, "device": device,
    }
    if CHOICES[choice]:
        config["data"]["select"] = CHOICES[choice]
    path = out / f"{name}.yaml"
    if "coreset" in choice:
        config["data"]["scores"] = str(out / "scores.jsonl")
    path.write_text(json.dumps(config))
    if "coreset" in choice and not (out / "scores.jsonl").exists():
        subprocess.run([DROPCAP, "data", "score", "--config", str(path), "--output", str(out / "scores.jsonl")], check=True)
    found = json.loads(subprocess.run([DROPCAP, "train", "--config", str(path), "--json"], check=True, stdout=subprocess.PIPE).stdout)
    card = (out / name / "adapter" / "README.md").read_text()
    shares = {}
    for file in ("clean.jsonl", "noise.jsonl"):
        match = re.search(rf"([0-9.]+) % of (?:the examples of )?{re.escape(file)}", card)
        shares[file] = float(match[1]) if match else 100.0
    lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
    steps_taken = [line for line in lines if line["kind"] == "train"]
    seconds = sum(8 * 256 / line["tokens_per_second"] for line in steps_taken) / len(steps_taken)
    choosing = steps_taken[-1].get("choosing_seconds", 0.0) / len(steps_taken)
    return shares, found["perplexity"], seconds, choosing


def main():
    model, out = sys.argv[1], Path(sys.argv[2]).resolve()
    device = sys.argv[3] if len(sys.argv) > 3 else "auto"
    steps = int(sys.argv[4]) if len(sys.argv) > 4 else 120
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "held.jsonl").exists():
        data(out)
    print("| choice | seed | clean learned | noise learned | noise left out | held-out perplexity | s a step | of it choosing |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for choice in CHOICES:
        for seed in SEEDS:
            shares, perplexity, seconds, choosing = run(model, out, device, steps, seed, choice)
            clean, noise = shares["clean.jsonl"], shares["noise.jsonl"]
            print(f"| {choice} | {seed} | {clean:.1f} % | {noise:.1f} % | {100 - noise:.1f} % | {perplexity:.3f} | {seconds:.2f} | {choosing:.2f} |", flush=True)


if __name__ == "__main__":
    main()
