//! Shapes of well-known models, for runs on random weights.

use anyhow::{Result, anyhow};
use dropcap_model::DecoderConfig;
use serde_json::{Value, json};

/// Names and configs; the rotary bases and epsilons do not matter for speed, the sizes do.
fn configs() -> [(&'static str, Value); 9] {
    let gpt2 = |layers: usize, hidden: usize, heads: usize| json!({"model_type": "gpt2", "n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": 1024, "vocab_size": 50257});
    let llama = |layers: usize, hidden: usize, heads: usize, intermediate: usize, tied: bool| {
        json!({"model_type": "llama", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
            "num_key_value_heads": 8, "intermediate_size": intermediate, "vocab_size": 128_256,
            "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "tie_word_embeddings": tied})
    };
    [
        ("gpt2", gpt2(12, 768, 12)),
        ("gpt2-medium", gpt2(24, 1024, 16)),
        ("gpt2-large", gpt2(36, 1280, 20)),
        ("gpt2-xl", gpt2(48, 1600, 25)),
        ("llama-1b", llama(16, 2048, 32, 8192, true)),
        ("llama-3b", llama(28, 3072, 24, 8192, true)),
        ("llama-8b", llama(32, 4096, 32, 14336, false)),
        (
            "smollm2-135m",
            json!({"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9,
                "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
                "max_position_embeddings": 8192, "rope_theta": 100_000.0, "tie_word_embeddings": true}),
        ),
        (
            "qwen3-0.6b",
            json!({"model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "num_attention_heads": 16,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151_936,
                "max_position_embeddings": 40960, "rope_theta": 1_000_000.0, "tie_word_embeddings": true}),
        ),
    ]
}

/// The shape called `name`, with at least `positions` positions.
pub fn named(name: &str, positions: usize) -> Result<DecoderConfig> {
    let configs = configs();
    let (_, config) = configs.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let known: Vec<_> = configs.iter().map(|(known, _)| *known).collect();
        anyhow!("no shape is called '{name}': there are {}", known.join(", "))
    })?;
    let mut config = DecoderConfig::parse(std::path::Path::new(name), config.to_string().as_bytes())?;
    config.max_positions = config.max_positions.max(positions);
    Ok(config)
}
