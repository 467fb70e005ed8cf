"""Training steps on the CPU: the paper's public code, PyTorch and dropcap, one after the other, several times over.

Every contender runs in a process of its own, and the rounds alternate between contenders, so that a change of the
machine's speed meets all of them. `train_bench.sh` prepares the environment and calls this.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from peers import train_dropcap
from peers.train_shape import ALPHA, GAMMA, HARD_WIDTH, SHAPES, SOFT_WIDTH, THREADS, Measured

HERE = Path(__file__).resolve().parent
PUBLIC_CODE = "https://github.com/sanagno/adaptively_sparse_attention"
PUBLIC_COMMIT = "c1045f1"
CONTENDERS = [
    "dropcap dense",
    "dropcap hard",
    "dropcap soft",
    "public gated",
    "public dense",
    "PyTorch dense",
]
# How long the first takes as a multiple of the second.
RATIOS = [
    ("dropcap hard", "dropcap dense"),
    ("dropcap soft", "dropcap dense"),
    ("dropcap soft", "public gated"),
    ("dropcap hard", "public gated"),
    ("dropcap dense", "public dense"),
    ("dropcap dense", "PyTorch dense"),
]


def output_of(*command, cwd=HERE):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def public_code(directory, out):
    """The directory of the public code at its commit; cloned into `out` where none is given."""
    if directory is None:
        directory = out / "adaptively_sparse_attention"
        if not directory.exists():
            subprocess.run(["git", "clone", "--quiet", PUBLIC_CODE, str(directory)], check=True)
        subprocess.run(["git", "checkout", "--quiet", PUBLIC_COMMIT], cwd=directory, check=True)
    directory = Path(directory).resolve()
    # Of the directory itself: git would otherwise answer for a repository around it.
    top, _, commit = output_of("git", "rev-parse", "--show-toplevel", "HEAD", cwd=directory).partition("\n")
    if top != str(directory) or not commit.startswith(PUBLIC_COMMIT):
        raise ValueError(f"{directory.name} is not a checkout of {PUBLIC_CODE} at {PUBLIC_COMMIT}")
    return directory


def run_peer(contender, shape, public, out):
    family, variant = contender.split()
    options = ["-m", "peers.train_pytorch"]
    if family == "public":
        options = ["-m", "peers.train_public", "--directory", str(public), "--variant", variant]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "MKL_NUM_THREADS": str(THREADS),
        # PyTorch asks for large pages only if told to.
        "THP_MEM_ALLOC_ENABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with open(out / f"train_{contender.replace(' ', '_')}.log", "w") as log:
        command = [sys.executable, *options, "--shape", shape.name]
        done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    for line in done.stdout.splitlines():
        if line.startswith('{"measured"'):
            return Measured(**json.loads(line)["measured"])
    raise RuntimeError(f"exit status {done.returncode} without a result, see {log.name}")


def collect(contenders, shapes, public, arguments):
    """All processes' results by (shape name, contender), and what failed."""
    results, failures = {}, {}
    for shape in shapes:
        for number in range(arguments.rounds):
            for contender in contenders:
                print(f"{shape.name}, round {number + 1} of {arguments.rounds}: {contender}", file=sys.stderr, flush=True)
                family, variant = contender.split()
                try:
                    if family == "dropcap":
                        measured = train_dropcap.run(arguments.dropcap, shape, variant)
                    elif family == "public" and public is None:
                        continue
                    else:
                        measured = run_peer(contender, shape, public, arguments.out)
                    results.setdefault((shape.name, contender), []).append(measured)
                except (RuntimeError, OSError, ValueError, KeyError) as error:
                    failures[contender] = str(error)
    return results, failures


def samples(measured):
    return [sample for one in measured for sample in one.samples_ms]


def median_of(measured, name, form):
    values = [value for one in measured if (value := getattr(one, name)) is not None]
    return format(statistics.median(values), form) if values else "-"


