"""Training with one GPU and with two: speed, losses, and a process that is killed. `two_gpus.sh` calls this."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DROPCAP, STEP_TIME, OUT = os.environ["DROPCAP"], os.environ["STEP_TIME"], Path(os.environ["OUT"]).resolve()
PARTS = ["speed", "losses", "lost"]
LIMIT = 240
STEPS = 100
# Gradients are added up in another order, and products of bf16 round by other batches: two trainings drift apart slowly.
TOLERANCE = 0.02


def say(*words):
    print(*words, flush=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def timed(processes, *arguments):
    """The record of a step with that many processes, started as torchrun starts them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            [STEP_TIME, "device=auto", "warmup=3", "repeats=10", *arguments],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]
    try:
        ended = [one.communicate(timeout=LIMIT) for one in started]
    finally:
        for one in started:
            one.kill()
    for one, (_, said) in zip(started, ended):
        if said.strip():
            say(said.strip()[-300:])
        if one.returncode:
            raise RuntimeError(f"exit status {one.returncode}")
    return json.loads(ended[0][0])


def part_speed():
    say("\n### Speed: the same global batch on one card and on two (asked: 1.85x, LoRA 1.9x)\n")
    say("| shape | batch | one card, ms | half the batch on one, ms | two cards, ms | times faster | tokens/s | sum alone, ms | bus, GB/s |")
    say("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for shape, sequences, tokens, more in [
        ("gpt2-medium", 16, 1024, []),
        ("llama-3.2-1b", 16, 2048, ["train=lora"]),
    ]:
        try:
            batch = [f"shape={shape}", f"tokens={tokens}", *more]
            whole = timed(1, *batch, f"sequences={sequences}")
            half = timed(1, *batch, f"sequences={sequences // 2}")
            both = timed(2, *batch, f"sequences={sequences // 2}")
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            say(f"| {shape} | {sequences} x {tokens} | {error} |")
            continue
        one, part, two = (record["milliseconds"]["median"] for record in (whole, half, both))
        alone = both["sum_ms"]
        # Of n processes a number crosses each link 2 (n - 1) / n times: once, of two.
        bus = f"{4 * both['trained'] / alone / 1e6:.0f}" if alone else "no NCCL"
        say(f"| {shape} {' '.join(more)} | {sequences} x {tokens} | {one:.1f} | {part:.1f} | {two:.1f} | {one / two:.2f} "
            f"| {both['tokens_per_second']:,.0f} | {alone or 0:.2f} | {bus} |")


def text():
    """Words from a small grammar, so that there is something to learn and nothing to download."""
    path = OUT / "text.txt"
    if not path.exists():
        draw = random.Random(1)
        words = ["".join(draw.choice("aeioubdgklmnprstvz") for _ in range(draw.randint(2, 7))) for _ in range(400)]
        follow = {word: [draw.choice(words) for _ in range(4)] for word in words}
        with open(path, "w") as file:
            for _ in range(6000):
                word = draw.choice(words)
                for _ in range(draw.randint(40, 200)):
                    file.write(word + " ")
                    word = draw.choice(follow[word])
                file.write("\n<|endoftext|>\n")
        run([DROPCAP, "tokenizer", "train", str(path), "-v", "2048", "-o", str(OUT / "tokenizer.json")])
    return path


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip())[-400:])


def configuration(name, start, *lines):
    path = OUT / f"{name}.yaml"
    train = text()
    path.write_text("\n".join([
        start, f"data: {{train: [{train}], cache: {OUT / 'cache'}}}", f"output: {OUT / name}", f"steps: {STEPS}",
        "batch: {sequences: 32, micro_sequences: 8, tokens: 256}", "device: auto", *lines,
    ]) + "\n")
    return path


SCRATCH = "init: {family: llama, layers: 6, hidden: 384, heads: 6, kv_heads: 2, context: 256}\ntokenizer: " + str(OUT / "tokenizer.json")


