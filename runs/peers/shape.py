"""What every contender runs: the shape, the workloads and how samples are reported."""

import json
import os
import time
from dataclasses import asdict, dataclass

LAYERS, HIDDEN, HEADS, VOCABULARY = 12, 768, 12, 50257
# The published model stops at 1024 positions; the table longer than that changes no timing.
POSITIONS = 9216
THREADS = int(os.environ.get("BENCH_THREADS", "2"))


@dataclass(frozen=True)
class Workload:
    """`decode`: a repeat is `steps` steps of one token for each of `batch` sequences; the last of them attends
    to `length` entries. `prefill`: a repeat is `length` tokens behind the `before` that the cache has, with logits for
    the last token only. Either way one repeat gives one sample: the mean milliseconds of a step."""

    kind: str
    batch: int
    length: int
    steps: int
    repeats: int
    before: int = 0

    @property
    def name(self):
        behind = f" behind {self.before}" if self.before else ""
        return f"{self.kind} b={self.batch} length={self.length}{behind}"

    @property
    def depth(self):
        """Entries in the cache before the first step. Ending at a round length is kind to llama.cpp, which
        scores its cache in blocks of 256 entries."""
        return self.length - self.steps if self.kind == "decode" else self.before


WORKLOADS = [
    Workload("decode", 1, 1024, steps=16, repeats=5),
    Workload("decode", 8, 1024, steps=16, repeats=3),
    Workload("prefill", 1, 512, steps=1, repeats=5),
    Workload("decode", 1, 8192, steps=16, repeats=3),
]

# For models that are given as GGUF files.
FILE_WORKLOADS = [
    Workload("decode", 1, 144, steps=16, repeats=5),
    Workload("decode", 1, 4096, steps=16, repeats=3),
    Workload("prefill", 1, 512, steps=1, repeats=3),
    Workload("prefill", 1, 512, steps=1, repeats=3, before=2048),
]


def emit(contender, workload, samples_ms):
    """One line per workload on stdout: all that the table is made from."""
    print(json.dumps({"contender": contender, "workload": asdict(workload), "samples_ms": samples_ms}), flush=True)


def sample(workload, prepare, run):
    """Samples of a workload after one untimed repeat. `prepare(step)` is not timed, `run()` is; a step of -1
    stands for what has to be done before a repeat."""
    samples = []
    for _ in range(workload.repeats + 1):
        prepare(-1)
        elapsed = 0.0
        for step in range(workload.steps):
            prepare(step)
            start = time.perf_counter()
            run()
            elapsed += time.perf_counter() - start
        samples.append(elapsed * 1e3 / workload.steps)
    return samples[1:]