def table(shape, results):
    columns = ["step", "ms: min / median / max", "tokens/s", "cores used", "peak MiB", "at start", "parameters", "mean I", "keep", "loss"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for contender in CONTENDERS:
        measured = results.get((shape.name, contender))
        if not measured:
            continue
        times = samples(measured)
        row = [
            contender,
            f"{min(times):.0f} / {statistics.median(times):.0f} / {max(times):.0f}",
            f"{shape.sequences * shape.tokens * 1e3 / statistics.median(times):.0f}",
            median_of(measured, "cpu_share", ".0%"),
            f"{max(one.peak_mib or 0 for one in measured):.0f}",
            median_of(measured, "start_mib", ".0f"),
            median_of(measured, "parameters", ",.0f"),
            median_of(measured, "survival", ".3f"),
            median_of(measured, "keep", ".3f"),
            median_of(measured, "loss", ".3f"),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def ratios(shapes, results):
    lines = ["| time of | " + " | ".join(shape.name for shape in shapes) + " |", "|---" * (1 + len(shapes)) + "|"]
    for first, second in RATIOS:
        cells = []
        for shape in shapes:
            both = [results.get((shape.name, contender)) for contender in (first, second)]
            medians = [statistics.median(samples(one)) for one in both if one]
            cells.append(f"{medians[0] / medians[1]:.3f}" if len(medians) == 2 else "-")
        lines.append("| " + " | ".join([f"{first} : {second}", *cells]) + " |")
    return "\n".join(lines)


def circumstances(load, arguments):
    cpu = next((line for line in output_of("lscpu").splitlines() if line.startswith("Model name")), "unknown")
    dirty = "" if output_of("git", "status", "--porcelain", "--untracked-files=no") in ("", "unknown") else " with changes"
    packages = ", ".join(f"{name} {version(name)}" for name in ["torch", "transformers"])
    return [
        f"Machine: {cpu.split(':')[-1].strip()}, {os.cpu_count()} CPUs, Linux {platform.release()}; {THREADS} threads, f32.",
        f"Load average before the run: {load:.2f}."
        + (" **Other work was running: these numbers are not to be published.**" if load > 0.5 else ""),
        f"Commit {output_of('git', 'rev-parse', '--short', 'HEAD')}{dirty}; {output_of('rustc', '--version')};",
        f"{packages} (eager), Python {platform.python_version()}; public code at {PUBLIC_COMMIT}; {arguments.rounds} rounds.",
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, help="how often every contender has its turn")
    parser.add_argument("--shapes", default="8.7M,10.2M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--only", default="", help="measure only contenders whose name holds this text")
    parser.add_argument("--public-code", help=f"a checkout of {PUBLIC_CODE} at {PUBLIC_COMMIT}; cloned if not given")
    parser.add_argument("--dropcap", type=Path, default=HERE.parent / "target/release/examples/step_time")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.shapes.split(",") if name not in SHAPES]
    if unknown:
        parser.error(f"no shape is called {unknown[0]}: there are {', '.join(SHAPES)}")
    arguments.out, arguments.dropcap = arguments.out.resolve(), arguments.dropcap.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)

    contenders = [contender for contender in CONTENDERS if arguments.only in contender]
    public, without = None, {}
    if any(contender.startswith("public") for contender in contenders):
        try:
            public = public_code(arguments.public_code, arguments.out)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            without["public"] = str(error)
    load = os.getloadavg()[0]
    shapes = [SHAPES[name] for name in arguments.shapes.split(",")]
    results, failures = collect(contenders, shapes, public, arguments)
    failures |= without
    raw = [{"shape": s, "contender": c, **asdict(one)} for (s, c), all_of in results.items() for one in all_of]
    (arguments.out / "train_bench.json").write_text(json.dumps(raw) + "\n")

    print("Training steps (forward, backward, AdamW) on random weights and tokens. Soft and public gates: one per layer,")
    print(f"r = {SOFT_WIDTH}, alpha {ALPHA:g}, gamma {GAMMA:g}; hard gates: one per head, r = {HARD_WIDTH}. \"PyTorch dense\" is the model of")
    print("transformers with causal attention and fused AdamW. Cores used: processor time over wall time and threads; waiting")
    print("in a loop counts. Mean I is that of the sparsity term, in which everything above the diagonal counts 1.")
    for shape in shapes:
        size = f"{shape.layers} layers, hidden {shape.hidden}, {shape.heads} heads, vocabulary {shape.vocabulary}"
        print(f"\n{shape.name}: {size}, batch {shape.sequences} x {shape.tokens}\n\n{table(shape, results)}")
    print(f"\n{ratios(shapes, results)}\n")
    print("\n".join(circumstances(load, arguments)))
    for contender, reason in failures.items():
        print(f"Not measured: {contender}: {reason}.")


if __name__ == "__main__":
    main()
