"""GPT-2-124M shape and GGUF files on the CPU: PyTorch, llama.cpp and dropcap, one after the other, several times over.

Every contender runs in a process of its own, so that no thread pool of one spins while another is measured. The
rounds alternate between contenders, so that a change of the machine's speed meets all of them. `cpu_bench.sh`
prepares the environment and calls this.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peers import dropcap
from peers.shape import FILE_WORKLOADS, THREADS, WORKLOADS, Workload

HERE = Path(__file__).resolve().parent
# A column of the table is the best of its variants, taken for every workload apart.
COLUMNS = {
    "PyTorch f32": ["PyTorch f32 eager", "PyTorch f32 compiled", "PyTorch f32 transformers"],
    "llama.cpp f32": ["llama.cpp f32 plain", "llama.cpp f32 flash"],
    "llama.cpp f16": ["llama.cpp f16 plain", "llama.cpp f16 flash"],
    "dropcap f32": ["dropcap f32"],
    "dropcap f16": ["dropcap f16"],
}
RATIOS = [("dropcap f32", "PyTorch f32"), ("dropcap f32", "llama.cpp f32"), ("dropcap f16", "llama.cpp f16")]
# What is measured on a GGUF file; caches are f16.
FILE_COLUMNS = {
    "llama.cpp": ["llama.cpp {} plain", "llama.cpp {} flash"],
    "dropcap": ["dropcap {}"],
    "dropcap keep 0.2": ["dropcap {} keep"],
}
FILE_RATIOS = [("dropcap", "llama.cpp"), ("dropcap keep 0.2", "llama.cpp")]


def peer_command(contender, out, files):
    family, dtype, variant = contender.split()
    if family == "PyTorch":
        options = ["peers.pytorch", "--variant", variant]
    else:
        options = ["peers.llama_cpp", "--contender", contender, "--attention", variant, "--directory", str(out)]
        options += ["--dtype", "f16", "--model", files[dtype]] if dtype in files else ["--dtype", dtype]
    return [sys.executable, "-m", *options]


def run_peer(contender, out, files):
    """Yields (workload, samples) and raises after the last one if the process failed."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(THREADS),
        "MKL_NUM_THREADS": str(THREADS),
        # PyTorch asks for large pages only if told to; they help its weights as they help ours.
        "THP_MEM_ALLOC_ENABLE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(out / "inductor"),
        "HF_HUB_OFFLINE": "1",
    }
    with open(out / f"{contender.replace(' ', '_')}.log", "w") as log:
        command = peer_command(contender, out, files)
        done = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    for line in done.stdout.splitlines():
        if line.startswith('{"contender"'):
            record = json.loads(line)
            yield Workload(**record["workload"]), record["samples_ms"]
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}, see {log.name}")


def run_dropcap(contender, binary, files):
    _, dtype, *keep = contender.split()
    if dtype not in files:
        for workload in WORKLOADS:
            model = {"shape": "gpt2", "dtype": dtype, "kv-dtype": dtype}
            yield workload, dropcap.measure(binary, workload, model)
        return
    model = {"model": files[dtype], "kv-dtype": "f16"} | ({"keep": 0.2} if keep else {})
    for workload in FILE_WORKLOADS:
        # What is kept of a prompt is chosen behind it.
        if not keep or workload.kind == "decode":
            yield workload, dropcap.measure(binary, workload, model)


def collect(contenders, arguments, files):
    """All samples by (contender, workload name), and what failed."""
    samples, failures = {}, {}
    for number in range(arguments.rounds):
        for contender in contenders:
            print(f"round {number + 1} of {arguments.rounds}: {contender}", file=sys.stderr, flush=True)
            ours = contender.startswith("dropcap")
            if ours and not arguments.dropcap.exists():
                failures[contender] = f"{arguments.dropcap.name} is not built"
                continue
            try:
                if ours:
                    found = run_dropcap(contender, arguments.dropcap, files)
                else:
                    found = run_peer(contender, arguments.out, files)
                for workload, values in found:
                    samples.setdefault((contender, workload.name), []).extend(values)
            except (RuntimeError, OSError, ValueError, KeyError) as error:
                failures[contender] = str(error)
    return samples, failures


def cell(values):
    """Minimum, median and maximum, in milliseconds."""
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}" if values else "-"


