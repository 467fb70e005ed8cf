//! The names that GGUF and Hugging Face give to the same tensors, and in what their numbers are arranged differently.

/// How the rows of a GGUF tensor stand to those of the tensor that it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// Row by row the same.
    Same,
    /// Rows of each head interleaved: pairs of dimensions that turn together lie side by side, as llama.cpp turns them
    /// for its `llama` architecture.
    Interleaved {
        /// Rows of a head.
        head: usize,
    },
    /// Inputs and outputs exchanged (GPT-2's `Conv1D`).
    Turned,
}

impl Arrangement {
    /// Where the file has a row.
    pub(crate) fn place(self, row: usize) -> usize {
        match self {
            Self::Same | Self::Turned => row,
            Self::Interleaved { head } => {
                let (within, half) = (row % head, (head / 2).max(1));
                row - within + within % half * 2 + within / half
            }
        }
    }
}

type Names = [(&'static str, &'static str)];

const LLAMA: (&Names, &str, &Names) = (
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")],
    "model.layers",
    &[
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
);
const GPT2: (&Names, &str, &Names) = (
    &[
        ("token_embd", "transformer.wte"),
        ("position_embd", "transformer.wpe"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    "transformer.h",
    &[
        ("attn_norm", "ln_1"),
        ("attn_qkv", "attn.c_attn"),
        ("attn_output", "attn.c_proj"),
        ("ffn_norm", "ln_2"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_down", "mlp.c_proj"),
    ],
);

/// The Hugging Face name of a GGUF tensor, and how it is arranged; none for one that no model here has.
///
/// `head` gives the rows of a head of queries and keys.
pub(crate) fn translate(architecture: &str, name: &str, head: usize) -> Option<(String, Arrangement)> {
    let gpt2 = architecture == "gpt2";
    let (top, layers, within) = if gpt2 { GPT2 } else { LLAMA };
    let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let of = |names: &Names, stem: &str| names.iter().find(|row| row.0 == stem).map(|row| row.1);
    let Some((layer, stem)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return Some((format!("{}.{kind}", of(top, stem)?), Arrangement::Same));
    };
    let arrangement = match stem {
        "attn_q" | "attn_k" if architecture == "llama" => Arrangement::Interleaved { head },
        "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down" if gpt2 && kind == "weight" => Arrangement::Turned,
        _ => Arrangement::Same,
    };
    // Numbers as a writer writes them, so that no two names are one tensor.
    let number: usize = layer.parse().ok().filter(|number: &usize| number.to_string() == layer)?;
    Some((format!("{layers}.{number}.{}.{kind}", of(within, stem)?), arrangement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_family() {
        let llama = |name: &str| translate("llama", name, 4);
        let q = Arrangement::Interleaved { head: 4 };
        assert_eq!(
            llama("blk.12.attn_q.weight"),
            Some(("model.layers.12.self_attn.q_proj.weight".into(), q))
        );
        assert_eq!(llama("output.weight"), Some(("lm_head.weight".into(), Arrangement::Same)));
        for unknown in
            ["blk.01.attn_q.weight", "blk.x.attn_q.weight", "blk.0.attn_q", "blk.0.ffn_gate_inp.weight", ""]
        {
            assert_eq!(llama(unknown), None, "{unknown}");
        }
        let qwen = translate("qwen3", "blk.0.attn_k.weight", 4);
        assert_eq!(qwen, Some(("model.layers.0.self_attn.k_proj.weight".into(), Arrangement::Same)));
        let gpt2 = translate("gpt2", "blk.3.ffn_up.weight", 4);
        assert_eq!(gpt2, Some(("transformer.h.3.mlp.c_fc.weight".into(), Arrangement::Turned)));
        assert_eq!(translate("gpt2", "blk.3.ffn_up.bias", 4).map(|found| found.1), Some(Arrangement::Same));
    }

    #[test]
    fn interleaved_rows_are_the_halves_of_a_head_in_turn() {
        let arrangement = Arrangement::Interleaved { head: 6 };
        let places: Vec<usize> = (0..12).map(|row| arrangement.place(row)).collect();
        assert_eq!(places, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
