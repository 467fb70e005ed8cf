//! What a training computes on: the verbs of a step, and those with which a run looks at its model.
//!
//! A backend owns the parameters while they are trained, the optimiser's moments and the gradients, and it alone knows
//! where they lie. The trainer says what is computed and decides by what comes back.

pub(crate) mod moved;
mod processor;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use dropcap_kernels::{AdamW, RowLoss};

pub use processor::{DenseTeacher, Processor};

use crate::TrainError;
use crate::collective::{Collective, CollectiveError};
use crate::network::{Layout, Loss, Pressure, Pruning, Pull};

/// How much is computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Sequences of a pass.
    pub sequences: usize,
    /// Tokens T of every sequence.
    pub tokens: usize,
    /// Whether activations are computed again on the way back.
    pub recompute: bool,
}

/// One micro-batch on its way forward and back.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Tokens `[b, T]`.
    pub ids: &'a [u32],
    /// Targets `[b, T]`, or [`IGNORE`](dropcap_kernels::cross_entropy::IGNORE).
    pub targets: &'a [u32],
    /// How attention forgets.
    pub pruning: &'a Pruning<'a>,
    /// What pulls at the gates beside the loss.
    pub pull: Pull<'a>,
    /// What the loss is multiplied by for its gradient, such as 1 / targets of the whole step.
    pub scale: f32,
    /// Share of the loss that is the divergence from the teacher; 0 without one.
    pub distill: f32,
    /// Which of this process's passes of the step it is; the first forgets the gradients of the step before.
    pub part: usize,
    /// Passes of the step, in all processes.
    pub parts: usize,
}

/// A range of the layout whose gradients are looked at together, and how its parameters follow them.
#[derive(Debug, Clone, PartialEq)]
pub struct Followed {
    /// The range.
    pub range: Range<usize>,
    /// Whether its gradients are clipped, together with those of all ranges that are.
    pub is_clipped: bool,
    /// How its parameters move; `None` where they stay.
    pub rule: Option<AdamW>,
}

/// What becomes of a step's gradients.
#[derive(Debug, Clone, Copy)]
pub struct Following<'a> {
    /// Ranges that do not overlap. Unless the squares of all of them and the loss are finite, nothing moves.
    pub ranges: &'a [Followed],
    /// The norm to which gradients are scaled down where those that are clipped have a larger one together; 0 for none.
    pub clip: f64,
}

/// What the passes of a step came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gathered {
    /// Sums over the tokens of all passes.
    pub loss: Loss,
    /// Keep ratio of each layer, the mean of the passes.
    pub keep: Vec<f64>,
    /// The published sparsity term's mean of I; means nothing without soft gates.
    pub survival: f64,
    /// What the gates of each layer met, summed over the passes.
    pub met: Vec<Pressure>,
    /// The sum of squares of the gradients in each range that was asked for.
    pub squares: Vec<f64>,
    /// Whether the loss or a gradient was not finite, so that nothing moved.
    pub skipped: bool,
    /// Whether the last move that a backend can tell of was large enough to see, of some thousand parameters of the first range
    /// that moves; true where nothing was to move.
    pub moved: bool,
}

impl Gathered {
    /// Adds up what the processes of a world have gathered of the passes of one step.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    pub fn add_up(&mut self, others: &mut dyn Collective) -> Result<(), CollectiveError> {
        let Self { loss, keep, survival, met, .. } = self;
        let mut numbers = loss.numbers().to_vec();
        numbers.push(*survival);
        numbers.extend(met.iter().flat_map(|met| [met.pull, met.weight]));
        let pairs = numbers.len();
        numbers.append(keep);
        others.sum_exact(&mut numbers)?;
        *keep = numbers.split_off(pairs);
        for (met, pair) in met.iter_mut().zip(numbers[Loss::NUMBERS + 1..].as_chunks().0) {
            let &[pull, weight] = pair;
            *met = Pressure { pull, weight };
        }
        *survival = numbers[Loss::NUMBERS];
        if let Some(numbers) = numbers.first_chunk() {
            *loss = Loss::of_numbers(*numbers);
        }
        Ok(())
    }
}

/// What one forward pass came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Sums over its tokens.
    pub loss: Loss,
    /// Keep ratio of each layer; 1 where nothing is forgotten.
    pub keep: Vec<f64>,
}

/// The trained parameters with the optimiser's moments, in the order of [`Backend::layout`].
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters<'a> {
    /// Values `[layout.trained()]`.
    pub values: Cow<'a, [f32]>,
    /// First and second moments, each `[layout.trained()]`.
    pub moments: [Cow<'a, [f32]>; 2],
}

/// What a training computes on.
///
/// The numbers of a step are a function of the parameters, the moments and the step's passes alone: what was evaluated,
/// exported or loaded in between changes no bit of them.
pub trait Backend: fmt::Debug {
    /// Where the parameters lie. Those that are held are known to the backend from its making, and have neither gradients
    /// nor moments.
    fn layout(&self) -> &Layout;

