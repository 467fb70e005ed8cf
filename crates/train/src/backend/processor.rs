//! The processor: today's reference for every other backend.

use std::borrow::Cow;
use std::ops::Range;

use dropcap_kernels::{AdamW, RowLoss, Team, Verdict, adamw, sum_of_squares};

use super::moved::{apart, has_moved};
use super::{Backend, Followed, Following, Gathered, Measured, Parameters, Pass, Room};
use crate::TrainError;
use crate::collective::Collective;
use crate::network::{Activations, Distillation, Gradients, Layout, Network, Pressure, Pruning, Teacher};
use crate::recipe::keep_ratio;

/// The model as it was before training, or another.
#[derive(Debug)]
pub struct DenseTeacher {
    /// None where the student's is the same as long as nothing is forgotten.
    network: Option<Network>,
    /// None where they are the student's.
    values: Option<Vec<f32>>,
    activations: Activations,
}

impl DenseTeacher {
    /// A teacher whose weights stay while those of its student change.
    ///
    /// # Errors
    /// Values that are not of the network's layout.
    pub fn apart(team: &Team, dense: Network, values: Vec<f32>, room: Room) -> Result<Self, TrainError> {
        let teacher = Self::beneath(team, dense, &values, room)?;
        Ok(Self { values: Some(values), ..teacher })
    }

    /// A teacher whose weights are those that its student holds, and adds factors to.
    ///
    /// # Errors
    /// Values that are not of the network's layout.
    pub fn beneath(team: &Team, mut dense: Network, held: &[f32], room: Room) -> Result<Self, TrainError> {
        dense.refill(team, held)?;
        let activations = dense.activations(room.sequences, room.tokens, true);
        Ok(Self { network: Some(dense), values: None, activations })
    }

    /// A student that is its own teacher as long as it forgets nothing: only gates are trained.
    #[must_use]
    pub fn student(student: &Network, room: Room) -> Self {
        let activations = student.activations(room.sequences, room.tokens, true);
        Self { network: None, values: None, activations }
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
    /// A sequence with its dense pass.
    dense: Option<(Vec<u32>, Activations)>,
    /// The entered texts' residual streams before a layer.
    streams: Vec<Vec<f32>>,
}

impl Processor {
    /// A network whose trained values are all zero, behind those that are `held`. Gradients in `still` are not followed.
    #[must_use]
    pub fn new(
        team: Team,
        network: Network,
        teacher: Option<DenseTeacher>,
        room: Room,
        still: Vec<Range<usize>>,
        held: Vec<f32>,
    ) -> Self {
        let zeros = || vec![0.0; network.layout().trained().len()];
        let mut values = held;
        values.resize(network.layout().len(), 0.0);
        Self {
            values,
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

    /// Where a range of the layout lies in gradients and moments.
    fn among_trained(&self, range: &Range<usize>) -> Range<usize> {
        let first = self.network.layout().trained().start;
        range.start.saturating_sub(first)..range.end.saturating_sub(first)
    }

    /// Moves the parameters of each range that has a rule, gradients that are clipped multiplied by `scale`; says whether the move
    /// was large enough to see.
    fn update(&mut self, ranges: &[Followed], scale: f32) -> Result<bool, TrainError> {
        let mut rules = ranges.iter().filter_map(|followed| Some((followed, followed.rule?))).peekable();
        let Some(looked_at) = rules.peek().map(|(followed, _)| followed.range.clone()) else {
            return Ok(true);
        };
        let before = sample(&self.values[looked_at.clone()]);
        self.packed = false;
        for (Followed { range, is_clipped, .. }, rule) in rules {
            let scale = if *is_clipped { scale } else { 1.0 };
            let rule = AdamW { gradient_scale: rule.gradient_scale * scale, ..rule };
            let among = self.among_trained(range);
            let [first, second] = &mut self.moments;
            adamw(
                &self.team,
                &rule,
                &mut self.values[range.clone()],
                &self.gradients[among.clone()],
                &mut first[among.clone()],
                &mut second[among],
            )?;
        }
        Ok(has_moved(&before, &sample(&self.values[looked_at])))
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
            dense: None,
            streams: Vec::new(),
        }))
    }

    /// A pass over one sequence for its losses alone.
    fn measure(
        &self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
        teacher: Option<&Activations>,
        activations: &mut Activations,
    ) -> Result<Measured, TrainError> {
        let Self { team, network, values, .. } = self;
        network.forward(team, values, pruning, ids, activations)?;
        let distillation = teacher.map(|activations| Distillation {
            teacher: Teacher { network, values, activations },
            share: 1.0,
        });
        let loss = network.loss(team, values, targets, distillation, activations, None)?;
        let keep = |layer| keep_ratio(activations.expires_at(layer), self.room.tokens);
        let keep = (0..network.config().layers).map(keep).collect();
        Ok(Measured { loss, keep })
    }
}

