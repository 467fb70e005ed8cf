"""Our own binary on the same workloads. How it is called and read stands here and nowhere else."""

import json
import subprocess

from peers.shape import THREADS


def command(binary, workload, model):
    """`model` is what says which one: options of the binary."""
    decode = workload.kind == "decode"
    options = {
        **model,
        "prompt-lengths": 0 if decode else workload.length,
        "generation-lengths": workload.steps if decode else 0,
        "depths": workload.depth,
        "batch-sizes": workload.batch,
        "repeats": workload.repeats,
        # As much of a prompt at once as the peers get.
        "chunk": 512,
        "threads": THREADS,
        "output-format": "json",
    }
    return [str(binary), "bench", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]


def samples_ms(output, workload, kept):
    """Milliseconds per step of every repeat (`milliseconds`), or where the rows give no single repeats the mean
    of all of them as one sample; of the dense cache, or of the pruned one where `kept`."""
    test = f"tg{workload.steps}" if workload.kind == "decode" else f"pp{workload.length}"
    tokens = workload.batch * (1 if workload.kind == "decode" else workload.length)
    samples = []
    for row in json.loads(output)["rows"]:
        if row["test"] == test and (row["method"] != "none") == kept:
            samples += row.get("milliseconds") or [tokens * 1e3 / row["tokens_per_second"]]
    if not samples:
        raise ValueError(f"no {test} row in the answer")
    return samples


def measure(binary, workload, model):
    done = subprocess.run(command(binary, workload, model), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    return samples_ms(done.stdout, workload, "keep" in model)