    /// Takes values of the trained parameters `[layout.trained()]`, and both moments, or leaves those as they are.
    ///
    /// # Errors
    /// Arrays of another length; a failed device.
    fn load(&mut self, values: &[f32], moments: Option<[&[f32]; 2]>) -> Result<(), TrainError>;

    /// Multiplies the channels of each layer's gates' input by `scales`, `[layers][c]`, from now on.
    ///
    /// # Errors
    /// Scales of another model; a failed device.
    fn rescale(&mut self, scales: &[Vec<f32>]) -> Result<(), TrainError>;

    /// Runs a micro-batch forward and back, and adds its gradients to those of the step.
    ///
    /// It may return before the numbers are there.
    ///
    /// # Errors
    /// Tokens or targets outside the vocabulary, a batch that there is no room for; a failed device.
    fn pass(&mut self, pass: &Pass<'_>) -> Result<(), TrainError>;

    /// Prepares for adding up gradients with other processes, before the first step with them; says what a person should know
    /// of it.
    ///
    /// # Errors
    /// A process that is lost.
    fn connect(&mut self, _others: &mut dyn Collective) -> Result<Option<String>, TrainError> {
        Ok(None)
    }

    /// Adds up the gradients of this step's passes in all processes, moves the parameters by them, and says what the passes came
    /// to. Several processes ask for it once a step.
    ///
    /// It may return before parameters have moved; whatever is asked for later sees them moved.
    ///
    /// # Errors
    /// Ranges outside the layout; a failed device; a process that is lost.
    fn follow(
        &mut self,
        following: &Following<'_>,
        others: &mut dyn Collective,
    ) -> Result<Gathered, TrainError>;

    /// [`Backend::follow`] where nothing moves: what the passes came to, with the sums of squares of the gradients in `ranges` of
    /// the layout.
    ///
    /// # Errors
    /// As [`Backend::follow`].
    fn gather(
        &mut self,
        ranges: &[Range<usize>],
        others: &mut dyn Collective,
    ) -> Result<Gathered, TrainError> {
        let still = |range: &Range<usize>| Followed { range: range.clone(), is_clipped: false, rule: None };
        let ranges: Vec<_> = ranges.iter().map(still).collect();
        self.follow(&Following { ranges: &ranges, clip: 0.0 }, others)
    }

    /// The gradients of the passes that were gathered last, `[layout.trained()]`.
    ///
    /// # Errors
    /// A failed device.
    fn gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError>;

    /// The gradient at the embedding of each row in the pass that was run last, f32 `[b, T, c]`: what a token means to the loss,
    /// before the tables and the gradients of other rows with the same token.
    ///
    /// # Errors
    /// A failed device.
    fn input_gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError>;

    /// Runs one sequence of the run's length forward and measures the loss of `targets` and what was kept.
    ///
    /// # Errors
    /// As [`Backend::pass`].
    fn evaluate(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError>;

    /// Runs a micro-batch forward and gives the losses of each row, `[b, T]`; those without a target are 0. Gradients and what
    /// passes have gathered stay as they are.
    ///
    /// # Errors
    /// As [`Backend::pass`].
    fn survey(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Vec<RowLoss>, TrainError>;

    /// As [`Backend::evaluate`], with the divergence of the predictions from those of the same parameters when nothing is
    /// forgotten. Asking for one sequence several times in a row costs its dense pass once.
    ///
    /// # Errors
    /// As [`Backend::pass`].
    fn diverge(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError>;

    /// Runs one sequence of the run's length forward with nothing forgotten and shows what the gates of each layer read,
    /// `[T, c]`, before their scales.
    ///
    /// # Errors
    /// As [`Backend::pass`].
    fn gate_inputs(&mut self, ids: &[u32], show: &mut dyn FnMut(usize, &[f32])) -> Result<(), TrainError>;

    /// Waits for what several processes still exchange of their steps, and brings together what each has moved by itself.
    /// All of them ask for it before they evaluate or export.
    ///
    /// # Errors
    /// A process that is lost; a failed device.
    fn complete(&mut self, _others: &mut dyn Collective) -> Result<(), TrainError> {
        Ok(())
    }

    /// The parameters and moments as they are now.
    ///
    /// # Errors
    /// A failed device; steps of several processes that were not [completed](Backend::complete).
    fn export(&mut self) -> Result<Parameters<'_>, TrainError>;

    /// Puts texts of the run's length before the first layer, for [`Backend::climb`].
    ///
    /// # Errors
    /// As [`Backend::pass`].
    fn enter(&mut self, texts: &[Vec<u32>]) -> Result<(), TrainError>;

    /// Runs the layer that the entered texts stand before and gives its mean keep ratio; with `advance`, they stand
    /// before the next one afterwards. Each text sees what the whole forward pass would show it there.
    ///
    /// # Errors
    /// A layer that the texts do not stand before; a failed device.
    fn climb(&mut self, layer: usize, pruning: &Pruning<'_>, advance: bool) -> Result<f64, TrainError>;
}