def table(samples, columns, ratios, workloads):
    """The best variant of every column, and what the others take as a multiple of ours."""
    ratio_names = [f"{theirs} : {ours}" for ours, theirs in ratios]
    lines = ["| " + " | ".join(["workload", *columns, *ratio_names]) + " |", "|---" * (1 + len(columns) + len(ratios)) + "|"]
    for workload in workloads:
        best = {}
        for column, variants in columns.items():
            measured = [(v, samples[v, workload.name]) for v in variants if samples.get((v, workload.name))]
            if measured:
                best[column] = min(measured, key=lambda pair: statistics.median(pair[1]))
        row = [workload.name]
        for column, variants in columns.items():
            name, values = best.get(column, ("", []))
            row.append(cell(values) + (f" {name.split()[-1]}" if values and len(variants) > 1 else ""))
        for ours, theirs in ratios:
            both = [statistics.median(best[c][1]) for c in (theirs, ours) if c in best]
            row.append(f"{both[0] / both[1]:.2f}" if len(both) == 2 else "-")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def variants_table(samples, columns, workloads):
    lines = ["| variant | " + " | ".join(w.name for w in workloads) + " |", "|---" * (1 + len(workloads)) + "|"]
    for variant in (v for variants in columns.values() for v in variants):
        cells = [cell(samples.get((variant, w.name), [])) for w in workloads]
        lines.append("| " + " | ".join([variant, *cells]) + " |")
    return "\n".join(lines)


def output_of(*command):
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def circumstances(load):
    cpu = next((line for line in output_of("lscpu").splitlines() if line.startswith("Model name")), "unknown")
    dirty = "" if output_of("git", "status", "--porcelain", "--untracked-files=no") in ("", "unknown") else " with changes"
    packages = ", ".join(f"{name} {installed(name)}" for name in ["torch", "transformers", "llama-cpp-python", "gguf"])
    return [
        f"Machine: {cpu.split(':')[-1].strip()}, {os.cpu_count()} CPUs, Linux {platform.release()}; {THREADS} threads.",
        f"Load average before the run: {load:.2f}."
        + (" **Other work was running: these numbers are not to be published.**" if load > 0.5 else ""),
        f"Commit {output_of('git', 'rev-parse', '--short', 'HEAD')}{dirty}; {output_of('rustc', '--version')};",
        f"{packages}, Python {platform.python_version()}.",
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, help="how often every contender has its turn")
    parser.add_argument("--only", default="", help="measure only contenders whose name holds this text")
    parser.add_argument(
        "--gguf", metavar="NAME=FILE", action="append", default=[],
        help="also measure this file, such as Q4_1=model.gguf, in a table of its own; may be given several times",
    )
    parser.add_argument("--dropcap", type=Path, default=HERE.parent / "target/release/dropcap")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)

    load = os.getloadavg()[0]
    files = {}
    for given in arguments.gguf:
        name, _, path = given.partition("=")
        if not path or name in ("", "f32", "f16") or " " in name or not Path(path).is_file():
            parser.error(f"--gguf {given}: a name without spaces, not f32 or f16, then = and a file that is there")
        files[name] = str(Path(path).resolve())
    tables = {"GPT-2-124M shape, random weights": (COLUMNS, RATIOS, WORKLOADS)}
    for name, path in files.items():
        columns = {column: [v.format(name) for v in variants] for column, variants in FILE_COLUMNS.items()}
        tables[f"{Path(path).name}, cache in f16"] = (columns, FILE_RATIOS, FILE_WORKLOADS)
    contenders = [v for columns, *_ in tables.values() for vs in columns.values() for v in vs if arguments.only in v]
    samples, failures = collect(contenders, arguments, files)
    raw = [{"contender": c, "workload": w, "samples_ms": values} for (c, w), values in samples.items()]
    (arguments.out / "cpu_bench.json").write_text(json.dumps(raw) + "\n")

    print("Milliseconds per decode step or prefill: minimum / median / maximum and the fastest variant; ratios of medians.")
    print("Prefill answers with logits for the last token only.\n")
    for title, (columns, ratios, workloads) in tables.items():
        if any(v in contenders for variants in columns.values() for v in variants):
            print(f"{title}:\n")
            print(table(samples, columns, ratios, workloads), "\n")
            print(variants_table(samples, columns, workloads), "\n")
    print("\n".join(circumstances(load)))
    for contender, reason in failures.items():
        print(f"Not measured: {contender}: {reason}.")


if __name__ == "__main__":
    main()
