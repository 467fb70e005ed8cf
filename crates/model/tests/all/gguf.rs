//! GGUF files in the place of Hugging Face directories. The files were written by the `gguf` package from the tiny
//! checkpoints beside them, by the names and rules of llama.cpp's converter (`tests/golden/gguf/make.py`).

use std::path::{Path, PathBuf};

use dropcap_kernels::{BlockFormat, DType, Orientation, Part, QuantisedMatrix, Team, TensorBytes};
use dropcap_model::{Checkpoint, DecoderConfig, GenerationConfig, Tokenizer, read_companion};
use dropcap_weights::TensorFile;
use half::f16;
use serde_json::Value;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn opened(model: &str) -> [Checkpoint; 2] {
    let file = Checkpoint::open(&golden(&format!("gguf/{model}.gguf"))).unwrap();
    [file, Checkpoint::open(&golden(&format!("llama_kvpress/{model}"))).unwrap()]
}

const HALVES: [&str; 4] = ["llama31_rope", "qwen2", "qwen3", "gpt2m"];

#[test]
fn the_metadata_say_what_the_config_of_the_directory_said() {
    for model in HALVES.into_iter().chain(["llama", "mistral_sw24"]) {
        let [file, directory] = opened(model).map(|checkpoint| checkpoint.config().clone());
        let ends = |config: &DecoderConfig| (config.bos_token_id, config.eos_token_ids.clone());
        // The tiny checkpoints have no tokenizer, so their files name no tokens.
        assert_eq!(ends(&file), (None, vec![]));
        let (bos_token_id, eos_token_ids) = ends(&directory);
        let file = DecoderConfig { bos_token_id, eos_token_ids, dtype: directory.dtype, ..file };
        assert_eq!(file, directory, "{model}");
    }
}

#[test]
fn every_weight_is_that_of_the_directory_in_its_place() {
    for model in HALVES {
        let [file, directory] = opened(model);
        for tensor in directory.plan().tensors() {
            let rounded = |x: f32| if tensor.shape.len() > 1 { f16::from_f32(x).to_f32() } else { x };
            let expected: Vec<f32> =
                directory.read_f32(tensor.name).unwrap().into_iter().map(rounded).collect();
            assert_eq!(file.read_f32(tensor.name).unwrap(), expected, "{model} {}", tensor.name);
        }
        file.check_finite().unwrap();
        assert_eq!(file.stored_dtype(), DType::F16);
    }
}

#[test]
fn blocks_are_within_half_a_step_of_the_weights_that_they_were_made_of() {
    // 8 bits around zero, 4 bits from least to largest; and scales are rounded to 11 bits.
    for (model, steps) in [("mistral_sw24", 2.0 * 127.0), ("llama", 15.0)] {
        let [file, directory] = opened(model);
        for tensor in directory.plan().tensors().filter(|tensor| tensor.shape.len() > 1) {
            let [blocks, numbers] = [&file, &directory].map(|from| from.read_f32(tensor.name).unwrap());
            for (blocks, numbers) in blocks.chunks(32).zip(numbers.chunks(32)) {
                let largest = numbers.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let far = blocks.iter().zip(numbers).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(
                    far <= 2.0 * largest / steps * 0.51 + largest / 1024.0,
                    "{model} {}: {far}",
                    tensor.name
                );
            }
        }
    }
}

#[test]
fn any_rows_are_those_of_the_whole() {
    for (model, tensor) in [
        ("llama", "model.layers.1.self_attn.k_proj.weight"),
        ("llama", "model.layers.0.mlp.down_proj.weight"),
        ("gpt2m", "transformer.h.2.mlp.c_proj.weight"),
    ] {
        let [file, _] = opened(model);
        let shape = file.shape(tensor).unwrap();
        let all = file.read_f32(tensor).unwrap();
        let mut bytes = Vec::new();
        for rows in [0..1, 3..11, 5..shape[0], 0..shape[0]] {
            let dtype = file.read_rows(tensor, rows.clone(), &mut bytes).unwrap();
            let read = dropcap_model::stored_type(dtype).widen(&bytes).unwrap();
            assert_eq!(read, all[rows.start * shape[1]..rows.end * shape[1]], "{tensor} {rows:?}");
        }
    }
}

#[test]
fn a_file_written_out_as_a_directory_is_the_same_model() {
    let [file, _] = opened("llama");
    let folder = tempfile::TempDir::new().unwrap();
    file.write(&Team::new(1).unwrap(), folder.path(), None).unwrap();
    let written = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(written.config(), file.config());
    for tensor in file.plan().tensors() {
        assert_eq!(
            written.read_f32(tensor.name).unwrap(),
            file.read_f32(tensor.name).unwrap(),
            "{}",
            tensor.name
        );
    }
}

