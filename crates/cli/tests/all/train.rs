//! `dropcap train` as a user runs it, and the model that the command carries.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{both, dropcap, failure, output, text};
use serde_json::Value;

/// A folder with texts, a tokenizer and a configuration.
struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let lines: Vec<String> =
            (0..400).map(|i| format!("the cat number {} sat on mat {}", i * 7 % 97, i % 13)).collect();
        std::fs::write(path("train.txt"), lines[..350].join("\n")).unwrap();
        std::fs::write(path("valid.txt"), lines[350..].join("\n")).unwrap();
        output(&[
            "tokenizer",
            "train",
            text(&path("train.txt")),
            "-v",
            "300",
            "-o",
            text(&path("tokenizer.json")),
        ]);
        let here = folder.path().display();
        let config = format!(
            "init: {{family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, context: 64}}\n\
             tokenizer: {here}/tokenizer.json\n\
             data: {{train: [{here}/train.txt], valid: [{here}/valid.txt]}}\n\
             output: {here}/run\n\
             method: dcp\n\
             steps: 20\n\
             batch: {{sequences: 4, tokens: 48}}\n\
             gates: {{width: 4, sinks: 1, recent: 4}}\n\
             sparsity: {{target_keep: 0.4, ramp: {{from: 0.0, until: 0.2}}}}\n\
             evaluate: {{every: 10, windows: 2}}\n\
             threads: 2\n"
        );
        std::fs::write(path("run.yaml"), config).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        text(&self.path("run.yaml")).to_owned()
    }
}

#[test]
fn a_trained_directory_generates_as_it_is() {
    let workshop = Workshop::new();
    let config = workshop.config();
    let result: Value = serde_json::from_str(&output(&["train", "--config", &config, "--json"])).unwrap();
    let model = workshop.path("run/model");
    assert_eq!(result["model"], text(&model));
    assert_eq!(result["keep"].as_array().unwrap().len(), 2);
    assert!(result["perplexity"].as_f64().unwrap() > 1.0);
    let generate =
        ["generate", "--model", text(&model), "--method", "dcp", "--prompt", "the cat", "-n", "40", "--json"];
    let answer: Value = serde_json::from_str(output(&generate).lines().last().unwrap()).unwrap();
    let kv = &answer["kv"];
    assert!(kv["live_entries"].as_u64().unwrap() < kv["logical_entries"].as_u64().unwrap(), "{answer}");
    let warned = |tokens: &str| {
        both(&["generate", "-m", text(&model), "--method", "dcp", "-p", "the cat", "-n", tokens]).1
    };
    assert!(warned("60").contains("taught on texts of 48 tokens, and here are up to 6"), "{}", warned("60"));
    assert!(!warned("8").contains("taught on"));
    let card = std::fs::read_to_string(model.join("README.md")).unwrap();
    assert!(card.contains("perplexity of valid.txt, forgetting") && card.contains("steps: 20"), "{card}");
    let log = std::fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
    let kinds =
        |kind: &str| log.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count();
    assert_eq!((kinds("train"), kinds("evaluation")), (20, 3));
}

#[test]
fn a_model_that_is_held_gets_an_adapter_that_generate_lays_over_it() {
    let workshop = Workshop::new();
    let config = workshop.config();
    let run = |more: &[&str]| -> Value {
        let printed = output(&[&["train", "--config", &config, "--json", "steps=8"], more].concat());
        serde_json::from_str(&printed).unwrap()
    };
    let output_at = |name: &str| format!("output={}", workshop.path(name).display());
    run(&[&output_at("base"), "method=none", "gates=", "sparsity="]);
    let base = workshop.path("base/model");
    let model = format!("model={}", base.display());
    let result = run(&[&output_at("tuned"), &model, "init=", "tokenizer=", "train=lora", "lora.rank=2"]);
    let adapter = workshop.path("tuned/adapter");
    assert_eq!(result["adapter"], text(&adapter));
    let generate = ["generate", "-m", text(&base), "-p", "the cat", "-n", "40", "--json", "--ignore-eos"];
    let answer = output(&[&generate[..], &["--adapter", text(&adapter)]].concat());
    let answer: Value = serde_json::from_str(answer.lines().last().unwrap()).unwrap();
    assert!(answer["kv"]["keep_ratio"].as_f64().unwrap() < 1.0, "{answer}");
    let message = failure(&["generate", "-m", text(&adapter), "-p", "x"]);
    assert!(message.contains("config.json"), "{message}");
}

