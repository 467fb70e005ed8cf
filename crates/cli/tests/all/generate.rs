//! `dropcap generate` as a user runs it.

use crate::support::{both, copy, dropcap, failure, golden, output, text};
use serde_json::Value;

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
fn a_cache_that_the_gates_were_not_settled_for_is_named() {
    let said = |kv_dtype: &str| both(&["generate", "Once", "-n", "2", "--kv-dtype", kv_dtype]).1;
    let warned = said("bf16");
    assert!(warned.contains("settled for a cache in f32, and this one is in bf16"), "{warned}");
    assert!(!said("f32").contains("warning"));
}

#[test]
fn a_cache_of_codes_is_told_in_its_bytes_and_an_unknown_format_is_refused() {
    let model = copy("gpt2_dcp", 97);
    let account = |format: &str| -> Value {
        let printed = output(&[
            "generate",
            "-m",
            text(model.path()),
            "--prompt",
            "w3 w4 w5",
            "-n",
            "5",
            "--ignore-eos",
            "--json",
            "--kv-dtype",
            format,
        ]);
        serde_json::from_str(printed.lines().last().unwrap()).unwrap()
    };
    // 7 tokens in 3 layers of 3 heads 16 wide: of a key 16 codes and a group, of a value a line of 32 dimensions and a group.
    for (format, key, value) in [("q8", 16 + 4, 32 + 4), ("q4", 16 + 4, 16 + 4)] {
        let kv = &account(format)["kv"];
        assert_eq!(kv["dense_bytes"].as_u64().unwrap(), 7 * 3 * 3 * (key + value), "{format}");
        assert_eq!(kv["live_bytes"].as_u64().unwrap(), 7 * 3 * (3 * (key + value) + 12), "{format}");
    }
    let refused = failure(&["generate", "-m", text(model.path()), "--prompt", "w1", "--kv-dtype", "q5"]);
    assert!(refused.contains("q5") && refused.contains("q8, q4"), "{refused}");
}

