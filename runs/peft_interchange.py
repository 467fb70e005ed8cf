"""LoRA adapters both ways between dropcap and PEFT: the same logits whoever trained them and whoever loads them.

    python peft_interchange.py --dropcap ../target/release/dropcap     (pip install peft torch transformers)

For each family of `train.init`, dropcap trains a small base, then an adapter with gates over it; PEFT loads the adapter, and
transformers the checkpoint that `dropcap merge` makes of it. Then PEFT trains an adapter over the same base, and dropcap loads
that. Every pair of logits must agree; the script fails where one does not. Results: LOG.md.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

# Both sum the same f32 products in other orders.
TOLERANCE = 2e-4
# An adapter that changes less than this proves nothing.
LEAST_CHANGE = 50 * TOLERANCE
SHAPES = {
    "gpt2": "{family: gpt2, layers: 3, hidden: 48, heads: 4, context: 64}",
    "llama": "{family: llama, layers: 3, hidden: 48, heads: 4, kv_heads: 2, context: 64}",
}
WORDS = "the cat dog sat ran on a mat road and then slept under rain while every old clock struck nine".split()


def dropcap(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"dropcap {' '.join(map(str, arguments))}\n{done.stderr}")
    return done.stdout


def logits_of(binary, folder, ids, model, *flags):
    out = folder / "out.safetensors"
    listed = ",".join(str(token) for token in ids)
    dropcap(binary, "forward", "--device", "cpu", "-m", model, "--method", "none", "--ids", listed, "-o", out, *flags)
    return load_file(out)["logits"]


@torch.no_grad()
def torch_logits(model, ids):
    return model.eval()(torch.tensor([ids])).logits[0]


def base_model(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def train_with_dropcap(binary, folder, name, keys):
    config = folder / f"{name}.yaml"
    common = f"data: {{train: [{folder}/text.txt], cache: {folder}/cache}}\noutput: {folder}/{name}\n"
    config.write_text(common + "batch: {sequences: 4, tokens: 48}\n" + keys)
    return Path(dropcap(binary, "train", "--config", config).strip())


def train_with_peft(model, ids, folder):
    torch.manual_seed(0)
    peft = get_peft_model(base_model(model), LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in peft.parameters() if p.requires_grad), lr=2e-2)
    batch = torch.tensor([ids])
    for _ in range(30):
        loss = peft(batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peft.save_pretrained(folder)
    return peft


def check(failures, what, found, expected, base):
    off, change = (found - expected).abs().max().item(), (expected - base).abs().max().item()
    verdict = "equal" if off <= TOLERANCE and change >= LEAST_CHANGE else "DIFFERENT"
    print(f"{what:60} off by {off:.1e}, moved by {change:.2f}: {verdict}")
    if verdict != "equal":
        failures.append(what)


def exchange(binary, family, folder, failures):
    dropcap(binary, "tokenizer", "train", folder / "text.txt", "-v", "300", "-o", folder / "tokenizer.json")
    shape = f"init: {SHAPES[family]}\ntokenizer: {folder}/tokenizer.json\nmethod: none\nsteps: 30\n"
    base = train_with_dropcap(binary, folder, "base", shape)
    ids = [random.randrange(300) for _ in range(40)]
    plain = torch_logits(base_model(base), ids)

    keys = f"model: {base}\ntrain: lora\nlora: {{rank: 4}}\nsteps: 30\noptimizer: {{learning_rate: 1e-2}}\n"
    gates = "gates: {width: 4, sinks: 1, recent: 4}\nsparsity: {target_keep: 0.5}\n"
    ours = train_with_dropcap(binary, folder, "ours", keys + gates)
    loaded = torch_logits(PeftModel.from_pretrained(base_model(base), ours), ids)
    check(failures, f"{family}: PEFT loads dropcap's adapter", loaded, logits_of(binary, folder, ids, base, "--adapter", ours), plain)
    merged = folder / "merged"
    dropcap(binary, "merge", "-m", base, "--adapter", ours, "-o", merged)
    check(failures, f"{family}: transformers loads the merged checkpoint", torch_logits(base_model(merged), ids), loaded, plain)

    theirs = folder / "theirs"
    expected = torch_logits(train_with_peft(base, ids, theirs), ids)
    check(failures, f"{family}: dropcap loads PEFT's adapter", logits_of(binary, folder, ids, base, "--adapter", theirs), expected, plain)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dropcap", required=True, help="the command")
    binary = str(Path(parser.parse_args().dropcap).resolve())
    print(json.dumps({name: version(name) for name in ["peft", "transformers", "torch"]}))
    logging.disable_progress_bar()
    failures = []
    for family in SHAPES:
        random.seed(1)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "text.txt").write_text("\n".join(" ".join(random.choices(WORDS, k=9)) for _ in range(2000)))
            exchange(binary, family, folder, failures)
    sys.exit(f"{len(failures)} of the exchanges failed" if failures else 0)


if __name__ == "__main__":
    main()
