//! The processor: today's reference for every other backend.

use std::borrow::Cow;
use std::ops::Range;

use dropcap_kernels::{AdamW, Team, adamw, sum_of_squares};

use super::{Backend, Gathered, Measured, Parameters, Pass};
use crate::TrainError;
use crate::network::{Activations, Distillation, Gradients, Layout, Network, Pressure, Pruning, Teacher};
use crate::recipe::keep_ratio;

/// Parameters that are looked at for whether a step moves them.
const SAMPLE: usize = 4096;
/// Share of the parameters' size that a step must have to move them: a tenth of what f32 can tell apart. Those that are
/// zero are moved by anything.
const LEAST_MOVE: f64 = 6e-9;

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

/// The model as it was before training.
#[derive(Debug)]
pub struct DenseTeacher {
    network: Network,
    values: Vec<f32>,
    activations: Activations,
}

impl DenseTeacher {
    /// A teacher of passes of `room`.
    ///
    /// # Errors
    /// Values that are not of the network's layout.
    pub fn new(team: &Team, mut network: Network, values: Vec<f32>, room: Room) -> Result<Self, TrainError> {
        network.refill(team, &values)?;
        let activations = network.activations(room.sequences, room.tokens, true);
        Ok(Self { network, values, activations })
    }
}

/// A network whose parameters lie in this process's memory.
#[derive(Debug)]
pub struct Processor {
    team: Team,
    network: Network,
    teacher: Option<DenseTeacher>,
    room: Room,
    values: Vec<f32>,
    moments: [Vec<f32>; 2],
    gradients: Vec<f32>,
    activations: Activations,
    /// What has gradients and is not to follow them.
    still: Vec<Range<usize>>,
    /// Whether the network has packed the present values.
    packed: bool,
    gathered: Gathered,
    look: Option<Look>,
}

/// What a run needs while it looks at its model between two steps.
#[derive(Debug)]
struct Look {
    activations: Activations,
    /// The entered texts' residual streams before a layer.
    streams: Vec<Vec<f32>>,
}

impl Processor {
    /// A network with all values zero. Gradients in `still` are not followed.
    #[must_use]
    pub fn new(
        team: Team,
        network: Network,
        teacher: Option<DenseTeacher>,
        room: Room,
        still: Vec<Range<usize>>,
    ) -> Self {
        let zeros = || vec![0.0; network.layout().len()];
        Self {
            values: zeros(),
            moments: [zeros(), zeros()],
            gradients: zeros(),
            activations: network.activations(room.sequences, room.tokens, room.recompute),
            team,
            network,
            teacher,
            room,
            still,
            packed: false,
            gathered: Gathered::default(),
            look: None,
        }
    }

    fn pack(&mut self) -> Result<(), TrainError> {
        if !self.packed {
            self.network.refill(&self.team, &self.values)?;
            self.packed = true;
        }
        Ok(())
    }

    /// Room for one sequence, and what stands in it.
    fn look(&mut self) -> Result<Look, TrainError> {
        self.pack()?;
        Ok(self.look.take().unwrap_or_else(|| Look {
            activations: self.network.activations(1, self.room.tokens, true),
            streams: Vec::new(),
        }))
    }
}

impl Backend for Processor {
    fn layout(&self) -> &Layout {
        self.network.layout()
    }

    fn load(&mut self, values: &[f32], moments: Option<[&[f32]; 2]>) -> Result<(), TrainError> {
        let expected = self.values.len();
        let arrays = moments.into_iter().flatten().chain([values]);
        if let Some(wrong) = arrays.into_iter().find(|array| array.len() != expected) {
            let what = format!("{} numbers for a layout of {expected}", wrong.len());
            return Err(TrainError::Internal { what });
        }
        self.packed = false;
        self.values.copy_from_slice(values);
        for (to, from) in self.moments.iter_mut().zip(moments.into_iter().flatten()) {
            to.copy_from_slice(from);
        }
        Ok(())
    }

    fn rescale(&mut self, scales: &[Vec<f32>]) -> Result<(), TrainError> {
        self.packed = false;
        self.network.rescale(scales)
    }