#[test]
fn text_alone_goes_to_standard_output_and_its_account_beside_it() {
    let model = copy("gpt2_dcp", 97);
    let arguments =
        ["generate", "--model", text(model.path()), "--prompt", "w3 w4 w5", "-n", "5", "--ignore-eos"];
    let (printed, said) = both(&arguments);
    for words in [
        "3 prompt + 5 completion tokens",
        "prefill",
        "decode",
        "21 logical, 21 live (100.0 %)",
        "held",
        "if dense",
        "weights f32",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let json = output(&[&arguments[..], &["--json"]].concat());
    let object: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    let words = object["text"].as_str().unwrap();
    assert_eq!(words.split_whitespace().count(), 5);
    assert_eq!(printed, format!("{words}\n"));
    // Several prompts too.
    let file = model.path().join("prompts.jsonl");
    std::fs::write(&file, "{\"prompt\":\"w1\"}\n{\"prompt\":\"w2\"}\n").unwrap();
    let (printed, said) = both(&["generate", "-m", text(model.path()), "-f", text(&file), "-n", "2"]);
    assert!(printed.starts_with("--- 1\n") && !printed.contains("tok/s"), "{printed}");
    assert!(said.contains("2 prompts: 2 prompt + "), "{said}");
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

/// A copy of a golden model whose tokenizer has a token for every byte, and the special tokens `<|start|>` (90) and
/// `<|end|>` (91); `<|spare|>` (97) has no row in the model.
fn with_special_tokens() -> tempfile::TempDir {
    let model = copy("gpt2_dcp", 97);
    let path = model.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut vocabulary = serde_json::Map::new();
    let texts =
        ["Ċ", "Ġ", "x", "A", "Q", ":", "<", "|", ">", "s", "t", "a", "r", "e", "n", "d", "p", "ï", "»", "¿"];
    for id in 0..97usize {
        let token = match id {
            90 => "<|start|>".to_owned(),
            91 => "<|end|>".to_owned(),
            _ => texts.get(id).map_or_else(|| format!("w{id}"), |token| (*token).to_owned()),
        };
        vocabulary.insert(token, id.into());
    }
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    file["added_tokens"] =
        serde_json::json!([special(90, "<|start|>"), special(91, "<|end|>"), special(97, "<|spare|>")]);
    file["pre_tokenizer"] = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    file["decoder"] = file["pre_tokenizer"].clone();
    file["model"] = serde_json::json!({"type": "BPE", "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": false, "vocab": vocabulary, "merges": []});
    std::fs::write(&path, file.to_string()).unwrap();
    model
}

fn object(printed: &str) -> Value {
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

#[test]
fn special_tokens_in_a_prompt_are_one_token_each_unless_a_flag_says_no() {
    let model = with_special_tokens();
    let common = ["generate", "-m", text(model.path()), "-n", "1", "--json", "-p", "x<|end|>x"];
    assert_eq!(object(&output(&common))["prompt_tokens"], 3);
    assert_eq!(object(&output(&[&common[..], &["--no-parse-special"]].concat()))["prompt_tokens"], 9);
    assert!(output(&["generate", "--help"]).contains("--no-parse-special"));
}

#[test]
fn a_token_that_the_model_lacks_is_refused_only_in_a_prompt_that_holds_it() {
    let model = with_special_tokens();
    let run = |prompt| ["generate", "-m", text(model.path()), "-n", "1", "-p", prompt];
    output(&run("x"));
    let message = failure(&run("x<|spare|>"));
    assert!(message.contains("<|spare|>") && message.contains("97"), "{message}");
}

#[test]
fn an_empty_prompt_begins_with_the_models_start_token_where_it_has_one() {
    let model = with_special_tokens();
    let run = ["generate", "-m", text(model.path()), "-n", "3", "--ignore-eos", "--json", "-p"];
    let begins_with = |bos: Value| {
        let path = model.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["bos_token_id"] = bos;
        std::fs::write(&path, config.to_string()).unwrap();
    };
    begins_with(90.into());
    let empty = object(&output(&[&run[..], &[""]].concat()));
    assert_eq!(empty["prompt_tokens"], 1);
    assert_eq!(empty["token_ids"], object(&output(&[&run[..], &["<|start|>"]].concat()))["token_ids"]);
    begins_with(Value::Null);
    let message = failure(&[&run[..], &[""]].concat());
    assert!(message.contains("empty") && message.contains("bos_token_id"), "{message}");
}

#[test]
fn standard_input_loses_one_line_break_and_one_byte_order_mark() {
    let model = with_special_tokens();
    let piped = |bytes: &[u8], name: &str| {
        let arguments = ["generate", "-m", text(model.path()), "-n", "1", "--json", name];
        let done = dropcap(&arguments).write_stdin(bytes).output().unwrap();
        object(&String::from_utf8(done.stdout).unwrap())["prompt_tokens"].as_u64().unwrap()
    };
    for (bytes, tokens) in [
        (&b"Q: x\nA:"[..], 7),
        (b"Q: x\nA:\n", 7),
        (b"Q: x\nA:\n\n", 8),
        (b"Q: x\nA:\r\n", 7),
        (b"\xef\xbb\xbfQ: x\nA:\n", 7),
    ] {
        assert_eq!(piped(bytes, "-"), tokens, "{bytes:?}");
    }
    let given =
        |prompt| object(&output(&["generate", "-m", text(model.path()), "-n", "1", "--json", "-p", prompt]));
    assert_eq!(given("Q: x\nA:\n\n")["prompt_tokens"], 9);
    let arguments = ["generate", "-m", text(model.path()), "-n", "1", "--json", "-f", "-"];
    let done = dropcap(&arguments).write_stdin("\u{feff}{\"prompt\":\"x\\n\"}\n").output().unwrap();
    assert_eq!(object(&String::from_utf8(done.stdout).unwrap())["prompt_tokens"], 2);
}

#[test]
fn a_prompt_that_ends_in_a_replacement_character_is_no_part_of_the_text() {
    let model = with_special_tokens();
    let run = |prompt: &str| {
        let arguments =
            ["generate", "-m", text(model.path()), "-n", "4", "--ignore-eos", "--json", "-p", prompt];
        object(&output(&arguments))
    };
    let found = run("x\u{fffd}");
    let ids: Vec<u32> = serde_json::from_value(found["token_ids"].clone()).unwrap();
    let tokenizer = dropcap_model::Tokenizer::open(model.path()).unwrap();
    assert_eq!(found["text"], tokenizer.decode(&ids).unwrap());
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
fn a_stop_string_that_the_last_allowed_token_completes_is_the_reason() {
    let model = copy("gpt2_dcp", 97);
    let common = ["generate", "-m", text(model.path()), "-p", "w3 w4 w5", "--json", "--ignore-eos"];
    let run = |more: &[&str]| -> Value {
        serde_json::from_str(output(&[&common[..], more].concat()).lines().last().unwrap()).unwrap()
    };
    let whole = run(&["-n", "30"])["text"].as_str().unwrap().to_owned();
    let words: Vec<&str> = whole.split_whitespace().collect();
    // A word that no word before it contains.
    let new = |i: &usize| !words[..*i].iter().any(|word| word.contains(words[*i]));
    let last = (1..words.len()).rev().find(new).unwrap();
    let (completes, stop) = (last + 1, words[last]);
    let object = run(&["-n", &completes.to_string(), "--stop", stop]);
    assert_eq!(object["finish_reason"], "stop");
    assert_eq!(object["text"].as_str().unwrap(), &whole[..whole.find(stop).unwrap()]);
    assert_eq!(run(&["-n", &(completes - 1).to_string(), "--stop", stop])["finish_reason"], "length");
}

#[test]
fn a_text_that_outgrows_the_cap_is_printed_with_its_reason_and_a_sum_that_adds_up() {
    let model = copy("gpt2_dcp", 97);
    // Three layers: nine pages of 12288 bytes hold 96 tokens, and a few bytes are left.
    let common = [
        "generate",
        "-m",
        text(model.path()),
        "-p",
        "w3 w4 w5",
        "-n",
        "120",
        "--ignore-eos",
        "--method",
        "none",
    ];
    let whole = output(&[&common[..], &["--json"]].concat());
    let whole: Value = serde_json::from_str(&whole).unwrap();
    let capped = [&common[..], &["--kv-limit", "110KiB"]].concat();
    let sum = [
        "after 96 tokens",
        "holds 9 pages and needs 3 more",
        "12 pages of 12288 bytes",
        "147456 bytes (144 KiB)",
        "112640 bytes (110 KiB) has room for 9 pages",
    ];

    let json = dropcap(&[&capped[..], &["--json"]].concat()).output().unwrap();
    assert!(!json.status.success(), "the text is not what was asked for");
    let object: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(object["finish_reason"], "out_of_memory");
    assert_eq!(object["completion_tokens"], 94);
    let ids = |object: &Value| object["token_ids"].as_array().unwrap().clone();
    assert_eq!(ids(&object), ids(&whole)[..94]);
    assert!(whole["text"].as_str().unwrap().starts_with(object["text"].as_str().unwrap()));
    let errors = String::from_utf8(json.stderr).unwrap();
    for words in sum {
        assert!(object["error"].as_str().unwrap().contains(words), "{words}: {object}");
        assert!(errors.contains(words), "{words}: {errors}");
    }

    let plain = dropcap(&capped).output().unwrap();
    assert!(!plain.status.success());
    assert!(String::from_utf8(plain.stdout).unwrap().starts_with(object["text"].as_str().unwrap()));

    let refused = failure(&[&common[..], &["--kv-limit", "36863"]].concat());
    assert!(refused.contains("36863") && refused.contains("36864"), "{refused}");
}

#[test]
fn prompts_that_never_fit_are_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let line = |length: usize| format!("{{\"ids\":{:?},\"max_tokens\":3}}", vec![5; length]);
    std::fs::write(&file, [line(20), line(97), line(30)].join("\n")).unwrap();
    let model = golden("gpt2_dcp");
    let arguments = ["generate", "-m", text(&model), "-f", text(&file), "--json", "--kv-limit", "110KiB"];
    let printed = dropcap(&arguments).output().unwrap();
    assert!(!printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["token_ids"].is_array() && lines[2]["token_ids"].is_array());
    let error = lines[1]["error"].as_str().unwrap();
    for words in ["a prompt of 97 tokens", "12 pages", "147456 bytes", "112640 bytes (110 KiB)", "9 pages"] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_trace_on_a_full_disk_costs_no_text() {
    let model = copy("gpt2_dcp", 97);
    let common =
        ["generate", "-m", text(model.path()), "-p", "w3 w4 w5", "-n", "9", "--json", "--ignore-eos"];
    let ids = |printed: &[u8]| serde_json::from_slice::<Value>(printed).unwrap()["token_ids"].clone();
    let expected = ids(output(&common).as_bytes());
    let traced = dropcap(&[&common[..], &["--trace", "/dev/full"]].concat()).output().unwrap();
    assert_eq!(ids(&traced.stdout), expected);
    assert_eq!(traced.status.code(), Some(1));
    let errors = String::from_utf8(traced.stderr).unwrap();
    assert!(errors.contains("the trace is not whole") && errors.contains("No space left"), "{errors}");
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
fn weights_and_cache_in_sixteen_bits_or_codes_stay_close_to_float32() {
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
    // Eleven and eight bits of mantissa, 255 and 15 steps of a group, through four layers.
    for (dtype, kv_dtype, allowed) in [
        ("f16", "f16", 5e-3),
        ("f32", "bf16", 3e-2),
        ("bf16", "bf16", 5e-2),
        ("f32", "q8", 3e-2),
        ("f32", "q4", 3e-1),
    ] {
        let found = logits(dtype, kv_dtype);
        let off = exact.iter().zip(&found).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(off > 0.0 && off < allowed * scale, "{dtype} {kv_dtype}: off by {off} of {scale}");
    }
}
