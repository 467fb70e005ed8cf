"""Two directories of `dropcap eval` over the same examples, such as of a processor and of a GPU, example by example.

    python runs/eval_compare.py A B

For every task and method that both have: examples in common, the loss of each (nats per token of a text, nats per example
of a task), the largest difference of an example, and how many are judged otherwise (the choice taken; answers right).
Needs nothing but Python.
"""

import json
import sys
from pathlib import Path


def load(folder):
    log = {}
    for row in open(Path(folder) / "examples.jsonl"):
        record = json.loads(row)
        log.setdefault((record["task"], record["method"]), {})[record["example"]] = record["outcome"]
    return log


def judged(outcome):
    """What an example is counted as, and its nats and their number."""
    if "window" in outcome:
        nats = outcome["window"]["nats"]
        return None, sum(nats), len(nats)
    if "likelihood" in outcome:
        values = outcome["likelihood"]["log_likelihood"]
        if len(values) == 1:
            return outcome["likelihood"]["greedy"][0], -values[0], 1
        return max(range(len(values)), key=lambda i: values[i]), -sum(values), 1
    if "answers" in outcome:
        return [turn["share"] for turn in outcome["answers"]["turns"]], 0.0, 1
    return next(iter(outcome)), 0.0, 0


def main(a, b):
    a, b = load(a), load(b)
    print("| task | method | examples | loss of A | loss of B | largest difference in nats | judged otherwise |")
    print("|---|---|---|---|---|---|---|")
    for key in (key for key in a if key in b):
        both = [(judged(a[key][n]), judged(b[key][n])) for n in sorted(a[key]) if n in b[key]]
        if not both:
            continue
        loss = lambda side: sum(pair[side][1] for pair in both) / max(1, sum(pair[side][2] for pair in both))
        worst = max(abs(x[1] - y[1]) / max(1, x[2]) for x, y in both)
        other = sum(x[0] != y[0] for x, y in both)
        print(f"| {key[0]} | {key[1]} | {len(both)} | {loss(0):.6f} | {loss(1):.6f} | {worst:.1e} | {other} |")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
