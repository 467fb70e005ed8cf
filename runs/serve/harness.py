"""lm-evaluation-harness through /v1/completions: its log-likelihoods against float64 sums over the logits that
`dropcap forward` writes for the same tokens. Needs no network."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from safetensors.numpy import load_file
from transformers import PreTrainedTokenizerFast

PAIRS = [
    ("Once upon a time there was", " a little girl"),
    ("Once upon a time there was", " a king who"),
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a small town in the north"),
    ("He looked at her and", " said nothing."),
    ("", "It was a dark night."),
]
TEXT = "The old man sat by the window and looked out at the rain. " * 20
# f32 sums of logits in another order, through JSON; a text has some hundred tokens.
TOLERANCE = 2e-3


def reference(dropcap, work, context, continuation, method):
    """Sum of log-probabilities of `continuation`, and whether each of its tokens is the likeliest."""
    ids, out = work / "ids", work / "logits.safetensors"
    out.unlink(missing_ok=True)
    ids.write_text(" ".join(map(str, context + continuation)))
    subprocess.run(
        [dropcap, "forward", "--device", "cpu", "--method", method, "--ids-file", ids, "--output", out], check=True
    )
    logits = load_file(out)["logits"].astype(np.float64)
    logits = logits.reshape(-1, logits.shape[-1])[len(context) - 1 : -1]
    rows = np.arange(len(continuation))
    top = logits.max(axis=1)
    told = logits[rows, continuation] - top - np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return told.sum(), bool((logits.argmax(axis=1) == continuation).all())


def main(url, key, dropcap, model, method):
    os.environ["OPENAI_API_KEY"] = key
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        PreTrainedTokenizerFast(
            tokenizer_file=str(Path(model) / "tokenizer.json"), eos_token="<|endoftext|>", bos_token="<|endoftext|>"
        ).save_pretrained(work)
        harness = LocalCompletionsAPI(
            model="default", base_url=url + "/completions", tokenizer=str(work), tokenizer_backend="huggingface",
            max_length=512, batch_size=4, num_concurrent=2,
        )
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(PAIRS)]
        for pair, (found, is_greedy) in zip(PAIRS, harness.loglikelihood(asked)):
            context = harness.tok_encode(pair[0]) or [harness.prefix_token_id]
            whole = harness.tok_encode(pair[0] + pair[1]) if pair[0] else context + harness.tok_encode(pair[1])
            expected, greedy = reference(dropcap, work, whole[: len(context)], whole[len(context) :], method)
            assert abs(found - expected) < TOLERANCE and is_greedy == greedy, (pair, found, expected)
        rolling = [Instance("loglikelihood_rolling", {}, (TEXT,), 0)]
        found = harness.loglikelihood_rolling(rolling)[0]
        context, ids = [harness.prefix_token_id], harness.tok_encode(TEXT)
        expected, _ = reference(dropcap, work, context, ids, method)
        assert abs(found - expected) < TOLERANCE, (found, expected)
        print(f"lm-evaluation-harness: {len(PAIRS)} pairs and a text of {len(ids)} tokens as forward says ({found:.3f})")
        generated = harness.generate_until([
            Instance("generate_until", {}, ("Once upon a time", {"until": ["."], "max_gen_toks": 20, "temperature": 0}), 0)
        ])
        assert generated[0] and "." not in generated[0], generated


if __name__ == "__main__":
    main(*sys.argv[1:])
