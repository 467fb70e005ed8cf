//! Models of every family that are as small as a test wants them.

use std::path::Path;

use dropcap_model::DecoderConfig;

/// How large the models are: two layers, four heads of which two have keys and values (GPT-2: two heads).
#[derive(Clone, Copy)]
pub(crate) struct Tiny {
    pub(crate) hidden: usize,
    /// Of Qwen2, whose heads divide it.
    pub(crate) hidden_of_qwen2: usize,
    pub(crate) head_dim: usize,
    pub(crate) intermediate: usize,
    pub(crate) vocabulary: usize,
    pub(crate) positions: usize,
    /// Mistral's.
    pub(crate) window: usize,
}

/// One of each family, from the `config.json` that a user would have.
pub(crate) fn families(tiny: Tiny) -> Vec<(&'static str, DecoderConfig)> {
    let Tiny { hidden, hidden_of_qwen2, head_dim, intermediate, vocabulary, positions, window } = tiny;
    let parse = |text: &str| DecoderConfig::parse(Path::new("config.json"), text.as_bytes()).unwrap();
    let gpt2 = format!(
        r#"{{"model_type":"gpt2","architectures":["GPT2LMHeadModel"],"n_layer":2,"n_embd":{hidden},"n_head":2,
        "n_positions":{positions},"vocab_size":{vocabulary}}}"#
    );
    // What a family calls itself, its hidden size, whether its head is the embedding, and what it says beside that.
    let llama = |kind: &str, class: &str, hidden: usize, tied: bool, more: &str| {
        parse(&format!(
            r#"{{"model_type":"{kind}","architectures":["{class}ForCausalLM"],"num_hidden_layers":2,"hidden_size":{hidden},
            "num_attention_heads":4,"num_key_value_heads":2,{more}"intermediate_size":{intermediate},
            "vocab_size":{vocabulary},"max_position_embeddings":{positions},"rms_norm_eps":1e-5,"rope_theta":100.0,
            "tie_word_embeddings":{tied},"hidden_act":"silu"}}"#
        ))
    };
    let width = format!(r#""head_dim":{head_dim},"#);
    vec![
        ("gpt2", parse(&gpt2)),
        ("llama", llama("llama", "Llama", hidden, false, &width)),
        (
            "mistral",
            llama("mistral", "Mistral", hidden, false, &format!(r#"{width}"sliding_window":{window},"#)),
        ),
        ("qwen2", llama("qwen2", "Qwen2", hidden_of_qwen2, true, "")),
        ("qwen3", llama("qwen3", "Qwen3", hidden, false, &width)),
    ]
}