#[test]
fn a_dry_run_looks_at_everything_and_leaves_nothing() {
    let workshop = Workshop::new();
    let config = workshop.config();
    let said = output(&["train", "--config", &config, "--dry-run"]);
    for word in ["train.txt", "the cat number 0", "parameters", "memory", "minutes for 20 steps"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(!workshop.path("run").exists());
    let printed = output(&["train", "--config", &config, "--print-config", "seed=9"]);
    assert!(printed.contains("seed: 9") && printed.contains("rule: hard"), "{printed}");
}

#[test]
fn what_is_wrong_is_named_with_its_key_or_place() {
    let workshop = Workshop::new();
    let config = workshop.config();
    let fails = |more: &[&str]| failure(&[&["train", "--config", &config], more].concat());
    let message = fails(&["optimiser.clip=1", "sparsity.gamma=0.3"]);
    assert!(message.contains("optimizer") && message.contains("optimiser"), "{message}");
    let message = fails(&["sparsity.gamma=0.3"]);
    assert!(message.contains("gamma") && message.contains("target_keep"), "{message}");
    std::fs::write(workshop.path("train.txt"), b"fine\nfine\n\xff\xfe\n").unwrap();
    let message = fails(&[]);
    assert!(message.contains("train.txt line 3") && message.contains("UTF-8"), "{message}");
    std::fs::write(workshop.path("train.txt"), b"short").unwrap();
    let message = fails(&[]);
    assert!(message.contains("training data") && message.contains("49"), "{message}");
    for model in ["nobody/nothing", "no/such/folder"] {
        let message = fails(&[&format!("model={model}"), "init=", "tokenizer="]);
        assert!(message.contains(model), "{message}");
    }
    let message = fails(&["batch.tokens=65"]);
    assert!(message.contains("65") && message.contains("64"), "{message}");
}

#[test]
fn a_dry_run_finds_what_the_run_would() {
    let workshop = Workshop::new();
    let config = workshop.config();
    std::fs::write(workshop.path("valid.txt"), "one two").unwrap();
    let message = failure(&["train", "--config", &config, "--dry-run"]);
    assert!(message.contains("validation data"), "{message}");
    std::fs::write(workshop.path("valid.csv"), "text\na\n").unwrap();
    let valid = format!("data.valid=[{}]", workshop.path("valid.csv").display());
    let message = failure(&["train", "--config", &config, "--dry-run", &valid]);
    assert!(message.contains("valid.csv") && message.contains(".jsonl"), "{message}");
    assert!(!workshop.path("run").exists());
}

/// Runs the command of a result's card, with more flags, and gives its last line.
fn as_its_card_says(model: &Path, flags: &str) -> Value {
    let card = std::fs::read_to_string(model.join("README.md")).unwrap();
    let line = card.lines().find(|line| line.starts_with("    dropcap generate")).unwrap();
    let program = assert_cmd::cargo::cargo_bin!("dropcap");
    let command = line.trim().replacen("dropcap", text(program), 1).replace("DIR", text(model));
    let found = Command::new("sh").args(["-c", &format!("{command} --json {flags}")]).output().unwrap();
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(found.status.success(), "{command}: {said}");
    serde_json::from_slice(found.stdout.trim_ascii().rsplit(|&byte| byte == b'\n').next().unwrap()).unwrap()
}

#[test]
fn the_command_of_a_card_works_whatever_the_method() {
    let workshop = Workshop::new();
    let none = ["gates=", "sparsity=", "steps=2", "method=none"];
    let window = ["gates=", "sparsity=", "steps=2", "method=window", "window={sinks: 1, recent: 5}"];
    let dcp = ["steps=2", "kv_dtype=bf16"];
    for (name, changes) in [("none", &none[..]), ("window", &window), ("dcp", &dcp)] {
        let to = format!("output={}", workshop.path(name).display());
        output(&[&["train", "--config", &workshop.config(), &to], changes].concat());
        let answer = as_its_card_says(&workshop.path(name).join("model"), "-n 20 --ignore-eos");
        let live = answer["kv"]["live_entries"].as_u64().unwrap();
        let all = answer["kv"]["logical_entries"].as_u64().unwrap();
        let forgets = live < all;
        assert!(name == "dcp" || forgets == (name == "window"), "{name}: {answer}");
    }
}

#[test]
fn a_model_learns_to_stop_at_its_own_end_token() {
    let workshop = Workshop::new();
    // As of other tokenizers: a token that begins every text, and an end that nobody else knows.
    let file = workshop.path("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let renamed = json.to_string().replace("<|endoftext|>", "<|done|>");
    json = serde_json::from_str(&renamed).unwrap();
    let begin = json["model"]["vocab"].as_object().unwrap().len();
    let mut token = json["added_tokens"][0].clone();
    (token["id"], token["content"]) = (begin.into(), "<|begin|>".into());
    json["added_tokens"].as_array_mut().unwrap().push(token);
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [begin], "tokens": ["<|begin|>"]}},
    });
    std::fs::write(&file, json.to_string()).unwrap();
    std::fs::write(workshop.path("tokenizer_config.json"), r#"{"eos_token": {"content": "<|done|>"}}"#)
        .unwrap();
    let documents = "the cat number 7 sat on mat 3\n<|endoftext|>\n".repeat(60);
    std::fs::write(workshop.path("train.txt"), documents).unwrap();
    let (config, to) = (workshop.config(), format!("output={}", workshop.path("base").display()));
    let dense = ["gates=", "sparsity=", "method=none", "optimizer.learning_rate=5e-3", "steps=60"];
    output(&[&["train", "--config", &config, &to], &dense[..]].concat());
    let base = workshop.path("base/model");
    let stops = |model: &Path| {
        let generate = ["generate", "--model", text(model), "-p", "the cat", "-n", "40", "--json"];
        let answer: Value = serde_json::from_str(output(&generate).lines().last().unwrap()).unwrap();
        assert_ne!(answer["finish_reason"], "length", "{answer}");
    };
    stops(&base);
    // And when training goes on from a model that names its end in its own configuration alone.
    std::fs::remove_file(base.join("tokenizer_config.json")).unwrap();
    let model = format!("model={}", base.display());
    let said =
        dropcap(&[&["train", "--config", &config, &model, "init=", "tokenizer="], &dense[..]].concat())
            .output()
            .unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("documents end with <|done|> and begin with <|begin|>"), "{said}");
    stops(&workshop.path("run/model"));
}