impl Backend for Processor {
    fn layout(&self) -> &Layout {
        self.network.layout()
    }

    fn load(&mut self, values: &[f32], moments: Option<[&[f32]; 2]>) -> Result<(), TrainError> {
        let trained = self.network.layout().trained();
        let expected = trained.len();
        let arrays = moments.into_iter().flatten().chain([values]);
        if let Some(wrong) = arrays.into_iter().find(|array| array.len() != expected) {
            let what = format!("{} numbers for {expected} that are trained", wrong.len());
            return Err(TrainError::Internal { what });
        }
        self.packed = false;
        self.look = None;
        self.values[trained].copy_from_slice(values);
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
        let mut distillation = None;
        if let Some(teacher) = teacher {
            let values = teacher.values.as_deref().unwrap_or(values);
            let network = teacher.network.as_ref().unwrap_or(network);
            network.forward(team, values, &Pruning::Dense, ids, &mut teacher.activations)?;
            let teacher = Teacher { network, values, activations: &teacher.activations };
            distillation = Some(Distillation { teacher, share: distill });
        }
        network.forward(team, values, pruning, ids, activations)?;
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

    fn follow(
        &mut self,
        following: &Following<'_>,
        others: &mut dyn Collective,
    ) -> Result<Gathered, TrainError> {
        self.gathered.add_up(others)?;
        others.sum(&mut self.gradients)?;
        for range in &self.still {
            let range = self.among_trained(range);
            self.gradients[range].fill(0.0);
        }
        let Following { ranges, clip } = *following;
        let squares = |followed: &Followed| {
            sum_of_squares(&self.team, &self.gradients[self.among_trained(&followed.range)])
        };
        let squares: Vec<f64> = ranges.iter().map(squares).collect();
        let clipped: Vec<bool> = ranges.iter().map(|followed| followed.is_clipped).collect();
        let Verdict { scale, moves } = Verdict::of(&squares, &clipped, clip);
        let skipped = !moves || !self.gathered.loss.mean().is_finite();
        let moved = if skipped { true } else { self.update(ranges, scale)? };
        Ok(Gathered { squares, skipped, moved, ..self.gathered.clone() })
    }

    fn gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Borrowed(&self.gradients))
    }

    fn input_gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Borrowed(self.activations.input_gradients()))
    }

    fn evaluate(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError> {
        let mut look = self.look()?;
        let measured = self.measure(ids, targets, pruning, None, &mut look.activations)?;
        self.look = Some(look);
        Ok(measured)
    }

    fn survey(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Vec<RowLoss>, TrainError> {
        self.pack()?;
        let Self { team, network, values, activations, .. } = self;
        network.forward(team, values, pruning, ids, activations)?;
        network.row_losses(team, values, targets, None, activations, None)
    }

    fn diverge(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError> {
        let mut look = self.look()?;
        let dense = match look.dense.take() {
            Some((known, dense)) if known == ids => dense,
            _ => {
                let mut dense = self.network.activations(1, self.room.tokens, true);
                self.network.forward(&self.team, &self.values, &Pruning::Dense, ids, &mut dense)?;
                dense
            }
        };
        let measured = self.measure(ids, targets, pruning, Some(&dense), &mut look.activations)?;
        look.dense = Some((ids.to_vec(), dense));
        self.look = Some(look);
        Ok(measured)
    }

    fn gate_inputs(&mut self, ids: &[u32], show: &mut dyn FnMut(usize, &[f32])) -> Result<(), TrainError> {
        let mut look = self.look()?;
        let Self { team, network, values, .. } = self;
        let mut stream = network.embedded(values, ids, &mut look.activations)?.to_vec();
        for layer in 0..network.config().layers {
            let after =
                network.layer(team, values, &Pruning::Dense, layer, &stream, &mut look.activations)?;
            stream.copy_from_slice(after);
            show(layer, look.activations.attention_input(layer));
        }
        self.look = Some(look);
        Ok(())
    }

    fn export(&mut self) -> Result<Parameters<'_>, TrainError> {
        let [first, second] = &self.moments;
        let lent = |numbers| Cow::Borrowed(numbers);
        let values = lent(&self.values[self.network.layout().trained()]);
        Ok(Parameters { values, moments: [lent(&first[..]), lent(&second[..])] })
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
        let Look { mut activations, mut streams, dense } = self.look()?;
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
        self.look = Some(Look { activations, streams, dense });
        Ok(mean)
    }
}

/// Some of the values, evenly spaced.
fn sample(values: &[f32]) -> Vec<f32> {
    values.iter().step_by(apart(values.len())).copied().collect()
}
