//! Where a layout's tensors lie on a device.

use std::collections::HashSet;
use std::ops::Range;

use dropcap_methods::GateLayout;
use dropcap_model::{LayerPlan, MatrixPlan, WeightPlan, peft_factor};

use crate::network::Layout;

/// Elements whose multiples tensors begin at: 16 bytes and more in every format, as the widest loads of products want.
pub(super) const ALIGNMENT: usize = 64;

/// The layout's tensors in the layout's order, each stack of a product at an address of whole vectors.
///
/// What lies between them is zero and stays zero: it has no gradient.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The place in the layout of each tensor, and its first element on the device.
    tensors: Vec<(Range<usize>, usize)>,
    len: usize,
}

impl Places {
    pub(super) fn new(layout: &Layout, plan: &WeightPlan) -> Self {
        let tables = [Some(&plan.embedding), plan.positions.as_ref(), plan.head.as_ref()];
        let of_layer = |layer: &'_ LayerPlan| -> [MatrixPlan; 4] {
            [&layer.qkv, &layer.output, &layer.up, &layer.down].map(MatrixPlan::clone)
        };
        let stacks = tables.into_iter().flatten().cloned().chain(plan.layers.iter().flat_map(of_layer));
        // The first halves of a stack's factors are one matrix too.
        let halves = plan.products().flat_map(|stack| {
            let names = stack.parts.iter().map(|part| peft_factor(plan, &part.tensor, 'A'));
            names.filter(|name| layout.range(name).is_ok()).skip(1)
        });
        // And the maps of a layer's gates, where those of queries are learned.
        let maps = (0..plan.layers.len()).filter_map(|index| {
            let [query, key, _] = GateLayout::Dropcap.names(index);
            layout.range(&query).is_ok().then_some(key)
        });
        let continued: HashSet<String> = stacks
            .flat_map(|stack| {
                let parts = stack.parts.into_iter().skip(1).map(|part| part.tensor);
                parts.chain(stack.bias.into_iter().skip(1).map(|part| part.tensor)).collect::<Vec<_>>()
            })
            .chain(halves)
            .chain(maps)
            .collect();
        let mut len = 0_usize;
        let mut tensors = Vec::with_capacity(layout.slots().len());
        for slot in layout.slots() {
            if !continued.contains(&slot.name) {
                len = len.next_multiple_of(ALIGNMENT);
            }
            tensors.push((slot.range.clone(), len));
            len += slot.range.len();
        }
        Self { tensors, len: len.next_multiple_of(ALIGNMENT) }
    }

    /// Elements of all tensors, with what lies between them.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Each tensor's place in the layout and its first element here.
    pub(super) fn tensors(&self) -> &[(Range<usize>, usize)] {
        &self.tensors
    }

    /// Where neighbouring whole tensors of the layout lie.
    pub(super) fn of(&self, range: &Range<usize>) -> Range<usize> {
        let first = self.tensors.partition_point(|(own, _)| own.start < range.start);
        let behind = self.tensors.partition_point(|(own, _)| own.start < range.end);
        match (self.tensors.get(first), self.tensors.get(behind.saturating_sub(1))) {
            (Some((_, start)), Some((own, last))) if first < behind => *start..last + own.len(),
            _ => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dropcap_model::DecoderConfig;

    use super::*;
    use crate::network::GateForm;

    #[test]
    fn every_tensor_has_its_place_and_a_stack_is_one_stretch() {
        let json = r#"{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 30, "num_hidden_layers": 2,
            "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 21, "max_position_embeddings": 64,
            "vocab_size": 77, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu"}"#;
        let config = DecoderConfig::parse(Path::new("test"), json.as_bytes()).unwrap();
        let plan = WeightPlan::of(&config, &|_| false);
        let layout = Layout::new(&config, &plan, Some(GateForm::votes(1, 3)));
        let places = Places::new(&layout, &plan);
        let mut end = 0;
        for (range, first) in places.tensors() {
            assert!(*first >= end, "tensors do not overlap");
            end = first + range.len();
            assert_eq!(places.of(range), *first..end);
        }
        assert!(end <= places.len());
        for stack in plan.layers.iter().flat_map(|layer| [&layer.qkv, &layer.up]) {
            let range = |name: &str| layout.range(name).unwrap();
            let all = range(&stack.parts[0].tensor).start..range(&stack.parts.last().unwrap().tensor).end;
            let place = places.of(&all);
            assert_eq!(place.len(), stack.outputs() * stack.inputs);
            assert_eq!(place.start % ALIGNMENT, 0);
        }
        for layer in 0..2 {
            let [query, key, _] = GateLayout::Dropcap.names(layer).map(|name| layout.range(&name).unwrap());
            assert_eq!(places.of(&(query.start..key.end)).len(), 2 * 3 * 30, "both maps are one matrix");
        }
        assert_eq!(places.of(&(5..5)), 0..0);
    }
}
