//! `dropcap generate` as a user runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on should fail"
)]

mod support;

use serde_json::Value;
use support::{copy, dropcap, golden, output, text};

const DCP: &str = "dcp(gates=pruning.safetensors)";

fn case(name: &str) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let cases: Value =
        serde_json::from_slice(&std::fs::read(golden("gpt2_dcp/generation.json")).unwrap()).unwrap();
    let rows = |key: &str| serde_json::from_value(cases[name][key].clone()).unwrap();
    (rows("prompt_ids"), rows("ids"))
}

/// A prompt file of ids.
fn prompt_file(folder: &tempfile::TempDir, prompts: &[Vec<u32>], texts: &[Vec<u32>]) -> std::path::PathBuf {
    let path = folder.path().join("prompts.jsonl");
    let lines = prompts.iter().zip(texts).map(|(prompt, text)| {
        serde_json::json!({"ids": prompt, "max_tokens": text.len() - prompt.len()}).to_string()
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    path
}

#[test]
fn json_has_one_object_per_prompt_with_the_golden_tokens_and_an_account_of_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, texts) = case("padded.prop0");
    let file = prompt_file(&folder, &prompts, &texts);
    let model = golden("gpt2_dcp");
    let printed = output(&[
        "generate",
        "--model",
        text(&model),
        "--method",
        DCP,
        "--prompt-file",
        text(&file),
        "--json",
        "--ignore-eos",
    ]);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), prompts.len());
    for (line, (prompt, text)) in lines.iter().zip(prompts.iter().zip(&texts)) {
        let ids: Vec<u32> = serde_json::from_value(line["token_ids"].clone()).unwrap();
        assert_eq!(ids, text[prompt.len()..]);
        assert_eq!(line["prompt_tokens"], prompt.len());
        assert_eq!(line["completion_tokens"], ids.len());
        assert_eq!(line["finish_reason"], "length");
        let kv = &line["kv"];
        let number = |key: &str| kv[key].as_u64().unwrap();
        // Three layers, one lane each; the last token was never fed.
        assert_eq!(number("logical_entries"), 3 * (text.len() as u64 - 1));
        assert!(number("live_entries") < number("logical_entries"));
        assert!(number("live_bytes") <= number("held_bytes"));
        assert_eq!(number("dense_bytes"), (text.len() as u64 - 1) * 3 * 48 * 2 * 4);
        let ratio = number("live_entries") as f64 / number("logical_entries") as f64;
        assert!((kv["keep_ratio"].as_f64().unwrap() - ratio).abs() < 1e-12);
        assert!(line["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(line["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn text_streams_and_closes_with_one_line() {
    let model = copy("gpt2_dcp", 97);
    let arguments =
        ["generate", "--model", text(model.path()), "--prompt", "w3 w4 w5", "-n", "5", "--ignore-eos"];
    let printed = output(&arguments);
    let last = printed.trim_end().lines().last().unwrap();
    for words in [
        "3 prompt + 5 completion tokens",
        "prefill",
        "decode",
        "21 logical, 21 live (100.0 %)",
        "held",
        "if dense",
    ] {
        assert!(last.contains(words), "{last}");
    }
    let json = output(&[&arguments[..], &["--json"]].concat());
    let object: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    let words = object["text"].as_str().unwrap();
    assert_eq!(words.split_whitespace().count(), 5);
    assert!(printed.starts_with(words), "{printed}");
}

#[test]
fn a_prompt_comes_from_an_argument_a_flag_or_standard_input() {
    let model = copy("gpt2_dcp", 97);
    let common = ["--model", text(model.path()), "-n", "4", "--json"];
    let ids = |printed: &str| {
        serde_json::from_str::<Value>(printed.lines().last().unwrap()).unwrap()["token_ids"].clone()
    };
    let flag = ids(&output(&[&["generate", "--prompt", "w7 w8"], &common[..]].concat()));
    let argument = ids(&output(&[&["generate", "w7 w8"], &common[..]].concat()));
    let piped = dropcap(&[&["generate"], &common[..]].concat()).write_stdin("w7 w8\n").output().unwrap();
    assert_eq!(flag, argument);
    assert_eq!(flag, ids(&String::from_utf8(piped.stdout).unwrap()));
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = copy("gpt2_dcp", 97);
    let common = [
        "generate",
        "--model",
        text(model.path()),
        "--prompt",
        "w3 w4 w5",
        "-n",
        "30",
        "--json",
        "--ignore-eos",
    ];
    let object: Value = serde_json::from_str(output(&common).lines().last().unwrap()).unwrap();
    let whole = object["text"].as_str().unwrap().to_owned();
    let stop = whole.split_whitespace().nth(2).unwrap();
    let object: Value =
        serde_json::from_str(output(&[&common[..], &["--stop", stop]].concat()).lines().last().unwrap())
            .unwrap();
    assert_eq!(object["finish_reason"], "stop");
    assert_eq!(object["text"].as_str().unwrap(), &whole[..whole.find(stop).unwrap()]);
}

#[test]
fn equal_seeds_repeat_a_text_and_others_do_not() {
    let model = golden("gpt2_dcp");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let line =
        |seed: u64| format!("{{\"ids\":[5,6,7],\"max_tokens\":20,\"temperature\":1.5,\"seed\":{seed}}}");
    std::fs::write(&file, [line(1), line(2), line(1)].join("\n")).unwrap();
    let printed = output(&["generate", "--model", text(&model), "-f", text(&file), "--json", "--ignore-eos"]);
    let texts: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["token_ids"].clone())
        .collect();
    assert_eq!(texts[0], texts[2]);
    assert_ne!(texts[0], texts[1]);
}

#[test]
fn the_trace_tells_the_same_lifetimes_as_forward() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, texts) = case("L64.prop0");
    let file = prompt_file(&folder, &prompts, &texts);
    let (model, trace) = (golden("gpt2_dcp"), folder.path().join("trace.jsonl"));
    output(&[
        "generate",
        "--model",
        text(&model),
        "--method",
        DCP,
        "-f",
        text(&file),
        "--json",
        "--ignore-eos",
        "--chunk",
        "10",
        "--trace",
        text(&trace),
    ]);
    let fed = &texts[0][..texts[0].len() - 1];
    let ids = fed.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let logits = folder.path().join("logits.safetensors");
    output(&["forward", "--model", text(&model), "--method", DCP, "--ids", &ids, "--output", text(&logits)]);
    let tensors = dropcap_weights::TensorFile::open(&logits).unwrap();
    let timeline = std::io::BufReader::new(std::fs::File::open(&trace).unwrap());
    let timeline = dropcap_trace::Timeline::read(timeline).unwrap();
    let sequence = &timeline.sequences[&0];
    assert_eq!(sequence.ids, fed);
    let mut deaths = 0;
    for layer in 0..3 {
        let mut bytes = Vec::new();
        tensors.read_bytes(&format!("layers.{layer}.expires_at"), &mut bytes).unwrap();
        for (position, word) in bytes.chunks_exact(4).enumerate() {
            let expiry = u32::from_le_bytes(word.try_into().unwrap());
            let fate = sequence.fate(layer, 0, position as u32);
            assert_eq!(
                fate.map_or(u32::MAX, |fate| fate.expires_at),
                expiry,
                "layer {layer} position {position}"
            );
            assert!(
                fate.is_none_or(|fate| fate.killer == expiry),
                "the killer is the query that no longer sees it"
            );
            deaths += usize::from(fate.is_some());
        }
    }
    assert!(deaths > 50, "{deaths}");
}

