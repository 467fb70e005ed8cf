//! `config.json` of every family, in both styles, and everything that can be wrong with one.

use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use dropcap_model::{DecoderConfig, Family, Mlp, ModelError, NormKind, Position, RopeScaling};
use serde_json::{Value, json};

const MODELS: [&str; 7] = ["gpt2m", "llama", "llama31_rope", "mistral", "mistral_sw24", "qwen2", "qwen3"];

fn fixture(model: &str, file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model).join(file)
}

fn value(model: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(model, "config.json")).unwrap()).unwrap()
}

fn parse(value: &Value) -> Result<DecoderConfig, ModelError> {
    DecoderConfig::parse(Path::new("dir/config.json"), value.to_string().as_bytes())
}

fn parsed(value: &Value) -> DecoderConfig {
    parse(value).unwrap()
}

/// The fixture with some keys replaced; a key that is replaced by the text "(absent)" is taken out.
fn with(model: &str, changes: &[(&str, Value)]) -> Value {
    let mut config = value(model);
    for (key, new) in changes {
        let config = config.as_object_mut().unwrap();
        if new == "(absent)" {
            config.remove(*key);
        } else {
            config.insert((*key).to_owned(), new.clone());
        }
    }
    config
}

#[test]
fn both_styles_of_config_mean_the_same() {
    for model in MODELS {
        let read =
            |file| DecoderConfig::parse(Path::new(file), &std::fs::read(fixture(model, file)).unwrap());
        assert_eq!(read("config.json").unwrap(), read("config_v4.json").unwrap(), "{model}");
    }
}

#[test]
fn a_llama_config_is_read_in_full() {
    let config = parsed(&value("llama"));
    assert_eq!(config.family, Family::Llama);
    assert_eq!(
        (config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim),
        (4, 64, 8, 2, 16)
    );
    assert_eq!((config.intermediate, config.vocabulary, config.max_positions), (128, 128, 1024));
    assert_eq!((config.norm.kind, config.norm.epsilon), (NormKind::RmsNorm, 1e-5));
    assert_eq!((config.mlp, config.tied_embeddings), (Mlp::SwiGlu, false));
    assert!(!config.attention_bias && !config.output_bias && !config.mlp_bias && !config.qk_norm);
    assert_eq!((config.sliding_window.as_slice(), config.dtype), (&[None; 4][..], Some(DType::F32)));
    assert_eq!((config.bos_token_id, config.eos_token_ids.len()), (None, 0));
    assert_eq!((config.query_width(), config.key_width(), config.up_width()), (128, 32, 256));
    assert_eq!(config.attention_scale(3), 0.25);
    let Position::Rope(rope) = config.position else { panic!("no rope") };
    assert_eq!((rope.theta, rope.scaling), (10_000.0, RopeScaling::Default));
}

#[test]
fn the_families_differ_where_they_should() {
    let gpt2 = parsed(&value("gpt2m"));
    assert_eq!((gpt2.family, gpt2.norm.kind, gpt2.mlp), (Family::Gpt2, NormKind::LayerNorm, Mlp::GeluTanh));
    assert_eq!((gpt2.position, gpt2.intermediate, gpt2.up_width()), (Position::Learned, 256, 256));
    assert!(gpt2.attention_bias && gpt2.output_bias && gpt2.mlp_bias && gpt2.tied_embeddings);
    assert_eq!((gpt2.bos_token_id, gpt2.eos_token_ids.len()), (Some(0), 0));

    let qwen2 = parsed(&value("qwen2"));
    assert_eq!((qwen2.attention_bias, qwen2.output_bias, qwen2.head_dim), (true, false, 16));
    let qwen3 = parsed(&value("qwen3"));
    assert_eq!((qwen3.attention_bias, qwen3.qk_norm, qwen3.query_width()), (false, true, 64));
    assert_eq!(parsed(&value("mistral")).sliding_window, [None; 3]);
    assert_eq!(parsed(&value("mistral_sw24")).sliding_window, [Some(24); 3]);
    let Position::Rope(rope) = parsed(&value("llama31_rope")).position else { panic!("no rope") };
    assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 8.0, original_positions: 64, .. }));

    let biased = with("llama", &[("attention_bias", json!(true)), ("mlp_bias", json!(true))]);
    let biased = parsed(&biased);
    assert!(biased.attention_bias && biased.output_bias && biased.mlp_bias);
}

