"""llama.cpp on CPU, through the C interface that llama-cpp-python exposes.

Without `--model` the model is random: the time of these operations does not depend on the values. The file is written
once per dtype. Matrices take the dtype asked for; norms, biases and the position table stay f32, as in the project's
own conversions.
"""

import argparse
import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

from peers.shape import FILE_WORKLOADS, HEADS, HIDDEN, LAYERS, POSITIONS, THREADS, VOCABULARY, WORKLOADS, emit, sample

CHUNK = 512
DTYPES = {"f32": np.float32, "f16": np.float16}
CACHE_TYPES = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16}
ATTENTION = {"plain": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED, "flash": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED}


def write_model(path, dtype):
    """A GPT-2 of random weights with a vocabulary of the right size and no tokenizer."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_name("random")
    writer.add_block_count(LAYERS)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(4 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(0 if dtype == "f32" else 1)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(VOCABULARY)

    def matrix(name, rows, columns, stored=DTYPES[dtype]):
        values = random.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)
        writer.add_tensor(f"{name}.weight", values.astype(stored))

    def bias(name, size):
        writer.add_tensor(f"{name}.bias", np.zeros(size, np.float32))

    def norm(name):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
        bias(name, HIDDEN)

    matrix("token_embd", VOCABULARY, HIDDEN)
    matrix("position_embd", POSITIONS, HIDDEN, np.float32)
    norm("output_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm")
        norm(f"{block}.ffn_norm")
        for name, rows, columns in [
            ("attn_qkv", 3 * HIDDEN, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_up", 4 * HIDDEN, HIDDEN),
            ("ffn_down", HIDDEN, 4 * HIDDEN),
        ]:
            matrix(f"{block}.{name}", rows, columns)
            bias(f"{block}.{name}", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Session:
    """One context of `batch` independent sequences of at most `length` entries."""

    def __init__(self, model, dtype, attention, batch, length):
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = batch * length
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_seq_max = batch
        # Streams of their own: with one shared buffer every sequence would be scored against all the others.
        parameters.kv_unified = False
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.type_k = parameters.type_v = CACHE_TYPES[dtype]
        parameters.flash_attn_type = ATTENTION[attention]
        parameters.no_perf = True
        self.context = llama_cpp.llama_init_from_model(model, parameters)
        if not self.context:
            raise RuntimeError(f"no context for {batch} sequences of {length} {dtype} entries, attention {attention}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.tokens = llama_cpp.llama_batch_init(max(CHUNK, batch), 0, 1)
        self.batch = batch
        self.random = np.random.default_rng(1)

    def prepare(self, rows):
        """`rows` of (position, sequence, wants logits), with random tokens, for the next `run`."""
        batch = self.tokens
        batch.n_tokens = len(rows)
        for i, (position, sequence, wants_logits) in enumerate(rows):
            batch.token[i] = int(self.random.integers(self.vocabulary))
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants_logits

    def run(self):
        """One call of the model on the prepared rows."""
        if llama_cpp.llama_decode(self.context, self.tokens) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        llama_cpp.llama_get_logits(self.context)

    def fill(self, depth):
        """`depth` tokens into the first sequence, then a copy of its cache into the others."""
        for first in range(0, depth, CHUNK):
            count = min(CHUNK, depth - first)
            self.prepare([(first + i, 0, i == count - 1) for i in range(count)])
            self.run()
        for sequence in range(1, self.batch):
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def forget(self, depth):
        """Back to `depth` entries per sequence."""
        for sequence in range(self.batch):
            llama_cpp.llama_memory_seq_rm(self.memory, sequence, depth, -1)

    def close(self):
        llama_cpp.llama_batch_free(self.tokens)
        llama_cpp.llama_free(self.context)


def measure(session, workload):
    session.fill(workload.depth)

    def prepare(step):
        if step < 0:
            session.forget(workload.depth)
        elif workload.kind == "decode":
            session.prepare([(workload.depth + step, sequence, True) for sequence in range(workload.batch)])
        else:
            last = workload.length - 1
            session.prepare([(workload.depth + i, 0, i == last) for i in range(workload.length)])

    return sample(workload, prepare, session.run)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=DTYPES, required=True)
    parser.add_argument("--attention", choices=ATTENTION, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a GGUF file instead of random weights; --dtype is then the cache's")
    parser.add_argument("--contender", required=True, help="how the samples are to be called")
    arguments = parser.parse_args()

    path = arguments.model or arguments.directory / f"gpt2-random-{arguments.dtype}.gguf"
    if not path.exists() and not arguments.model:
        write_model(path.with_suffix(".part"), arguments.dtype)
        path.with_suffix(".part").rename(path)
    # The library reports every tensor; only its errors matter here.
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise RuntimeError(f"llama.cpp refused {path}")
    for workload in FILE_WORKLOADS if arguments.model else WORKLOADS:
        length = workload.length + workload.before
        session = Session(model, arguments.dtype, arguments.attention, workload.batch, length)
        emit(arguments.contender, workload, measure(session, workload))
        session.close()


if __name__ == "__main__":
    main()
