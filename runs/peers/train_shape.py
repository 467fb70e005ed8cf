"""What every contender trains: the shapes, the gates and how a measurement is reported."""

import json
import resource
import time
from dataclasses import asdict, dataclass, field

THREADS = 2
# Soft gates on every side: the published width and weight of the sparsity term, in the middle of the alpha schedule.
ALPHA, GAMMA, SOFT_WIDTH = 2.0, 0.3, 64
# Raw scores are about N(bias, 1), since gates are drawn N(0, 1 / hidden). This bias leaves about a fifth of I below
# the diagonal of 1024 tokens: what a training is after.
SOFT_BIAS = 2.4
# Our own recipe's hard gates: one per head, with its floors; the bias leaves about a fifth of the entries.
HARD_WIDTH, HARD_BIAS, SINKS, RECENT = 16, 1.95, 4, 16
# Next to nothing, so that all repeats prune alike.
LEARNING_RATE = 1e-9


@dataclass(frozen=True)
class Shape:
    """A GPT-2 with tied embeddings, and a batch of `sequences` x `tokens`, as many tokens as it has positions."""

    name: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    tokens: int
    sequences: int
    warmup: int
    repeats: int


SHAPES = {
    shape.name: shape
    for shape in [
        # Parameters without gates. The first is the shape of the small models that this project trains.
        Shape("8.7M", 8, 256, 4, 8192, 1024, 4, warmup=1, repeats=3),
        Shape("10.2M", 10, 256, 4, 8192, 1024, 4, warmup=1, repeats=3),
        # Only to see that everything runs.
        Shape("tiny", 2, 64, 2, 512, 128, 2, warmup=1, repeats=2),
    ]
}


@dataclass
class Measured:
    """One process's steps. Memory is the largest resident size, at its start (libraries loaded, or weights drawn)
    and in all; `survival` is the mean of I over the (T - 1) x T square, `keep` the share of live entries."""

    samples_ms: list = field(default_factory=list)
    cpu_share: float | None = None
    start_mib: float | None = None
    peak_mib: float | None = None
    parameters: int | None = None
    loss: float | None = None
    survival: float | None = None
    keep: float | None = None


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(shape, step, measured):
    """Fills in times and memory; `step()` takes one training step."""
    for _ in range(shape.warmup):
        step()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(shape.repeats):
        start = time.perf_counter()
        step()
        measured.samples_ms.append((time.perf_counter() - start) * 1e3)
    measured.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall) / THREADS
    measured.peak_mib = peak_mib()


def emit(measured):
    """One line on stdout: all that the tables are made from."""
    print(json.dumps({"measured": asdict(measured)}), flush=True)
