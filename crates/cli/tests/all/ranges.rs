//! Numbers that pass the range of a format are named: no command writes NaN and says that all is well.

use std::path::Path;

use crate::support::{copy, failure, output, text};

/// A golden model in which some numbers of its tensors are other ones.
fn with_weights(changes: &[(&str, usize, f32)]) -> tempfile::TempDir {
    let model = copy("gpt2_dcp", 97);
    let path = model.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    for &(tensor, element, number) in changes {
        let first = tensors[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[8 + header + first + 4 * element..][..4].copy_from_slice(&number.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
    model
}

/// What `forward` and `generate` say of a model that they cannot run; nothing is written.
fn both(model: &Path, flags: &[&str]) -> [String; 2] {
    let out = model.join("out.safetensors");
    let forward = ["forward", "-m", text(model), "--ids", "1,2,3", "-o", text(&out)];
    let generate = ["generate", "-m", text(model), "--prompt", "w1 w2 w3", "-n", "2"];
    let failures = [&forward[..], &generate[..]].map(|command| failure(&[command, flags].concat()));
    assert!(!out.exists());
    failures
}

fn all(messages: [String; 2], words: &[&str]) {
    for message in messages {
        for word in words {
            assert!(message.contains(word), "'{word}' is missing in: {message}");
        }
    }
}

#[test]
fn overflows_of_weights_and_cache_are_named_by_both_commands() {
    // Row 5 of [48, 144]; its last third are values.
    let qkv = "transformer.h.0.attn.c_attn.weight";
    let model = with_weights(&[(qkv, 5 * 144 + 100, 3e7)]);
    all(both(model.path(), &["--dtype", "f16"]), &[qkv, "30000000", "element 820", "f16"]);
    all(both(model.path(), &["--dtype", "f32", "--kv-dtype", "f16"]), &["value", "layer 0", "f16", "bf16"]);
    output(&[
        "generate",
        "-m",
        text(model.path()),
        "--prompt",
        "w1 w2",
        "-n",
        "2",
        "--dtype",
        "bf16",
        "--kv-dtype",
        "bf16",
    ]);
}

#[test]
fn weights_that_are_not_numbers_are_named_by_both_commands() {
    let bias = "transformer.h.1.mlp.c_fc.bias";
    all(both(with_weights(&[(bias, 17, f32::NAN)]).path(), &[]), &[bias, "NaN", "element 17"]);
}

#[test]
fn logits_that_are_not_finite_are_never_written() {
    // Too large for f32 itself in the head: that of token 90, which the text does not have.
    let model =
        with_weights(&[("transformer.ln_f.weight", 7, 1e38), ("transformer.wte.weight", 90 * 48 + 7, 1e20)]);
    all(both(model.path(), &["--dtype", "f32"]), &["logit", "range"]);
}
