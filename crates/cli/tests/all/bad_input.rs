//! Whatever is wrong with an input, the command says which file, limit and value, and never panics.

use std::path::Path;

use crate::support::{copy, dropcap, failure, golden, text};

/// Runs `generate` on a copy of a model that `damage` has changed, and returns the message.
fn damaged(damage: impl Fn(&Path)) -> String {
    let model = copy("gpt2_dcp", 97);
    damage(model.path());
    failure(&["generate", "--model", text(model.path()), "--prompt", "w1 w2", "-n", "2"])
}

fn edit(path: &Path, change: impl Fn(&mut serde_json::Value)) {
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

fn all(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "'{word}' is missing in: {message}");
    }
}

#[test]
fn damaged_weights_are_named() {
    let weights = |folder: &Path| folder.join("model.safetensors");
    let bytes = std::fs::read(golden("gpt2_dcp/model.safetensors")).unwrap();
    let truncated = |folder: &Path| std::fs::write(weights(folder), &bytes[..bytes.len() / 2]).unwrap();
    all(&damaged(truncated), &["model.safetensors"]);
    let mut long = bytes.clone();
    long[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    all(
        &damaged(|folder| std::fs::write(weights(folder), &long).unwrap()),
        &["model.safetensors", "1152921504606846976"],
    );
    all(&damaged(|folder| std::fs::write(weights(folder), b"no").unwrap()), &["model.safetensors"]);
    let pickle = |folder: &Path| {
        std::fs::rename(weights(folder), folder.join("pytorch_model.bin")).unwrap();
    };
    all(&damaged(pickle), &["pytorch_model.bin", "safe_serialization"]);
    all(&damaged(|folder| std::fs::remove_file(weights(folder)).unwrap()), &["model.safetensors"]);
}

#[test]
fn configs_that_lie_are_refused_with_key_and_value() {
    let set = |key: &'static str, value: serde_json::Value| {
        damaged(move |folder| edit(&folder.join("config.json"), |config| config[key] = value.clone()))
    };
    all(&set("n_layer", 0.into()), &["config.json", "n_layer"]);
    all(&set("n_layer", (1u64 << 31).into()), &["n_layer", "2147483648"]);
    all(&set("n_head", 5.into()), &["n_head", "5"]);
    all(&set("n_embd", 51.into()), &["config.json"]);
    all(&set("model_type", "mamba".into()), &["mamba", "gpt2", "llama", "qwen3"]);
    // Two tensors of every layer differ, and all are listed at once.
    all(&set("n_inner", 100.into()), &["h.0.mlp.c_fc.weight", "h.2.mlp.c_proj.weight", "expected", "found"]);
    all(&damaged(|folder| std::fs::write(folder.join("config.json"), "{").unwrap()), &["config.json"]);
    all(&damaged(|folder| std::fs::remove_file(folder.join("config.json")).unwrap()), &["config.json"]);
}

#[test]
fn a_missing_or_foreign_tokenizer_is_named() {
    all(&damaged(|folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap()), &["tokenizer.json"]);
    all(&damaged(|folder| std::fs::write(folder.join("tokenizer.json"), "[]").unwrap()), &["tokenizer.json"]);
    let larger = copy("gpt2_dcp", 200);
    let message = failure(&["generate", "-m", text(larger.path()), "--prompt", "w1", "-n", "2"]);
    all(&message, &["199", "97"]);
}

#[test]
fn method_specs_are_refused_with_the_allowed_values() {
    let model = golden("gpt2_dcp");
    let spec = |spec: &str| {
        failure(&["forward", "-m", text(&model), "--ids", "1,2", "-o", "/dev/null", "--method", spec])
    };
    all(&spec("h3o"), &["h3o", "h2o"]);
    all(&spec("h2o"), &["h2o", "@0.2", "@1024"]);
    all(&spec("streaming_llm(sink=4)"), &["sink", "sinks"]);
    all(&spec("streaming_llm(sinks=4, recent=-1)"), &["recent", "-1"]);
    all(&spec("streaming_llm(sinks=40)@20"), &["40", "20"]);
    all(&spec("streaming_llm(when=prefill_end)@0"), &["0"]);
    all(&spec("streaming_llm(when=prefill_end)@1.5"), &["1.5"]);
    all(&spec("streaming_llm(when=prefill_end)@nan"), &["nan"]);
    let bare = golden("llama_kvpress/llama");
    let none = failure(&["forward", "-m", text(&bare), "--ids", "1", "-o", "/dev/null", "--method", "dcp"]);
    all(&none, &["gates", "pruning.safetensors"]);
    all(&spec("dcp(gates=nowhere.safetensors)"), &["nowhere.safetensors"]);
    all(&spec("streaming_llm(sinks=4"), &["sinks=4"]);
}

#[test]
fn gates_of_another_model_are_refused() {
    let other = copy("llama_kvpress/gpt2m", 128);
    let gates = golden("gpt2_dcp/pruning.safetensors");
    let spec = format!("dcp(gates={})", text(&gates));
    let message = failure(&["generate", "-m", text(other.path()), "--prompt", "w1", "--method", &spec]);
    all(&message, &["pruning.safetensors"]);
}

