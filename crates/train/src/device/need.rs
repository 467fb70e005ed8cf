//! How much memory a training takes on a device, before any is taken.

use dropcap_kernels::DType;
use dropcap_kernels::gated_attention::{GateScratch, GateTrail};
use dropcap_model::{DecoderConfig, WeightPlan};

use super::factors::FactorRoom;
use super::room::SLICE;
use super::weights::HEAD_ROWS;
use super::{OtherModel, Plan, Teacher};
use crate::network::{GateForm, Group, Layout};

/// Bytes on a device, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Of values, gradients, moments, the copy for products, and a teacher.
    pub parameters: usize,
    /// Of one micro-batch's activations and their gradients.
    pub activations: usize,
    /// Of compiled kernels, the library of products and the driver: a guess from what was seen.
    pub rest: usize,
}

/// The context, compiled kernels and workspaces: rather too much than too little.
const REST: usize = 1 << 30;

impl Need {
    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parameters + self.activations + self.rest
    }
}

impl Plan<'_> {
    /// What it takes on a device.
    #[must_use]
    pub fn need(&self) -> Need {
        let config = self.config;
        let layout = &self.layout;
        let (all, weights) = (layout.len(), layout.group(Group::Weights).len());
        let narrow = self.dtype.bytes();
        // Products read a copy of the values where their format is another one; of what they alone read and nobody changes,
        // there is nothing but the copy.
        let held = |plan: &WeightPlan, all: usize, is_held: bool| match self.dtype {
            DType::F32 => 4 * all,
            _ => (4 + narrow) * all - if is_held { 4 * products(plan) } else { 0 },
        };
        let room = self.room;
        let rows = room.sequences * room.tokens;
        // Of a teacher the values, and what a pass of its own writes.
        let (taught, looks) = match self.teacher {
            Teacher::None | Teacher::Student => (0, 0),
            Teacher::Apart(_) => (held(self.plan, weights, true), 0),
            Teacher::Other(OtherModel { config, plan, .. }) => {
                let look = layer(config, None, narrow) + 2 * 4 * config.hidden + narrow * config.hidden;
                (held(plan, Layout::new(config, plan, None).len(), true), rows * look)
            }
        };
        let trained = layout.trained();
        let (merged, thin) = self.factors.map_or((0, 0), |form| FactorRoom::sizes(form, self.plan));
        let parameters =
            held(self.plan, all, trained.start >= weights) + taught + 12 * trained.len() + narrow * merged;

        let (heads, gates) = self.gates.map_or((0, 0), |form| (form.heads, form.row()));
        let fused = config.query_width() + 2 * config.key_width();
        let (hidden, mixed) = (config.hidden, config.query_width());
        let (up, active) = (config.up_width(), config.intermediate);
        let layer = layer(config, self.gates, narrow);
        let layers = if room.recompute { 1 } else { config.layers };
        let back = narrow * (2 * hidden + mixed + fused + up + active + 2 * gates)
            + 4 * (hidden + config.heads + 2 * gates);
        let stream = 4 * hidden * (config.layers + 1);
        let tiles = room.tokens.div_ceil(64);
        // Pairs of a strip, and the smallest scores of keys.
        let pairs = room.sequences * config.kv_heads * tiles * tiles * 64 * 64 * narrow;
        let pairs = pairs.min(GateScratch::STRIP_BYTES);
        // And those that each layer keeps.
        let kept = self.gates.map_or(0, |form| 4 * GateTrail::numbers(room.tokens, form.heads, form.width));
        let (votes, strips) = if gates > 0 { (heads * (4 * tiles + 16) + 2 * hidden, pairs) } else { (0, 0) };
        let logits = 4 * SLICE.min(rows) * config.vocabulary.next_multiple_of(HEAD_ROWS);
        let outputs = if matches!(self.teacher, Teacher::None) { 1 } else { 2 };
        let activations = rows
            * (layers * (layer + kept)
                + back
                + stream
                + votes
                + outputs * narrow * hidden
                + 2 * narrow * thin)
            + outputs * logits
            + strips
            + looks;
        Need { parameters, activations, rest: REST }
    }
}

