"""A model of Llama-3.2-1B's shape with random weights, in the layout of Hugging Face, for measuring speed: every token is a word
of its tokenizer."""

import array
import json
import random
import struct
import sys
from math import prod
from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "max_position_embeddings": 65536, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 1,
}


def tensors():
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    yield "model.embed_tokens.weight", (CONFIG["vocab_size"], hidden)
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", (hidden,)
        yield name + "self_attn.q_proj.weight", (hidden, hidden)
        yield name + "self_attn.k_proj.weight", (keys, hidden)
        yield name + "self_attn.v_proj.weight", (keys, hidden)
        yield name + "self_attn.o_proj.weight", (hidden, hidden)
        yield name + "post_attention_layernorm.weight", (hidden,)
        yield name + "mlp.gate_proj.weight", (inner, hidden)
        yield name + "mlp.up_proj.weight", (inner, hidden)
        yield name + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    vocabulary = {f"w{token}": token for token in range(CONFIG["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    }))
    header, end = {}, 0
    for name, shape in tensors():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    # The same numbers again and again, shifted: how fast products are does not depend on them. A bf16 number is the upper half
    # of an f32 one.
    chance = random.Random(0)
    numbers = array.array("f", (chance.gauss(0, 0.02) for _ in range(1 << 20))).tobytes()
    halves = bytearray(len(numbers) // 2)
    halves[0::2], halves[1::2] = numbers[2::4], numbers[3::4]
    block = bytes(halves) * 16
    one = struct.pack("<H", 0x3F80)
    with open(folder / "model.safetensors", "wb") as file:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (name, shape) in enumerate(tensors()):
            if len(shape) == 1:
                file.write(one * shape[0])
                continue
            left, shift = 2 * prod(shape), 2 * 4099 * number
            part = block[shift:] + block[:shift]
            while left > 0:
                left -= file.write(part[:left])


if __name__ == "__main__":
    main(*sys.argv[1:])