def losses(run):
    lines = (json.loads(line) for line in (OUT / run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def part_losses():
    say(f"\n### Losses of {STEPS} steps at the same global batch, one card and two (at most {TOLERANCE:.0%} apart)\n")
    say("| training | first loss | last loss | largest difference | mean difference | |\n|---|--:|--:|--:|--:|---|")
    held = f"model: {OUT / 'dense-1' / 'model'}"
    for name, start, lines in [
        ("dense", SCRATCH, ["method: none"]),
        ("hard", SCRATCH, ["sparsity: {target_keep: 0.5}"]),
        ("lora", held, ["train: lora", "sparsity: {target_keep: 0.5}"]),
    ]:
        try:
            for cards in (1, 2):
                config = configuration(f"{name}-{cards}", start, *lines)
                more = ["--gpus", "2"] if cards == 2 else []
                run([DROPCAP, "train", "--config", str(config), *more])
            one, two = losses(f"{name}-1"), losses(f"{name}-2")
            apart = [abs(a / b - 1) for a, b in zip(one, two)]
            verdict = "within" if len(one) == len(two) == STEPS and max(apart) <= TOLERANCE else "NOT within"
            say(f"| {name} | {one[0]:.4f} | {one[-1]:.4f} | {max(apart):.2%} | {sum(apart) / len(apart):.3%} | {verdict} |")
        except (RuntimeError, subprocess.TimeoutExpired, OSError, ValueError) as error:
            say(f"| {name} | {error} |")


def children(process):
    listed = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def rank_of(process):
    words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((word.split(b"=")[1].decode() for word in words if word.startswith(b"RANK=")), "")


def part_lost():
    say("\n### A process is killed with -9 (asked: the others end within 30 s), and the run goes on\n")
    more = ["checkpoint: {every: 20}"]
    config = configuration("lost", SCRATCH, "method: none", *more)
    command = [DROPCAP, "train", "--config", str(config), "steps=100000"]
    for victim in ("1", "0"):
        job = subprocess.Popen([*command, "--gpus", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        log, begun = OUT / "lost" / "metrics.jsonl", time.time()
        before = len(losses("lost")) if log.exists() else 0
        while time.time() - begun < LIMIT and job.poll() is None:
            time.sleep(0.2)
            if log.exists() and len(losses("lost")) > before + 60:
                break
        killed = [child for child in children(job.pid) if rank_of(child) == victim]
        for child in killed:
            os.kill(child, signal.SIGKILL)
        moment = time.time()
        try:
            said = job.communicate(timeout=90)[1]
            ended = f"{time.time() - moment:.1f} s later, exit status {job.returncode}"
        except subprocess.TimeoutExpired:
            job.kill()
            said, ended = "", "NOT within 90 s"
        say(f"process {victim} killed ({len(killed)} found): the job ended {ended}")
        for line in [line for line in said.splitlines() if "lost" in line or "killed" in line or "rror" in line][-3:]:
            say(f"    {line.strip()[-200:]}")
    for cards in ("1", "2"):
        steps = len(losses("lost")) + 40
        goes = [] if cards == "1" else ["--gpus", "2"]
        resume_for(command, goes, steps, cards)


def resume_for(command, goes, steps, cards):
    """Goes on from the saved state until some more steps are there, and then stops as a person would."""
    job = subprocess.Popen([*command, *goes], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    begun = time.time()
    while time.time() - begun < LIMIT and job.poll() is None and len(losses("lost")) < steps:
        time.sleep(0.2)
    if job.poll() is None:
        job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[1]
    told = next((line.strip() for line in said.splitlines() if "going on from step" in line), said.strip()[-300:])
    say(f"resumed with {cards}: {told}; {len(losses('lost'))} steps now, last loss {losses('lost')[-1]:.4f}")


def main():
    parts = sys.argv[1:] or PARTS
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"no part is called {unknown[0]}: there are {', '.join(PARTS)}")
    for part in parts:
        try:
            globals()[f"part_{part}"]()
        except (RuntimeError, subprocess.TimeoutExpired, OSError, IndexError) as error:
            say(f"{part}: {error}")


if __name__ == "__main__":
    main()
