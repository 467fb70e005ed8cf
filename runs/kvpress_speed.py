#!/usr/bin/env python3
"""Speed and memory beside kvpress' own pipeline, one prompt on one GPU:
    runs/kvpress_speed.py DROPCAP MODEL TEXT [TOKENS] [GENERATED] [DEVICE]
The first TOKENS (7,680) tokens of TEXT (may be packed with xz) are read, a fifth of the entries stays, and GENERATED (64) tokens follow, greedily and past
any end. Each line is the better of two runs in a process of its own. Memory is what is allocated beside the weights: at most, and of
entries when the text is over. kvpress is torch in bf16; `observed` needs its eager attention. Needs torch, transformers and kvpress; prints a Markdown table."""
import json, lzma, subprocess, sys, tempfile, time

KEEP = 0.2
# What we call it, and which press it is there.
METHODS = {"none": None, "snapkv": "SnapKV", "ada(snapkv)": "AdaKV", "h2o": "Observed"}


def text_of(path):
    with (lzma.open if path.endswith(".xz") else open)(path, "rt") as file:
        return file.read(1 << 20)


def prompt_of(model, path, tokens):
    """The text that those tokens spell."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return tokenizer.decode(tokenizer.encode(text_of(path)[: 8 * tokens], add_special_tokens=False)[:tokens])


def ours(dropcap, model, prompt, generated, device, method):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        # Twice, one after the other: the first pays for what a process makes once, such as its kernels.
        file.write(2 * (json.dumps({"prompt": prompt}) + "\n"))
        file.flush()
        spec = method if method == "none" else f"{method.replace('h2o', 'h2o(when=prefill_end)')}@{KEEP}"
        command = [dropcap, "generate", "--model", model, "--device", device, "--dtype", "bf16", "--kv-dtype", "bf16", "--temperature", "0"]
        command += ["--ignore-eos", "-n", str(generated), "--prompt-file", file.name, "--max-batch", "1", "--json", "--method", spec]
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    # Pages are taken for the whole prompt before it is cut.
    most = done["kv"]["dense_bytes"]
    prompt_ms = 1e3 * done["prompt_tokens"] / done["prefill_tokens_per_second"]
    return {"prompt_ms": prompt_ms, "rate": done["decode_tokens_per_second"], "most": most, "entries": done["kv"]["live_bytes"]}


def theirs(model, prompt, generated, device, press):
    import torch
    import kvpress
    from transformers import pipeline

    made = {
        None: lambda: None,
        "SnapKV": lambda: kvpress.SnapKVPress(compression_ratio=1 - KEEP),
        "AdaKV": lambda: kvpress.AdaKVPress(kvpress.SnapKVPress(compression_ratio=1 - KEEP)),
        "Observed": lambda: kvpress.ObservedAttentionPress(compression_ratio=1 - KEEP),
    }[press]
    attention = "eager" if press == "Observed" else "sdpa"
    pipe = pipeline(
        "kv-press-text-generation", model=model, device=device, dtype=torch.bfloat16, model_kwargs={"attn_implementation": attention}
    )
    pipe.model.generation_config.eos_token_id = -1
    weights = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    from transformers import DynamicCache

    def timed(count):
        cache, begun = DynamicCache(), time.perf_counter()
        pipe(prompt, question="", press=made(), max_new_tokens=count, cache=cache)
        return time.perf_counter() - begun, cache

    timed(2)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    first, cache = timed(1)
    whole, cache = timed(generated)
    most = torch.cuda.max_memory_allocated() - weights if torch.cuda.is_available() else 0
    entries = sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
    return {"prompt_ms": 1e3 * first, "rate": (generated - 1) / (whole - first), "most": most, "entries": entries}


def main():
    dropcap, model, text = sys.argv[1:4]
    tokens, generated = (int(number) for number in (sys.argv[4:6] + ["7680", "64"][len(sys.argv) - 4 :]))
    device = sys.argv[6] if len(sys.argv) > 6 else "cuda:0"
    if len(sys.argv) > 7:
        print(json.dumps(theirs(model, prompt_of(model, text, tokens), generated, device, METHODS[sys.argv[7]])))
        return
    prompt = prompt_of(model, text, tokens)
    print("| method | | prompt, ms | tokens/s | at most, MiB | entries, MiB |\n|---|---|--:|--:|--:|--:|", flush=True)
    for method in METHODS:
        for name in ("kvpress", "dropcap"):
            runs = []
            for _ in range(2):
                if name == "dropcap":
                    runs.append(ours(dropcap, model, prompt, generated, device, method))
                    continue
                command = [sys.executable, __file__, *sys.argv[1:4], str(tokens), str(generated), device, method]
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"| {method} | {name} | {done.stderr.strip().splitlines()[-1][:200]} |", flush=True)
                    break
                runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
            if runs:
                best = {key: (max if key == "rate" else min)(run[key] for run in runs) for key in runs[0]}
                print(
                    f"| {method} | {name} | {best['prompt_ms']:.0f} | {best['rate']:.0f} | {best['most'] / 2**20:.1f} |"
                    f" {best['entries'] / 2**20:.1f} |",
                    flush=True,
                )


main()
