//! GGUF files where a directory is taken.

use std::path::Path;

use crate::support::{both, dropcap, failure, golden, output, text};
use dropcap_weights::TensorFile;

const IDS: &str = "1,5,9,13,17,21,25,29,33,37,41,45";

fn logits(model: &Path, flags: &[&str]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("logits.safetensors");
    let arguments = ["forward", "--model", text(model), "--ids", IDS, "-o", text(&path)];
    output(&[&arguments[..], flags].concat());
    TensorFile::open(&path).unwrap().read_f32("logits").unwrap()
}

#[test]
fn a_file_computes_what_its_directory_computes() {
    for model in ["llama31_rope", "qwen2", "qwen3", "gpt2m"] {
        let file = logits(&golden(&format!("gguf/{model}.gguf")), &["--device", "cpu"]);
        let directory = golden(&format!("llama_kvpress/{model}"));
        assert!(file == logits(&directory, &["--device", "cpu", "--dtype", "f16"]), "{model}");
    }
}

#[test]
fn an_adapter_over_a_file_is_merged_into_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let merged = folder.path().join("merged");
    let (base, adapter) = (golden("gguf/llama.gguf"), golden("lora/llama"));
    output(&["merge", "--model", text(&base), "--adapter", text(&adapter), "-o", text(&merged)]);
    let flags = ["--device", "cpu", "--dtype", "f32"];
    let laid_over = logits(&base, &[&flags[..], &["--adapter", text(&adapter)]].concat());
    assert!(laid_over == logits(&merged, &flags));
    assert!(laid_over != logits(&base, &flags));
}

#[test]
fn a_row_of_the_benchmark_says_how_weights_are_held() {
    for (dtype, held) in [("auto", "Q4_1"), ("q8", "Q8_0"), ("bf16", "bf16")] {
        let model = golden("gguf/llama.gguf");
        let run = ["bench", "--model", text(&model), "--dtype", dtype, "--device", "cpu", "--json"];
        let (table, _) = both(
            &[&run[..], &["--prompt-lengths", "4", "--generation-lengths", "2", "--repeats", "1"]].concat(),
        );
        assert!(
            table.contains(&format!("\"dtype\":\"{held}\""))
                || table.contains(&format!("\"dtype\": \"{held}\"")),
            "{table}"
        );
    }
}

#[test]
fn a_damaged_file_is_refused_with_its_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let whole = std::fs::read(golden("gguf/llama.gguf")).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 64]).unwrap();
    let error = failure(&["generate", "x", "--model", text(&path)]);
    assert!(error.contains("model.gguf") && error.contains("cut short"), "{error}");
    std::fs::write(&path, "not a model").unwrap();
    assert!(failure(&["generate", "x", "--model", text(&path)]).contains("no GGUF file"));
    // A tokenizer alone is no model.
    dropcap(&["generate", "x", "--model", text(&golden("gguf/spm.gguf"))]).assert().failure();
}