#[test]
fn absent_keys_take_the_defaults_of_the_family() {
    let gone = json!("(absent)");
    let llama = parsed(&with(
        "llama",
        &[
            ("num_key_value_heads", gone.clone()),
            ("head_dim", gone.clone()),
            ("rope_parameters", gone.clone()),
            ("rms_norm_eps", gone.clone()),
            ("hidden_act", gone.clone()),
            ("bos_token_id", gone.clone()),
            ("eos_token_id", gone.clone()),
            ("dtype", gone.clone()),
            ("model_type", gone.clone()),
        ],
    ));
    assert_eq!((llama.kv_heads, llama.head_dim, llama.norm.epsilon), (8, 8, 1e-6));
    assert_eq!((llama.bos_token_id, llama.eos_token_ids, llama.dtype), (Some(1), vec![2], None));
    assert!(matches!(llama.position, Position::Rope(rope) if rope.theta == 10_000.0));
    // Absent and null mean different windows for Mistral.
    let mistral = |window: Value| parsed(&with("mistral", &[("sliding_window", window)])).sliding_window[0];
    assert_eq!((mistral(gone.clone()), mistral(Value::Null)), (Some(4096), None));
    // 50256 is outside this vocabulary of 128 tokens.
    let gpt2 = parsed(&with("gpt2m", &[("eos_token_id", gone.clone()), ("n_inner", json!(100))]));
    assert_eq!((gpt2.eos_token_ids.len(), gpt2.intermediate), (0, 100));
    let large = parsed(&with("gpt2m", &[("eos_token_id", gone), ("vocab_size", json!(50257))]));
    assert_eq!(large.eos_token_ids, [50256]);
}

#[test]
fn end_tokens_may_be_one_or_many() {
    let eos = |ids: Value| parsed(&with("llama", &[("eos_token_id", ids)])).eos_token_ids;
    assert_eq!(eos(json!(7)), [7]);
    assert_eq!(eos(json!([7, 9])), [7, 9]);
    assert_eq!(eos(json!([7, 128])), [7]);
}

#[test]
fn gpt2_scales_scores_as_it_is_told() {
    let scale = |by_width: bool, by_layer: bool, layer| {
        let changes =
            [("scale_attn_weights", json!(by_width)), ("scale_attn_by_inverse_layer_idx", json!(by_layer))];
        parsed(&with("gpt2m", &changes)).attention_scale(layer)
    };
    assert_eq!(scale(true, false, 3), 1.0 / 8f32.sqrt());
    assert_eq!(scale(false, false, 3), 1.0);
    assert_eq!(scale(false, true, 3), 0.25);
    assert_eq!(scale(true, true, 1), 1.0 / 8f32.sqrt() / 2.0);
    let upcast =
        with("gpt2m", &[("reorder_and_upcast_attn", json!(true)), ("activation_function", json!("gelu"))]);
    assert_eq!(parsed(&upcast).mlp, Mlp::Gelu);
}

#[test]
fn qwen_windows_cover_the_layers_that_the_config_says() {
    let windows = |changes: &[(&str, Value)]| parsed(&with("qwen2", changes)).sliding_window;
    let (on, gone, window) = (json!(true), json!("(absent)"), json!(24));
    assert_eq!(windows(&[("sliding_window", window.clone())]), [None; 3], "switched off");
    let by_number = [
        ("use_sliding_window", on.clone()),
        ("sliding_window", window.clone()),
        ("layer_types", gone.clone()),
        ("max_window_layers", json!(1)),
    ];
    assert_eq!(windows(&by_number), [None, Some(24), Some(24)]);
    let mut all = by_number.clone();
    all[3].1 = json!(0);
    assert_eq!(windows(&all), [Some(24); 3]);
    let by_type = [
        ("use_sliding_window", on.clone()),
        ("sliding_window", window),
        ("layer_types", json!(["sliding_attention", "full_attention", "sliding_attention"])),
    ];
    assert_eq!(windows(&by_type), [Some(24), None, Some(24)]);
    // The types say that there are windows, and nothing says how wide.
    assert!(parse(&with("qwen2", &by_type[2..])).is_err());
    assert!(parse(&with("qwen2", &[("layer_types", json!(["full_attention"]))])).is_err());
    assert!(parse(&with("qwen3", &[("layer_types", json!(vec!["chunked_attention"; 3]))])).is_err());
}

