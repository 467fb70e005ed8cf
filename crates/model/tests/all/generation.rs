//! `generation_config.json` over a config.

use std::path::Path;

use dropcap_model::{DecoderConfig, GenerationConfig, ModelError};

fn config() -> DecoderConfig {
    let text = br#"{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2,
        "vocab_size": 100, "max_position_embeddings": 16, "intermediate_size": 8, "bos_token_id": 1, "eos_token_id": 2}"#;
    DecoderConfig::parse(Path::new("config.json"), text).unwrap()
}

fn parse(text: &str) -> Result<GenerationConfig, ModelError> {
    GenerationConfig::parse(Path::new("generation_config.json"), text.as_bytes(), &config())
}

#[test]
fn without_the_file_the_config_holds() {
    let directory = tempfile::TempDir::new().unwrap();
    let found = GenerationConfig::open(directory.path(), &config()).unwrap();
    assert_eq!(found, GenerationConfig { bos_token_id: Some(1), eos_token_ids: vec![2] });
    assert_eq!(parse("{}").unwrap(), found);
    assert_eq!(parse(r#"{"eos_token_id": null, "temperature": 0.6}"#).unwrap(), found);
}

#[test]
fn what_the_file_states_replaces_the_config() {
    let directory = tempfile::TempDir::new().unwrap();
    std::fs::write(directory.path().join("generation_config.json"), r#"{"eos_token_id": [7, 9, 100]}"#)
        .unwrap();
    let found = GenerationConfig::open(directory.path(), &config()).unwrap();
    assert_eq!(found, GenerationConfig { bos_token_id: Some(1), eos_token_ids: vec![7, 9] });
    assert_eq!(parse(r#"{"eos_token_id": 5, "bos_token_id": 6}"#).unwrap().bos_token_id, Some(6));
}

#[test]
fn garbage_is_refused() {
    for text in
        ["", "[]", r#"{"eos_token_id": "</s>"}"#, r#"{"eos_token_id": [1, "a"]}"#, r#"{"bos_token_id": -1}"#]
    {
        let error = parse(text).unwrap_err();
        assert!(error.to_string().contains("generation_config.json"), "{error}");
    }
}