#[test]
fn the_fingerprint_is_that_of_the_stored_blocks() {
    let [file, directory] = opened("llama").map(|checkpoint| checkpoint.fingerprint().unwrap());
    assert_eq!(file.differences(&directory).len(), 1, "only the digest differs");
}

#[test]
fn texts_become_the_tokens_that_other_peoples_tokenizers_make_of_them() {
    let tokens: Value = serde_json::from_slice(&std::fs::read(golden("gguf/tokens.json")).unwrap()).unwrap();
    for (model, expected) in tokens.as_object().unwrap().iter().filter(|(model, _)| *model != "texts") {
        let path = golden(&format!("gguf/{model}.gguf"));
        let tokenizer = Tokenizer::open(&path).unwrap();
        for (text, expected) in tokens["texts"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(ids, expected, "{model}: {text:?}");
            // Qwen2's rules compose characters first.
            if model != "bpe-qwen2" {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{model}");
            }
        }
    }
}

#[test]
fn control_tokens_and_the_chat_template_come_along() {
    let path = golden("gguf/bpe-llama-bpe.gguf");
    let tokenizer = Tokenizer::open(&path).unwrap();
    let end = tokenizer.id("<|endoftext|>").unwrap();
    assert!(tokenizer.is_control(end));
    assert_eq!(tokenizer.encode_prompt("<|endoftext|>").unwrap(), [end, end]);
    assert!(!tokenizer.encode("<|endoftext|>").unwrap()[1..].contains(&end), "what a user writes is text");
    // Rows that no token uses are none.
    assert_eq!(tokenizer.id("[PAD0]"), None);
    let config = read_companion(&path.join("tokenizer_config.json"), 1 << 20).unwrap().unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["chat_template"], "{% for m in messages %}{{ m.content }}{% endfor %}");
    assert_eq!(config["eos_token"], "<|endoftext|>");
    assert_eq!(read_companion(&path.join("chat_template.jinja"), 1 << 20).unwrap(), None);
    let [model, _] = opened("llama");
    let ends = DecoderConfig { vocabulary: 1000, ..model.config().clone() };
    assert_eq!(GenerationConfig::open(&path, &ends).unwrap().eos_token_ids, [end]);
}

#[test]
fn what_is_no_model_of_ours_is_refused_by_key() {
    let tokenizer_only = Checkpoint::open(&golden("gguf/spm.gguf")).unwrap_err().to_string();
    assert!(
        tokenizer_only.contains("spm.gguf") && tokenizer_only.contains("llama.attention.head_count"),
        "{tokenizer_only}"
    );
    let folder = tempfile::TempDir::new().unwrap();
    let bytes = std::fs::read(golden("gguf/llama.gguf")).unwrap();
    let renamed = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let path = folder.path().join("changed.gguf");
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).unwrap_err().to_string()
    };
    let error = renamed("blk.0.ffn_up.weight", "blk.0.ffn_xx.weight");
    assert!(
        error.contains("blk.0.ffn_xx.weight: unexpected") && error.contains("up_proj.weight: missing"),
        "{error}"
    );
    assert!(renamed("llama.embedding_length", "llama.embedding_lengtz").contains("llama.embedding_length"));
}

#[test]
fn numbers_are_quantised_as_the_gguf_package_quantises_them() {
    let golden = TensorFile::open(&golden("gguf/blocks.safetensors")).unwrap();
    let team = Team::new(2).unwrap();
    for format in BlockFormat::ALL {
        let source = golden.read_f32(&format!("{format}.source")).unwrap();
        let bytes: Vec<u8> = source.iter().flat_map(|x| x.to_le_bytes()).collect();
        let outputs = source.len() / 32;
        let source = TensorBytes { dtype: DType::F32, bytes: &bytes };
        let part = Part { source, orientation: Orientation::OutputsByInputs, outputs };
        let mut matrix = QuantisedMatrix::zeroed(outputs, 32, format).unwrap();
        matrix.fill(&team, 0, &part).unwrap();
        let expected = golden.read_f32(&format!("{format}.numbers")).unwrap();
        let mut row = [0.0; 32];
        for (output, expected) in expected.chunks(32).enumerate() {
            matrix.row(output, &mut row);
            assert_eq!(row, expected, "{format}: block {output}");
        }
    }
}
