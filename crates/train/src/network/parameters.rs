//! All parameters of a model in one flat array, with names and shapes as they are stored.

use std::collections::HashMap;
use std::ops::Range;

use dropcap_model::{Checkpoint, DecoderConfig, WeightPlan};

use super::factors::FactorForm;
use super::gates::GateForm;
use crate::TrainError;

/// Which learning rate, clipping and freezing a tensor follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The model's own weights.
    Weights,
    /// Thin factors beside them.
    Factors,
    /// The gates' maps and biases.
    Gates,
}

/// One named tensor's place in the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The stored tensor's name; a gate's name is that of our gate files.
    pub name: String,
    /// The stored shape.
    pub shape: Vec<usize>,
    /// Where its numbers lie.
    pub range: Range<usize>,
    /// What it belongs to.
    pub group: Group,
}

/// Where every parameter lies: weights, gates, then factors, each tensor row-major in the stored shape.
///
/// Tensors that are stacked into one product (q, k, v; gate, up) are neighbours, so the stack is one matrix. Values
/// are an array of this one layout; gradients and both moments of the optimiser are arrays of the stretch that is trained:
/// all of it, or all behind the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    slots: Vec<Slot>,
    by_name: HashMap<String, usize>,
    length: usize,
    /// Numbers at the beginning that are not trained.
    held: usize,
}

impl Layout {
    /// The layout of a model's planned tensors, in the plan's order, and of its gates, layer by layer.
    #[must_use]
    pub fn new(config: &DecoderConfig, plan: &WeightPlan, gates: Option<GateForm>) -> Self {
        let mut layout = Self { slots: Vec::new(), by_name: HashMap::new(), length: 0, held: 0 };
        for tensor in plan.tensors() {
            layout.add(tensor.name.to_owned(), tensor.shape, Group::Weights);
        }
        if let Some(form) = gates {
            (0..config.layers).for_each(|layer| form.add(&mut layout, layer, config.hidden));
        }
        layout
    }

    /// Appends a tensor.
    pub fn add(&mut self, name: String, shape: Vec<usize>, group: Group) -> Range<usize> {
        let range = self.length..self.length + shape.iter().product::<usize>();
        self.length = range.end;
        self.by_name.insert(name.clone(), self.slots.len());
        self.slots.push(Slot { name, shape, range: range.clone(), group });
        range
    }

    /// All tensors, in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Numbers of all tensors together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the tensors of a group lie, which is one stretch.
    #[must_use]
    pub fn group(&self, group: Group) -> Range<usize> {
        let mut ranges = self.slots.iter().filter(|slot| slot.group == group).map(|slot| &slot.range);
        match ranges.next() {
            Some(first) => first.start..ranges.next_back().unwrap_or(first).end,
            None => self.length..self.length,
        }
    }

    /// The same layout with the model's own weights taken from what is trained.
    #[must_use]
    pub fn holding_weights(self) -> Self {
        Self { held: self.group(Group::Weights).end, ..self }
    }

    /// The same layout with the weights held and factors appended, matrix by matrix of the plan.
    #[must_use]
    pub fn with_factors(mut self, form: &FactorForm, plan: &WeightPlan) -> Self {
        form.add(&mut self, plan);
        self.holding_weights()
    }

    /// The stretch that is trained.
    #[must_use]
    pub fn trained(&self) -> Range<usize> {
        self.held..self.length
    }

    /// The tensors that are trained, in order, with ranges that count from the first trained number.
    #[must_use]
    pub fn trained_slots(&self) -> Vec<Slot> {
        let trained = self.slots.iter().filter(|slot| slot.range.start >= self.held);
        let counted = |range: &Range<usize>| range.start - self.held..range.end - self.held;
        trained.map(|slot| Slot { range: counted(&slot.range), ..slot.clone() }).collect()
    }

    /// Where a tensor of the plan lies.
    ///
    /// # Errors
    /// A name that is not of this layout.
    pub fn range(&self, name: &str) -> Result<Range<usize>, TrainError> {
        let slot = self.by_name.get(name).and_then(|&index| self.slots.get(index));
        slot.map(|slot| slot.range.clone())
            .ok_or_else(|| TrainError::Internal { what: format!("no tensor named {name} in the layout") })
    }

    /// Reads all weights of a checkpoint, widened to f32; gates stay zero.
    ///
    /// # Errors
    /// A file that became shorter or unreadable.
    pub fn read(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>, TrainError> {
        let mut values = vec![0.0; self.length];
        for slot in self.slots.iter().filter(|slot| slot.group == Group::Weights) {
            let stored = checkpoint.read_f32(&slot.name)?;
            values[slot.range.clone()].copy_from_slice(&stored);
        }
        Ok(values)
    }
}

/// The gradients of the parameters that are trained.
#[derive(Debug)]
pub(super) struct TrainedGradients<'a> {
    first: usize,
    numbers: &'a mut [f32],
}

impl Layout {
    /// An array over [`Layout::trained`], asked by ranges of the layout.
    pub(super) fn gradients<'a>(&self, numbers: &'a mut [f32]) -> TrainedGradients<'a> {
        TrainedGradients { first: self.held, numbers }
    }
}

impl TrainedGradients<'_> {
    /// Those of some parameters; none where they are held.
    pub(super) fn of(&mut self, range: &Range<usize>) -> Option<&mut [f32]> {
        Some(&mut self.numbers[range.start.checked_sub(self.first)?..range.end - self.first])
    }
}