#[test]
fn weights_and_cache_in_sixteen_bits_stay_close_to_float32() {
    let (model, folder) = (golden("llama_kvpress/llama"), tempfile::tempdir().unwrap());
    let logits = |dtype: &str, kv_dtype: &str| {
        let path = folder.path().join(format!("{dtype}-{kv_dtype}.safetensors"));
        let ids = (0..40).map(|i| (i * 37 % 128).to_string()).collect::<Vec<_>>().join(",");
        let arguments = [
            "forward",
            "-m",
            text(&model),
            "--ids",
            &ids,
            "-o",
            text(&path),
            "--dtype",
            dtype,
            "--kv-dtype",
            kv_dtype,
        ];
        output(&arguments);
        dropcap_weights::TensorFile::open(&path).unwrap().read_f32("logits").unwrap()
    };
    let exact = logits("f32", "f32");
    let scale = exact.iter().fold(0f32, |most, value| most.max(value.abs()));
    // Eleven and eight bits of mantissa, through four layers.
    for (dtype, kv_dtype, allowed) in [("f16", "f16", 5e-3), ("f32", "bf16", 3e-2), ("bf16", "bf16", 5e-2)] {
        let found = logits(dtype, kv_dtype);
        let off = exact.iter().zip(&found).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off > 0.0 && off < allowed * scale, "{dtype} {kv_dtype}: off by {off} of {scale}");
    }
}
