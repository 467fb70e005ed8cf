"""A dense training step in PyTorch on a GPU, as its users would make it fast: automatic mixed precision in bf16,
torch.compile, fused AdamW, flash attention; with --lora, PEFT's factors beside every linear layer of a held bf16 base.

    python3 -m peers.train_gpu --shape gpt2-medium --sequences 8 --tokens 1024 [--lora 16]

Prints one JSON line. Random weights and tokens. Where torch.compile finds no compiler the step runs without it, and the line
says `eager` and why.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def without_mask(modeling):
    """Leaves it to the attention that it is causal. Otherwise transformers makes a mask where it is compiled, which flash attention
    does not take."""
    modeling.create_causal_mask = lambda *_, **__: None


def gpt2(layers, hidden, heads, vocabulary, tokens):
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.models.gpt2 import modeling_gpt2

    without_mask(modeling_gpt2)

    return GPT2LMHeadModel, GPT2Config(
        vocab_size=vocabulary, n_positions=tokens, n_embd=hidden, n_layer=layers, n_head=heads, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, use_cache=False, attn_implementation="sdpa",
    )


def llama(layers, hidden, heads, kv_heads, mlp, vocabulary, tokens):
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama import modeling_llama

    without_mask(modeling_llama)

    return LlamaForCausalLM, LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=tokens,
        tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa",
    )


SHAPES = {
    "8.7m": lambda tokens: gpt2(8, 256, 4, 8192, tokens),
    "gpt2-medium": lambda tokens: gpt2(24, 1024, 16, 50257, tokens),
    "smollm2-135m": lambda tokens: llama(30, 576, 9, 3, 1536, 49152, tokens),
    "llama-3.2-1b": lambda tokens: llama(16, 2048, 32, 8, 8192, 128256, tokens),
}


def reason(error):
    """The line of a failed compilation that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "not found" in line or "No such file" in line]
    return (telling or lines or [type(error).__name__])[0][:300]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    kind, config = SHAPES[given.shape](given.tokens)
    with torch.device("cuda"):
        model = kind(config).train()
    if given.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model.bfloat16(), LoraConfig(
            r=given.lora, lora_alpha=2 * given.lora, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM",
        ))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-9, weight_decay=0, fused=True)
    ids = torch.randint(0, config.vocab_size, (given.sequences, given.tokens), device="cuda")
    targets = torch.roll(ids, -1, dims=-1)
    targets[:, -1] = -1

    def loss_of(ids, targets):
        logits = model(input_ids=ids).logits
        return F.cross_entropy(logits.float().view(-1, config.vocab_size), targets.view(-1), ignore_index=-1)

    def step(loss_of):
        with torch.autocast("cuda", torch.bfloat16), sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
            loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    mode, why, best = "compiled", None, torch.compile(loss_of)
    try:
        step(best)
    except Exception as error:  # Dynamo, Inductor and Triton raise kinds of their own.
        mode, why, best = "eager", reason(error), loss_of
        optimizer.zero_grad(set_to_none=True)
    for _ in range(given.warmup):
        step(best)
    samples = []
    for _ in range(given.repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step(best)
        torch.cuda.synchronize()
        samples.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({
        "milliseconds": {"min": min(samples), "median": statistics.median(samples), "max": max(samples)},
        "device_mib": torch.cuda.max_memory_reserved() >> 20,
        "mode": mode,
        "why": why,
        "loss": loss.item(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