/// A run that would take minutes, begun.
fn begun(workshop: &Workshop) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin!("dropcap"))
        .args(["train", "--config", &workshop.config(), "steps=1000000", "checkpoint.every=5"])
        .env_clear()
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until a state other than `known` is the latest, and gives its name.
fn next_state(workshop: &Workshop, known: &str) -> String {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(workshop.path("run/latest")) {
            Ok(latest) if latest.trim() != known => return latest.trim().to_owned(),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
        assert!(start.elapsed() < Duration::from_secs(90), "no state was saved");
    }
}

fn steps(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("step-")).count()
}

#[test]
fn a_stopped_run_saves_and_leaves_with_its_own_code() {
    let workshop = Workshop::new();
    let mut child = begun(&workshop);
    next_state(&workshop, "");
    // A second run in the same directory is refused while the first works.
    let message = failure(&["train", "--config", &workshop.config(), "steps=1000000", "checkpoint.every=5"]);
    assert!(message.contains("in use by the process"), "{message}");
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(steps(&workshop.path("run")) <= 2);
}

#[test]
fn a_killed_run_goes_on_from_its_last_state() {
    let workshop = Workshop::new();
    let mut child = begun(&workshop);
    next_state(&workshop, "");
    child.kill().unwrap();
    child.wait().unwrap();
    let log = || std::fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
    let latest = std::fs::read_to_string(workshop.path("run/latest")).unwrap().trim().to_owned();
    let step: usize = latest.trim_start_matches("step-").parse().unwrap();
    let mut child = begun(&workshop);
    next_state(&workshop, &latest);
    child.kill().unwrap();
    child.wait().unwrap();
    // Every step stands in the log once, those of the killed process after its last state taken back.
    let steps: Vec<u64> = log()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["kind"] == "train")
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert!(steps.len() > step, "{step}: {}", steps.len());
    assert!(steps.iter().zip(1..).all(|(&got, expected)| got == expected), "{steps:?}");
}

#[test]
fn the_carried_model_runs_without_a_name_a_network_or_a_home() {
    let folder = tempfile::tempdir().unwrap();
    // No folder can be made below a file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let run = |arguments: &[&str]| {
        let output = dropcap(arguments)
            .env("XDG_CACHE_HOME", file.path())
            .env("TMPDIR", folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let generate = ["generate", "Once upon a time", "-n", "200", "--json", "--ignore-eos"];
    let first = run(&generate);
    let answer: Value = serde_json::from_str(first.lines().last().unwrap()).unwrap();
    assert_eq!(answer["completion_tokens"], 200);
    // It forgets unless told otherwise.
    assert!(answer["kv"]["keep_ratio"].as_f64().unwrap() < 0.6, "{answer}");
    let dense = run(&[&generate[..], &["--method", "none"]].concat());
    let dense: Value = serde_json::from_str(dense.lines().last().unwrap()).unwrap();
    assert_eq!(dense["kv"]["keep_ratio"], 1.0);
    // Unpacked once; a damaged copy is replaced.
    let unpacked = std::fs::read_dir(folder.path().join("dropcap")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(unpacked.join("config.json"), "{").unwrap();
    let again: Value = serde_json::from_str(run(&generate).lines().last().unwrap()).unwrap();
    assert_eq!(again["token_ids"], answer["token_ids"]);
}