    fn pass(&mut self, pass: &Pass<'_>) -> Result<(), TrainError> {
        self.pack()?;
        self.look = None;
        let layers = self.network.config().layers;
        if pass.part == 0 {
            self.gradients.fill(0.0);
            self.gathered = Gathered {
                keep: vec![0.0; layers],
                met: vec![Pressure::default(); layers],
                ..Gathered::default()
            };
        }
        let Self { team, network, values, activations, teacher, gradients, gathered, .. } = self;
        let &Pass { ids, targets, pruning, pull, scale, distill, parts, .. } = pass;
        if let Some(teacher) = teacher {
            let DenseTeacher { network, values, activations } = teacher;
            network.forward(team, values, &Pruning::Dense, ids, activations)?;
        }
        network.forward(team, values, pruning, ids, activations)?;
        let distillation = teacher.as_ref().map(|teacher| Distillation {
            teacher: Teacher {
                network: &teacher.network,
                values: &teacher.values,
                activations: &teacher.activations,
            },
            share: distill,
        });
        let parts = parts as f64;
        gathered.survival += network.mean_survival(activations) / parts;
        for (layer, sum) in gathered.keep.iter_mut().enumerate() {
            *sum += keep_ratio(activations.expires_at(layer), self.room.tokens) / parts;
        }
        let into = Gradients { scale, into: gradients };
        let loss = network.loss(team, values, targets, distillation, activations, Some(into))?;
        gathered.loss.add(loss);
        let more = network.backward(team, values, pruning, pull, activations, gradients)?;
        for (met, more) in gathered.met.iter_mut().zip(more) {
            met.pull += more.pull;
            met.weight += more.weight;
        }
        Ok(())
    }

    fn gather(&mut self, ranges: &[Range<usize>]) -> Result<Gathered, TrainError> {
        for range in &self.still {
            self.gradients[range.clone()].fill(0.0);
        }
        let squares = |range: &Range<usize>| sum_of_squares(&self.team, &self.gradients[range.clone()]);
        let squares = ranges.iter().map(squares).collect();
        Ok(Gathered { squares, ..self.gathered.clone() })
    }

    fn update(&mut self, rules: &[(Range<usize>, AdamW)]) -> Result<bool, TrainError> {
        let looked_at = rules.first().map(|(range, _)| range.clone()).unwrap_or_default();
        let before = sample(&self.values[looked_at.clone()]);
        self.packed = false;
        for (range, rule) in rules {
            let [first, second] = &mut self.moments;
            adamw(
                &self.team,
                rule,
                &mut self.values[range.clone()],
                &self.gradients[range.clone()],
                &mut first[range.clone()],
                &mut second[range.clone()],
            )?;
        }
        Ok(has_moved(&before, &sample(&self.values[looked_at])))
    }

    fn evaluate(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError> {
        let mut look = self.look()?;
        let activations = &mut look.activations;
        self.network.forward(&self.team, &self.values, pruning, ids, activations)?;
        let loss = self.network.loss(&self.team, &self.values, targets, None, activations, None)?;
        let keep = |layer| keep_ratio(activations.expires_at(layer), self.room.tokens);
        let keep = (0..self.network.config().layers).map(keep).collect();
        self.look = Some(look);
        Ok(Measured { loss, keep })
    }

    fn export(&mut self) -> Result<Parameters<'_>, TrainError> {
        let [first, second] = &self.moments;
        let lent = |numbers| Cow::Borrowed(numbers);
        Ok(Parameters { values: lent(&self.values[..]), moments: [lent(&first[..]), lent(&second[..])] })
    }

    fn enter(&mut self, texts: &[Vec<u32>]) -> Result<(), TrainError> {
        let mut look = self.look()?;
        look.streams.clear();
        for text in texts {
            let stream = self.network.embedded(&self.values, text, &mut look.activations)?;
            look.streams.push(stream.to_vec());
        }
        self.look = Some(look);
        Ok(())
    }

    fn climb(&mut self, layer: usize, pruning: &Pruning<'_>, advance: bool) -> Result<f64, TrainError> {
        let Look { mut activations, mut streams } = self.look()?;
        let mut sum = 0.0;
        for stream in &mut streams {
            let after =
                self.network.layer(&self.team, &self.values, pruning, layer, stream, &mut activations)?;
            if advance {
                stream.copy_from_slice(after);
            }
            sum += keep_ratio(activations.expires_at(layer), self.room.tokens);
        }
        let mean = sum / streams.len().max(1) as f64;
        self.look = Some(Look { activations, streams });
        Ok(mean)
    }
}

/// Some of the values, evenly spaced.
fn sample(values: &[f32]) -> Vec<f32> {
    let apart = values.len().div_ceil(SAMPLE).max(1);
    values.iter().step_by(apart).copied().collect()
}

fn has_moved(before: &[f32], after: &[f32]) -> bool {
    let size: f64 = before.iter().map(|&value| f64::from(value.abs())).sum();
    let moved: f64 = before.iter().zip(after).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).sum();
    moved > LEAST_MOVE * size
}
