"""Golden values for the GGUF reader, all of them computed by other people's code.

    pip install gguf==0.19.0 numpy safetensors==0.7.0 transformers==5.2.0 sentencepiece==0.2.3 protobuf
    python make.py            # from this folder
"""

import io
import json
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

HERE = Path(__file__).parent
TINY = HERE.parent / "llama_kvpress"
rng = np.random.default_rng(7)


def blocks():
    """Blocks of every format, and what the package makes of them."""
    out, sources = {}, {}
    for kind in (Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0):
        numbers = (rng.standard_normal((12, 32)) * 10.0 ** rng.integers(-4, 3, (12, 1))).astype(np.float32)
        sources[f"{kind.name}.source"] = numbers
        out[kind.name] = gguf.quants.quantize(numbers, kind).reshape(12, -1)
    # The package does not write K formats: any bytes are a block, as long as its scales are numbers.
    for kind, halves in ((Q.Q4_K, (0, 2)), (Q.Q5_K, (0, 2)), (Q.Q6_K, (208,))):
        block = rng.integers(0, 256, (6, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        for at in halves:
            block[:, at : at + 2] = rng.standard_normal(6).astype("<f2").view(np.uint8).reshape(6, 2)
        out[kind.name] = block
    half = rng.standard_normal(64).astype("<f2")
    out["F16"] = half.view(np.uint8).reshape(1, -1)
    out["BF16"] = (rng.standard_normal(64).astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(1, -1)
    made = sources | {f"{name}.blocks": np.ascontiguousarray(bytes_) for name, bytes_ in out.items()}
    for name, bytes_ in out.items():
        made[f"{name}.numbers"] = gguf.quants.dequantize(bytes_, Q[name]).astype(np.float32).reshape(-1)
    save_file(made, HERE / "blocks.safetensors")


def interleaved(weight, heads):
    """llama.cpp's order of the rows of queries and keys."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def model(name, architecture, kind):
    """A tiny checkpoint as a GGUF file, by the names and rules of llama.cpp's converter."""
    config = json.loads((TINY / name / "config.json").read_text())
    tensors = load_file(TINY / name / "model.safetensors")
    get = lambda *keys: next(config[key] for key in keys if key in config)
    arch = getattr(gguf.MODEL_ARCH, architecture.upper())
    layers, heads = get("num_hidden_layers", "n_layer"), get("num_attention_heads", "n_head")
    kv_heads, hidden = config.get("num_key_value_heads", heads), get("hidden_size", "n_embd")
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", architecture)
    writer.add_block_count(layers)
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(config.get("intermediate_size") or config.get("n_inner") or 4 * hidden)
    writer.add_head_count(heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    else:
        rope = config["rope_parameters"]
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope["rope_theta"])
        if "head_dim" in config:
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
        writer.add_vocab_size(config["vocab_size"])
        if config.get("sliding_window"):
            writer.add_sliding_window(config["sliding_window"])
        if rope["rope_type"] == "llama3":
            frequencies = rope["rope_theta"] ** -(np.arange(0, config["head_dim"], 2, dtype=np.float32) / config["head_dim"])
            lengths, low, high, original = 2 * np.pi / frequencies, rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
            smooth = (original / lengths - low) / (high - low)
            factors = np.where(lengths < original / high, 1.0, np.where(lengths > original / low, rope["factor"], 1 / ((1 - smooth) / rope["factor"] + smooth)))
            writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    names = gguf.get_tensor_name_map(arch, layers)
    for there, weight in tensors.items():
        here = names.get_name(there, try_suffixes=(".weight", ".bias"))
        if here is None:
            assert there.endswith((".attn.bias", ".masked_bias")), there
            continue
        if architecture == "llama" and (".q_proj." in there or ".k_proj." in there):
            weight = interleaved(weight, heads if ".q_proj." in there else kv_heads)
        if architecture == "gpt2" and there.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            weight = np.ascontiguousarray(weight.T)
        if weight.ndim == 1:
            writer.add_tensor(here, weight)
        elif kind == Q.F16:
            writer.add_tensor(here, weight.astype(np.float16))
        else:
            writer.add_tensor(here, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces, a\ttab\nand\r\n\r\nlines  ",
    "It's 1234567 o'clock: we'LL see!",
    "Ünïcödé, 漢字 and 🙂 emoji — e\u0301 decomposed",
    "fn main() { println!(\"{}\", 0x1F); } // camelCaseWord",
    "",
]
CORPUS = [
    "the quick brown fox jumps over the lazy dog and runs into the woods where it's dark and we'll see nothing at all",
    "fn main ( ) { println!(\"hello world\") ; } // a comment 1234 5678 in camelCase and snake_case",
    "people say that the quality of mercy is not strained, it drops as the gentle rain from heaven upon the place beneath",
] * 20


def byte_level():
    """One byte-level vocabulary under the splitting rules of several models."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    merges = [tuple(merge) for merge in state["merges"]]
    end = len(tokens)
    vocab = {token: at for at, token in enumerate(tokens + ["<|endoftext|>"])}
    llama3 = TikTokenConverter.__new__(TikTokenConverter)
    llama3.__init__(vocab_file="-")
    split = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(__import__("tokenizers").Regex(llama3.pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    digits = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    theirs = {
        "gpt-2": lambda text: GPT2Tokenizer(vocab=vocab, merges=merges)(text)["input_ids"],
        "qwen2": lambda text: Qwen2Tokenizer(vocab=vocab, merges=merges)(text)["input_ids"],
        "llama-bpe": lambda text: [end] + split.encode(text).ids,
        "smollm": lambda text: digits.encode(text).ids,
    }
    expected = {}
    for name, encode in theirs.items():
        writer = gguf.GGUFWriter(HERE / f"bpe-{name}.gguf", "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens + ["<|endoftext|>", "[PAD0]"])
        writer.add_token_types([1] * end + [3, 5])
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
        writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
        finish(writer)
        expected[f"bpe-{name}"] = [list(map(int, encode(text))) for text in TEXTS]
    return expected


def sentence_piece():
    """A SentencePiece vocabulary with byte fallback, as Llama's."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=400, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, character_coverage=1.0,
        hard_vocab_limit=False, minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(pieces.vocab_size())
    kind = lambda i: 2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1
    writer = gguf.GGUFWriter(HERE / "spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i) for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types([kind(i) for i in ids])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
    finish(writer)
    return {"spm": [[pieces.bos_id()] + pieces.encode(text) for text in TEXTS]}


blocks()
for name, architecture, kind in [
    ("llama31_rope", "llama", Q.F16),
    ("mistral_sw24", "llama", Q.Q8_0),
    ("llama", "llama", Q.Q4_1),
    ("qwen2", "qwen2", Q.F16),
    ("qwen3", "qwen3", Q.F16),
    ("gpt2m", "gpt2", Q.F16),
]:
    model(name, architecture, kind)
expected = {"texts": TEXTS} | byte_level() | sentence_piece()
(HERE / "tokens.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")