#[test]
fn values_out_of_bounds_are_refused_with_file_key_value_and_limit() {
    let cases: Vec<(&str, &str, Value)> = vec![
        ("llama", "num_hidden_layers", json!(0)),
        ("llama", "num_hidden_layers", json!(1u64 << 31)),
        ("llama", "num_hidden_layers", json!("(absent)")),
        ("llama", "num_hidden_layers", json!(4.0)),
        ("llama", "num_hidden_layers", json!("4")),
        ("llama", "hidden_size", json!(0)),
        ("llama", "hidden_size", json!(u64::MAX)),
        ("llama", "hidden_size", json!(-64)),
        ("llama", "num_attention_heads", json!(0)),
        ("llama", "num_attention_heads", json!(1u64 << 31)),
        ("llama", "num_key_value_heads", json!(0)),
        ("llama", "num_key_value_heads", json!(3)),
        ("llama", "num_key_value_heads", json!(16)),
        ("llama", "head_dim", json!(0)),
        ("llama", "head_dim", json!(15)),
        ("llama", "head_dim", json!(1 << 20)),
        ("llama", "intermediate_size", json!(0)),
        ("llama", "vocab_size", json!(0)),
        ("llama", "vocab_size", json!(1u64 << 40)),
        ("llama", "max_position_embeddings", json!(0)),
        ("llama", "rms_norm_eps", json!(0.0)),
        ("llama", "rms_norm_eps", json!(-1e-5)),
        ("llama", "rms_norm_eps", json!(2)),
        ("llama", "rms_norm_eps", json!("NaN")),
        ("llama", "rope_theta", json!(0)),
        ("llama", "rope_theta", json!(-10000.0)),
        ("llama", "rope_theta", json!(1e30)),
        ("llama", "rope_theta", json!("NaN")),
        ("llama", "tie_word_embeddings", json!("yes")),
        ("llama", "eos_token_id", json!("</s>")),
        ("llama", "eos_token_id", json!(-1)),
        ("llama", "eos_token_id", json!(vec![1; 300])),
        ("llama", "rope_scaling", json!("linear")),
        ("llama", "architectures", json!("LlamaForCausalLM")),
        ("llama", "dtype", json!(32)),
        ("gpt2m", "n_layer", json!(0)),
        ("gpt2m", "n_head", json!(7)),
        ("gpt2m", "n_embd", json!(65)),
        ("gpt2m", "n_positions", json!(0)),
        ("gpt2m", "n_inner", json!(-1)),
        ("gpt2m", "layer_norm_epsilon", json!(0.0)),
        ("mistral", "sliding_window", json!(0)),
        ("mistral", "sliding_window", json!(u64::MAX)),
        ("qwen2", "max_window_layers", json!(-1)),
    ];
    for (model, key, bad) in cases {
        let mut changes = vec![(key, bad.clone())];
        if key == "max_window_layers" {
            changes.extend([
                ("use_sliding_window", json!(true)),
                ("sliding_window", json!(8)),
                ("layer_types", json!("(absent)")),
            ]);
        }
        let Err(error) = parse(&with(model, &changes)) else { panic!("{model} {key} {bad} is accepted") };
        let text = error.to_string();
        assert!(matches!(error, ModelError::ConfigValue { .. }), "{key}: {text}");
        assert!(text.contains("dir/config.json") && text.contains("must be"), "{text}");
        // A fault between two keys may name either of them.
        let named = [key, "n_embd", "hidden_size"].iter().any(|key| text.contains(key));
        assert!(named, "{key}: {text}");
    }
}

#[test]
fn a_hidden_size_that_heads_do_not_divide_needs_a_head_width() {
    let changes = [("num_attention_heads", json!(6)), ("head_dim", Value::Null)];
    let text = parse(&with("llama", &changes)).unwrap_err().to_string();
    assert!(text.contains("num_attention_heads = 6"), "{text}");
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    let rope = |rope: Value| ("rope_parameters", rope);
    let cases: Vec<(&str, (&str, Value), &str)> = vec![
        ("llama", ("model_type", json!("mamba")), "qwen3 (Qwen3ForCausalLM)"),
        ("llama", ("architectures", json!(["LlamaForSequenceClassification"])), "llama (LlamaForCausalLM)"),
        ("llama", ("quantization_config", json!({"quant_method": "gptq"})), "BF16"),
        ("llama", ("hidden_act", json!("relu")), "silu"),
        ("llama", ("partial_rotary_factor", json!(0.5)), "whole heads"),
        ("llama", rope(json!({"rope_type": "dynamic", "factor": 2.0})), "llama3"),
        ("llama", rope(json!({"rope_type": "longrope"})), "yarn"),
        ("llama", rope(json!({"type": "mrope"})), "linear"),
        ("mistral", ("attention_bias", json!(true)), "no biases"),
        ("mistral", ("layer_types", json!(["full_attention"])), "sliding_window"),
        ("gpt2m", ("activation_function", json!("relu")), "gelu_new"),
        ("gpt2m", ("add_cross_attention", json!(true)), "decoders"),
    ];
    for (model, change, supported) in cases {
        let Err(error) = parse(&with(model, std::slice::from_ref(&change))) else {
            panic!("{change:?} is accepted")
        };
        let text = error.to_string();
        let kind = matches!(
            error,
            ModelError::UnsupportedFeature { .. } | ModelError::UnsupportedArchitecture { .. }
        );
        assert!(kind && text.contains(supported) && text.contains("dir/config.json"), "{text}");
    }
    let neither = with("llama", &[("model_type", json!("(absent)")), ("architectures", json!("(absent)"))]);
    assert!(matches!(parse(&neither), Err(ModelError::UnsupportedArchitecture { .. })));
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    let deep = "[".repeat(100_000);
    for text in ["", "null", "[]", "{", "{\"rms_norm_eps\": NaN}", "\u{feff}{}", &deep] {
        let error = DecoderConfig::parse(Path::new("config.json"), text.as_bytes()).unwrap_err();
        assert!(matches!(error, ModelError::Json { .. }), "{error}");
    }
    let long = vec![b' '; 5 << 20];
    let error = DecoderConfig::parse(Path::new("config.json"), &long).unwrap_err();
    assert!(matches!(error, ModelError::FileTooLong { .. }));
    let absent = DecoderConfig::open(Path::new("no/such/directory")).unwrap_err();
    assert!(absent.to_string().contains("no/such/directory/config.json"), "{absent}");
}
