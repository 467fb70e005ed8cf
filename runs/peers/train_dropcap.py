"""Our own training steps on the same shapes. How the binary is called and read stands here and nowhere else."""

import json
import subprocess

from peers.train_shape import ALPHA, GAMMA, HARD_BIAS, HARD_WIDTH, RECENT, SINKS, SOFT_BIAS, SOFT_WIDTH, THREADS
from peers.train_shape import Measured


def command(binary, shape, variant):
    hard = {"gates": shape.heads, "width": HARD_WIDTH, "bias": HARD_BIAS, "sinks": SINKS, "recent": RECENT}
    soft = {"gates": 1, "width": SOFT_WIDTH, "bias": SOFT_BIAS, "alpha": ALPHA, "gamma": GAMMA}
    options = {
        "method": variant,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "vocabulary": shape.vocabulary,
        "tokens": shape.tokens,
        "sequences": shape.sequences,
        "warmup": shape.warmup,
        "repeats": shape.repeats,
        "threads": THREADS,
        **{"dense": {}, "hard": hard, "soft": soft}[variant],
    }
    return [str(binary), *(f"{name}={value}" for name, value in options.items())]


def run(binary, shape, variant):
    done = subprocess.run(command(binary, shape, variant), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    record = json.loads(done.stdout)
    return Measured(**{name: record[name] for name in Measured.__dataclass_fields__})