/// Numbers of the matrices that products read.
fn products(plan: &WeightPlan) -> usize {
    plan.products().chain(plan.head.iter()).map(|matrix| matrix.outputs() * matrix.inputs).sum()
}

/// Bytes of one layer's activations for a token.
fn layer(config: &DecoderConfig, gates: Option<GateForm>, narrow: usize) -> usize {
    let (heads, gates) = gates.map_or((0, 0), |form| (form.heads, form.row()));
    let fused = config.query_width() + 2 * config.key_width();
    let raw = if config.qk_norm { fused } else { 0 };
    narrow
        * (2 * config.hidden + fused + raw + config.query_width() + config.up_width() + config.intermediate)
        + 4 * (config.hidden + 4 + config.heads + 2 * gates + heads)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dropcap_model::{DecoderConfig, WeightPlan};

    use super::*;
    use crate::backend::Room;
    use crate::network::{FactorForm, Layout};

    #[test]
    fn a_held_model_of_eight_billion_takes_two_bytes_a_parameter_beside_its_tables() {
        let json = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
            "max_position_embeddings": 8192, "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "tie_word_embeddings": false, "hidden_act": "silu"}"#;
        let config = DecoderConfig::parse(Path::new("test"), json.as_bytes()).unwrap();
        let plan = WeightPlan::of(&config, &|_| false);
        let targets =
            plan.products().flat_map(|matrix| &matrix.parts).map(|part| part.tensor.clone()).collect();
        let form = FactorForm { rank: 16, scale: 2.0, targets };
        let layout = Layout::new(&config, &plan, None).with_factors(&form, &plan);
        let (all, trained) = (layout.len(), layout.trained().len());
        let parameters = |factors, layout| {
            let plan = Plan {
                config: &config,
                plan: &plan,
                gates: None,
                factors,
                scales: &[],
                dtype: DType::Bf16,
                cache: DType::Bf16,
                room: Room { sequences: 2, tokens: 4096, recompute: true },
                layout,
                held: &[],
                still: Vec::new(),
                teacher: Teacher::Student,
            };
            plan.need().parameters
        };
        let table = 128_256 * 4096;
        let lora = parameters(Some(&form), layout);
        // The largest stack is that of the MLP's first product.
        let expected = 2 * all + 4 * table + 16 * trained + 2 * 2 * 14336 * 4096;
        assert!(lora.abs_diff(expected) < 2 << 20, "{lora} {expected}");
        let whole = parameters(None, Layout::new(&config, &plan, None));
        assert_eq!(whole, 18 * (all - trained));
        let taught = |teacher| {
            let layout = Layout::new(&config, &plan, None);
            let room = Room { sequences: 2, tokens: 4096, recompute: true };
            let plan = Plan {
                config: &config,
                plan: &plan,
                gates: None,
                factors: None,
                scales: &[],
                dtype: DType::Bf16,
                cache: DType::Bf16,
                room,
                layout,
                held: &[],
                still: Vec::new(),
                teacher,
            };
            plan.need()
        };
        let (apart, other) = (
            taught(Teacher::Apart(&[])),
            taught(Teacher::Other(OtherModel { config: &config, plan: &plan, values: &[] })),
        );
        // The same model as another one holds as much, and writes its own numbers.
        assert_eq!(apart.parameters, other.parameters);
        let written = (other.activations - apart.activations) / (2 * 4096);
        // Of one layer 2 bytes of 61,440 numbers and 4 of 4,132; two streams of 4 bytes, and 2 of what comes out.
        assert_eq!(written, 2 * 61_440 + 4 * 4_132 + (2 * 4 + 2) * 4_096);
    }
}
