"""Servers under load, one after the other or in turns, and what their numbers say. serve_bench.sh describes its environment."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

DROPCAP, LOAD = os.environ["DROPCAP"], os.environ["LOAD"]
PORT = 18090


def setting(name, default):
    return type(default)(os.environ.get(name) or default)


class Server:
    """A server that runs inside a `with`."""

    def __init__(self, *command):
        self.command = [str(part) for part in command]

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health")
                return self
            except OSError:
                if self.process.poll() is not None:
                    self.log.seek(0)
                    sys.exit(f"{' '.join(self.command)}\n{self.log.read()}")
                time.sleep(0.1)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def dropcap(*arguments):
    flags = ["--port", PORT, "--served-name", "default", "--prefix-cache", 0, "--no-access-log"]
    return Server(DROPCAP, "serve", *flags, *arguments)


def load(name, **arguments):
    """The numbers of one run, printed under a name."""
    words = [f"{key}={value}" for key, value in arguments.items()]
    done = subprocess.run([LOAD, f"address=127.0.0.1:{PORT}", *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    print(f"{name}: {done.stdout.strip()}", flush=True)
    numbers = json.loads(done.stdout)
    if numbers["errors"]:
        sys.exit(f"{name}: {numbers['errors']} requests failed: {numbers['first_error']}")
    return numbers


def cpu():
    threads, clients = setting("THREADS", os.cpu_count()), setting("CLIENTS", 8)
    asked = {"requests": setting("REQUESTS", 64), "words": setting("WORDS", 200), "max_tokens": setting("TOKENS", 64)}
    model, gguf, rate = os.environ.get("MODEL"), os.environ.get("GGUF"), os.environ.get("RATE")
    ours = ["--device", "cpu", "--dtype", "f16", "--kv-dtype", "f16", "--method", "none", "--threads", threads,
            "--max-batch", clients, *(["--model", model] if model else [])]
    servers = {"dropcap": lambda: dropcap(*ours)}
    if gguf:
        # Nothing is kept of texts that are over, as with --prefix-cache 0.
        theirs = ["--model", gguf, "--alias", "default", "--threads", threads, "--parallel", clients, "--cont-batching",
                  "--port", PORT, "--ctx-size", clients * 1024, "--no-webui", "--cache-ram", 0, "--no-cache-prompt"]
        servers["llama.cpp"] = lambda: Server(os.environ["LLAMA"], *theirs)
    runs = {}
    for turn in range(setting("ROUNDS", 3)):
        # Whoever goes first meets another machine than whoever goes last.
        for name in sorted(servers, reverse=turn % 2 == 1):
            with servers[name]():
                runs.setdefault((name, "closed"), []).append(load(name, clients=clients, **asked))
                if rate:
                    runs.setdefault((name, "open"), []).append(load(name, rate=rate, **asked))
    for (name, loop), numbers in runs.items():
        print(f"{name}, {loop} loop, median of {len(numbers)}: {medians(numbers)}")
    for loop in ("closed", "open"):
        ours, theirs = (runs.get((name, loop), []) for name in ("dropcap", "llama.cpp"))
        turns = list(zip(ours, theirs))
        if turns:
            ratios = [our["tokens_per_second"] / their["tokens_per_second"] for our, their in turns]
            first = [our["ttft_ms"]["p99"] / their["ttft_ms"]["p99"] for our, their in turns]
            print(f"{loop} loop: tokens/s {median(ratios):.2f} times llama.cpp's ({min(ratios):.2f} to {max(ratios):.2f} "
                  f"in {len(turns)} turns), p99 TTFT {median(first):.2f} times")


def crowd():
    """Ever more clients with long prompts in a cache for few of them: each is answered, and how long it waits is said."""
    cache = ["--kv-limit", setting("CAP", "16MiB"), "--max-batch", 256]
    with dropcap("--device", "cpu", "--threads", setting("THREADS", os.cpu_count()), *cache):
        for clients in (1, 8, 64, 256):
            asked = {"ids": setting("CONTEXT", 700), "max_tokens": setting("TOKENS", 16)}
            load(f"{clients} clients", clients=clients, requests=max(clients, 16), seed=clients, **asked)


def medians(numbers):
    found = {"tokens_per_second": median(one["tokens_per_second"] for one in numbers)}
    for which in ("ttft_ms", "tpot_ms"):
        found[which] = {share: median(one[which][share] for one in numbers) for share in ("p50", "p90", "p99")}
    return json.dumps(found)


def gpu():
    # A prompt and what is generated after it are 32,768 tokens.
    context, most = setting("CONTEXT", 28672), setting("CLIENTS", 96)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "llama-1b"
        subprocess.run([sys.executable, "serve/random_model.py", model], check=True)
        bf16 = ["--model", model, "--device", "cuda", "--dtype", "bf16", "--kv-dtype", "bf16"]
        capped = {}
        for method in ("none", "simulate(keep=0.2)"):
            # 16 GiB with weights and activations.
            with dropcap(*bf16, "--method", method, "--kv-limit", setting("CAP", "13GiB"), "--max-batch", 128,
                         "--chunk", setting("CHUNK", 2048)):
                name = f"{method}, contexts of {context}"
                asked = {"clients": most, "requests": setting("REQUESTS", most), "ids": context}
                capped[method] = load(name, max_tokens=setting("TOKENS", 4096), **asked)
                print(f"{name}: {memory()} of the card in use; {time.monotonic() - started:.0f} s so far", flush=True)
        with dropcap(*bf16, "--method", "none", "--max-batch", 64):
            # One wave: its steady part is decoding alone, as in the table beside it.
            asked = {"clients": 64, "requests": 64, "ids": 512, "max_tokens": 256}
            served = [load("HTTP, b=64", seed=seed, **asked)["steady_tokens_per_second"] for seed in range(3)]
        command = ["bench", "--shape", "llama-1b", "--device", "cuda", "--dtype", "bf16", "--kv-dtype", "bf16"]
        command += ["-p", "0", "-n", "256", "-d", "512", "-b", "64", "--repeats", "3", "--json"]
        table = subprocess.run([DROPCAP, *command], check=True, capture_output=True, text=True).stdout
    row = json.loads(table)["rows"][0]
    print(f"bench, b=64: {json.dumps(row)}")
    dense, pruned = capped["none"], capped["simulate(keep=0.2)"]
    for key, asked in [("most_running", 4), ("tokens_per_second", 3), ("best_tokens_per_second", 3)]:
        print(f"{key}: {dense[key]} dense, {pruned[key]} with a fifth kept: {pruned[key] / dense[key]:.2f} times "
              f"(asked: {asked})")
    bench = row["tokens_per_second"]
    print(f"HTTP, b=64: {median(served):.0f} tokens/s of {bench:.0f} in `bench`: {100 * (1 - median(served) / bench):.1f} % "
          f"less (asked: 3); {time.monotonic() - started:.0f} s in all")


def memory():
    """What the driver says is in use, if it says so."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip().splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "an unknown part"


if __name__ == "__main__":
    {"cpu": cpu, "crowd": crowd, "gpu": gpu}[sys.argv[1]]()