#[test]
fn prompts_that_cannot_run_are_refused_with_both_numbers() {
    let model = copy("gpt2_dcp", 97);
    // Else an empty prompt begins with this one.
    edit(&model.path().join("config.json"), |config| config["bos_token_id"] = serde_json::Value::Null);
    let run = |prompt: &str| failure(&["generate", "-m", text(model.path()), "--prompt", prompt]);
    all(&run(&"w1 ".repeat(200)), &["200", "128"]);
    all(&run(""), &["empty"]);
    let forward =
        |ids: &str| failure(&["forward", "-m", text(model.path()), "--ids", ids, "-o", "/dev/null"]);
    all(&forward("1,97"), &["97", "vocabulary"]);
    all(&forward("1,-2"), &["-2"]);
    all(
        &failure(&["forward", "-m", text(model.path()), "--ids", "1", "--chunk", "0", "-o", "/dev/null"]),
        &["chunk", "0"],
    );
}

#[test]
fn a_million_identical_characters_end_in_an_answer_or_a_refusal() {
    let model = copy("gpt2_dcp", 97);
    for text_of in ["a", " ", "^", "\u{1F600}"] {
        let prompt = text_of.repeat(1_000_000);
        let output =
            dropcap(&["generate", "-m", text(model.path()), "-n", "1"]).write_stdin(prompt).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code().is_some_and(|code| code <= 1), "{:?} {errors:.300}", output.status);
        assert!(!errors.contains("panicked"), "{errors:.300}");
    }
}

#[test]
fn standard_input_that_is_not_utf8_is_refused() {
    let model = copy("gpt2_dcp", 97);
    let output =
        dropcap(&["generate", "-m", text(model.path())]).write_stdin(&b"w1 \xff\xfe"[..]).output().unwrap();
    all(&String::from_utf8_lossy(&output.stderr), &["UTF-8"]);
}

#[test]
fn flags_outside_their_range_are_refused() {
    let model = copy("gpt2_dcp", 97);
    let run = |flags: &[&str]| {
        failure(&[&["generate", "-m", text(model.path()), "--prompt", "w1"], flags].concat())
    };
    all(&run(&["--temperature", "-1"]), &["temperature"]);
    all(&run(&["--top-p", "0"]), &["top_p", "0"]);
    all(&run(&["--max-tokens", "0"]), &["max_tokens"]);
    all(&run(&["--dtype", "int4"]), &["int4", "bf16"]);
    all(&run(&["--threads", "0"]), &["0"]);
    all(&run(&["--kv-limit", "10"]), &["10"]);
    all(&run(&["--trace", "/dev/null/trace.jsonl"]), &["/dev/null/trace.jsonl"]);
    all(&failure(&["generate", "-m", "no/such/model/here", "--prompt", "x"]), &["no/such/model/here"]);
    all(&failure(&["generate", "-m", "org/name", "--prompt", "x"]), &["org/name", "HF_HUB_OFFLINE"]);
    all(&run(&["--max-tokens", "-3"]), &["--max-tokens", "'-3' is not a count"]);
    all(&run(&["--stop", ""]), &["--stop", "at least one character"]);
    all(&run(&["--chunk", "0"]), &["--chunk", "at least 1"]);
    all(&run(&["--max-batch", "0"]), &["--max-batch", "at least 1"]);
    all(&failure(&["bench", "--shape", "gpt5"]), &["gpt5", "gpt2-medium"]);
}

#[test]
fn an_error_says_each_cause_once() {
    let folder = tempfile::tempdir().unwrap();
    let message = failure(&["generate", "-m", text(folder.path()), "x"]);
    all(&message, &["config.json", "save_pretrained"]);
    let message = failure(&["tokenizer", "train", "/nonexistent/text.txt"]);
    assert_eq!(message.matches("No such file").count(), 1, "{message}");
    all(&failure(&["forward", "-o", "x"]), &["--ids", "--ids-file"]);
}

#[test]
fn a_benchmark_of_nothing_is_refused() {
    let model = golden("gpt2_dcp");
    let run = |flags: &[&str]| failure(&[&["bench", "-m", text(&model)], flags].concat());
    all(&run(&["-b", "0"]), &["--batch-sizes", "at least 1"]);
    all(&run(&["-b", "1,0"]), &["--batch-sizes", "at least 1"]);
    all(&run(&["-p", "8-4+2"]), &["8-4+2", "empty"]);
    all(&run(&["-p", "0", "-n", "0"]), &["nothing to measure"]);
    all(&run(&["-r", "0"]), &["--repeats", "at least 1"]);
    all(&run(&["--chunk", "0"]), &["--chunk", "at least 1"]);
    all(&run(&["-p", "4096"]), &["pp4096", "4096 positions", "128"]);
    all(&run(&["-p", "0", "-n", "8", "-d", "0,121"]), &["tg8 at depth 121", "129 positions", "128"]);
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let run = |variables: &[(&str, &str)]| {
        let mut command = dropcap(&["generate", "-n", "1", "Once"]);
        let home = tempfile::tempdir().unwrap();
        command.env("XDG_CACHE_HOME", home.path());
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let done = run(&[("DROPCAP_DEVICE", ""), ("DROPCAP_MODEL", ""), ("HF_HUB_CACHE", ""), ("HF_TOKEN", "")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done = run(&[("DROPCAP_DEVICE", "gpu")]);
    all(&String::from_utf8_lossy(&done.stderr), &["gpu", "auto, cpu or cuda:N"]);
    let done = run(&[("DROPCAP_DEVICE", "cpu"), ("DROPCAP_MODEL", "no/such/model/here")]);
    all(&String::from_utf8_lossy(&done.stderr), &["no/such/model/here"]);
}
