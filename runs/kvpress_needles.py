#!/usr/bin/env python3
"""What a real model still finds after methods that rank entries have cut a prompt, beside kvpress' answers.

    python3 runs/kvpress_needles.py DROPCAP MODEL GOLDEN [PROMPTS] [PRESS,PRESS ...]

GOLDEN holds what kvpress gave: `open.json` (`N.prompts`, `N.results`). A prompt is cut where its context ends (`agnostic`: the question comes
later) or where its question ends (`aware`), then the model answers greedily. The answer that kvpress got is fed here, and must be what is likeliest at
each place; where kvpress' own two likeliest tokens lie within 1e-3 of each other somewhere, an answer does not count. JOBS (1) run at a time,
DEVICE (cpu) says on what; about ten seconds a prompt on two cores, of which there are 24 a line. Needs nothing but Python.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kvpress_compare import SPECS, Tensors

NEAR = 1e-3


def likeliest(dropcap, model, spec, ids, context, places):
    """The likeliest next tokens at some places of a text that was cut where its context ends."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        command = [dropcap, "forward", "--model", model, "--device", os.environ.get("DEVICE", "cpu"), "--dtype", "f32", "--kv-dtype", "f32"]
        command += ["--method", spec, "--context", str(context), "--ids", ",".join(map(str, ids)), "-o", file.name]
        jobs = int(os.environ.get("JOBS", 1))
        if jobs > 1:
            command += ["--threads", str(max(1, (os.cpu_count() or 1) // jobs))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        out = Tensors(file.name)
        width = out.header["logits"]["shape"][1]
        rows = (out.read("logits", "f", place * width, width) for place in places)
        return [max(range(width), key=row.__getitem__) for row in rows]


def main(dropcap, model, golden, prompts="12", presses=",".join(SPECS)):
    golden = json.loads((Path(golden) / "open.json").read_text())["N"]
    asked = golden["prompts"][: int(prompts)]
    print("| method | question | found | of kvpress | answers equal | of | too near to tell |\n|---|---|--:|--:|--:|--:|--:|", flush=True)
    with ThreadPoolExecutor(int(os.environ.get("JOBS", 1))) as pool:
        lines = []
        for press in presses.split(","):
            for removed, keep in (("0.5", "@0.5"), ("0.8", "@0.2")):
                for mode in ("agnostic", "aware"):
                    answers = golden["results"][f"{press}.r{removed}"][mode]
                    lines.append((SPECS[press] + keep, mode, answers, []))
                    for prompt, answer in zip(asked, answers):
                        ids = [id for part in ("context_ids", "question_ids", "suffix_ids") for id in prompt[part]]
                        context = len(ids) - len(prompt["suffix_ids"]) - (len(prompt["question_ids"]) if mode == "agnostic" else 0)
                        places = range(len(ids) - 1, len(ids) + len(answer["ids"]) - 1)
                        job = (dropcap, model, SPECS[press] + keep, ids + answer["ids"][:-1], context, places)
                        lines[-1][-1].append(pool.submit(likeliest, *job))
        for spec, mode, answers, jobs in lines:
            found = equal = near = theirs = 0
            for prompt, answer, job in zip(asked, answers, jobs):
                same = job.result() == answer["ids"]
                theirs += answer["hit"]
                # As far as the answers are equal, what was found is.
                found += same and answer["hit"]
                near += answer["min_margin"] <= NEAR
                equal += same and answer["min_margin"] > NEAR
            print(f"| `{spec}` | {mode} | {found} | {theirs} | {equal} | {len(jobs) - near} | {near} |", flush=True)


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
