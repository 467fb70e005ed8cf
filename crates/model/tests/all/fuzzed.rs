//! The fuzz bodies on seeded inputs.

use std::path::Path;

use dropcap_model::fuzzing;
use dropcap_mutation::{changed, random_bytes, run};
use proptest::prelude::*;

/// What values and stretches of a config are replaced by.
const PIECES: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2147483648",
    "18446744073709551615",
    "1e308",
    "1e-45",
    "0.5",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "NaN",
    "\"yarn\"",
    "\"linear\"",
    "\"sliding_attention\"",
    "[",
    "}",
    ",",
];

const GENERATION: &str =
    r#"{"bos_token_id": 1, "eos_token_id": [2, 30], "pad_token_id": null, "do_sample": true}"#;

const ADAPTER: &str = r#"{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "m", "r": 8, "lora_alpha": 16,
    "use_rslora": true, "bias": "none", "target_modules": ["q_proj"], "rank_pattern": {"layers.0.q_proj": 4},
    "alpha_pattern": {"v_proj": 2.5}, "modules_to_save": null, "init_lora_weights": true}"#;

/// One of each kind of model, with what stands around it.
const TOKENIZERS: [&str; 3] = [
    r#"{"version":"1.0","truncation":{"direction":"Right","max_length":8,"strategy":"LongestFirst","stride":0},"padding":null,
"added_tokens":[{"id":5,"content":"<s>","single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true},
{"id":6,"content":"zz","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false}],
"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"String":" "},"content":"_"}]},
"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|[a-b]+|\\S"},"behavior":"Isolated","invert":false},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[5],"tokens":["<s>"]}}},
"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},
"model":{"type":"BPE","dropout":null,"unk_token":"<0x61>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,
"byte_fallback":true,"ignore_merges":false,"vocab":{"a":0,"b":1,"ab":2,"_":3,"<0x61>":4},"merges":["a b"]}}"#,
    r#"{"version":"1.0","truncation":null,"padding":{"strategy":{"Fixed":64},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,
"pad_type_id":0,"pad_token":"!"},"added_tokens":[],"normalizer":{"type":"Lowercase"},"pre_tokenizer":{"type":"Metaspace",
"replacement":"\u2581","prepend_scheme":"always","split":true},"post_processor":null,"decoder":{"type":"Metaspace",
"replacement":"\u2581","prepend_scheme":"always","split":true},
"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["\u2581a",-1.5],["b",-2.0]],"byte_fallback":false}}"#,
    r###"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"BertNormalizer","clean_text":true,
"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":null,
"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
"model":{"type":"WordPiece","unk_token":"[U]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[U]":0,"a":1,"##b":2}}}"###,
];
const TOKENIZER_PIECES: [&str; 24] = [
    "0",
    "1",
    "-1",
    "4294967295",
    "18446744073709551615",
    "1e308",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"a\"",
    "\"\\u0000\"",
    "(a*)*",
    "(?=",
    "{9999}",
    "\"WordLevel\"",
    "\"ByteLevel\"",
    "\"Digits\"",
    "\"Strip\"",
    "[",
    "]",
    "}",
    ",",
];

fn fixtures() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let models = ["gpt2m", "llama", "llama31_rope", "mistral_sw24", "qwen2", "qwen3"];
    let mut texts: Vec<String> = models
        .iter()
        .map(|model| std::fs::read_to_string(root.join(model).join("config.json")).unwrap())
        .collect();
    texts.push(texts[1].replace(
        "\"rope_type\": \"default\"",
        "\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 0.7, \"truncate\": false",
    ));
    texts
}

#[test]
fn random_bytes_never_panic_the_readers() {
    random_bytes(2000, |bytes| {
        fuzzing::config(bytes);
        fuzzing::generation_config(bytes);
        fuzzing::adapter_config(bytes);
        fuzzing::tokenizer(bytes);
    });
}

#[test]
fn changed_values_are_refused_or_make_a_sound_config() {
    let texts = fixtures();
    texts.iter().for_each(|text| fuzzing::config(text.as_bytes()));
    // One or two values, found by the colons before them.
    let changes =
        proptest::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&PIECES[..])), 1..3);
    run(6000, &(prop::sample::select(texts), changes), |(text, changes)| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (at, piece) in changes {
            let line = at.get_mut(&mut lines);
            if let Some((key, value)) = line.clone().split_once(": ") {
                let comma = if value.ends_with(',') { "," } else { "" };
                *line = format!("{key}: {piece}{comma}");
            }
        }
        fuzzing::config(lines.join("\n").as_bytes());
    });
}

#[test]
fn changed_bytes_never_panic_the_config() {
    let texts = fixtures();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    changed(3000, &texts, &PIECES, fuzzing::config);
}

#[test]
fn a_changed_generation_config_is_refused_or_names_tokens_that_there_are() {
    changed(3000, &[GENERATION], &PIECES, fuzzing::generation_config);
}

#[test]
fn a_changed_adapter_is_refused_or_has_factors() {
    fuzzing::adapter_config(ADAPTER.as_bytes());
    changed(4000, &[ADAPTER], &PIECES, fuzzing::adapter_config);
}

#[test]
fn a_changed_tokenizer_is_refused_or_makes_tokens_that_it_has() {
    TOKENIZERS.iter().for_each(|text| fuzzing::tokenizer(text.as_bytes()));
    changed(4000, &TOKENIZERS, &TOKENIZER_PIECES, fuzzing::tokenizer);
}
