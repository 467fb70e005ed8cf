//! The verbs of a step.

use std::borrow::Cow;
use std::ops::Range;

use dropcap_kernels::cross_entropy::Shares;
use dropcap_kernels::optimizer::{Judged, Parameters as Moved};
use dropcap_kernels::{AdamW, KernelError, RowLoss};

use super::backward::GatePull;
use super::division::Share;
use super::forward::{Counting, Run, SoftVotes};
use super::head::{Goal, Lesson};
use super::lookup::Lookup;
use super::network::Layer;
use super::room::Teaching;
use super::sums::Sums;
use super::weights::{download, upload};
use super::{Cuda, Taught};
use crate::TrainError;
use crate::backend::{Backend, Following, Gathered, Measured, Parameters, Pass};
use crate::collective::Collective;
use crate::network::{GateForm, Group, Layout, Pressure, Pruning, Pull, mean_survival};

impl Backend for Cuda {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn load(&mut self, values: &[f32], moments: Option<[&[f32]; 2]>) -> Result<(), TrainError> {
        let trained = self.layout.trained();
        let arrays = moments.into_iter().flatten().chain([values]);
        if let Some(wrong) = arrays.into_iter().find(|array| array.len() != trained.len()) {
            let what = format!("{} numbers for {} that are trained", wrong.len(), trained.len());
            return Err(TrainError::Internal { what });
        }
        self.packed = false;
        self.look = None;
        self.sample.forget();
        self.weights.load(&self.kernels, &self.places, trained.start, values)?;
        for (to, from) in self.gradients.moments.iter().zip(moments.into_iter().flatten()) {
            upload(&self.places, trained.start, from, to, self.gradients.first())?;
        }
        Ok(())
    }

    fn rescale(&mut self, scales: &[Vec<f32>]) -> Result<(), TrainError> {
        self.set_scales(scales)
    }

    fn pass(&mut self, pass: &Pass<'_>) -> Result<(), TrainError> {
        let &Pass { ids, targets, pruning, pull, scale, distill, part: number, parts: all_passes } = pass;
        self.look = None;
        let sequences = self.admit(ids, targets, pruning)?;
        self.keep_votes(pruning)?;
        if number == 0 {
            self.passes = 0;
            self.all_passes = all_passes;
            if let Some(sums) = self.sums.as_ref().filter(|_| self.is_handed_over) {
                sums.all(&self.kernels, &self.gradients)?;
            }
            self.is_handed_over = false;
            self.judge.begin()?;
            self.set_pull(pull)?;
            if let Pruning::Soft { curve, .. } = pruning {
                self.curve.set(curve)?;
            }
        }
        self.gradients.begin(&self.kernels, number == 0)?;
        if self.passes == self.parts.len() {
            let rows = self.room.sequences * self.room.tokens;
            self.parts.push(self.part(rows, self.network.layers.len())?);
        }
        let Self { kernels, network, weights, room, windows, maps, parts, sums, .. } = self;
        let sums = sums.as_ref();
        let Some(part) = parts.get_mut(self.passes) else {
            return Err(TrainError::Internal { what: format!("pass {} of a step", self.passes) });
        };
        self.passes += 1;
        part.send(ids, targets, network.config.vocabulary)?;
        let cache = self.cache;
        let soft = Some(SoftVotes { curve: &self.curve, survival: &part.survival });
        let run =
            Run { kernels, network, weights, room, sequences, pruning, windows, maps, cache, soft, sums };
        let teacher = match &self.teacher {
            Taught::Nobody => None,
            Taught::Student(beneath) => Some(Run { network: beneath, pruning: &Pruning::Dense, ..run }),
            Taught::Apart(weights) => Some(Run { weights, pruning: &Pruning::Dense, ..run }),
            Taught::Other(other) => Some(other.run(sequences)),
        };
        let taught = match (teacher, &room.taught) {
            (Some(teacher), Some(Teaching { output, logits })) => {
                teacher.look(&part.batch, None, output)?;
                Some(Lesson { network: teacher.network, weights: teacher.weights, output, logits })
            }
            _ => None,
        };
        run.forward(&part.batch, Some(Counting { table: &self.table, sums: &part.kept }))?;
        // While the device works on the forward pass.
        part.batch.sort()?;
        let goal = Goal {
            targets: &part.targets,
            losses: &part.losses,
            teacher: taught,
            shares: Shares { distill, scale },
        };
        run.loss(goal, Some(&self.gradients))?;
        self.judge.look(kernels, &part.losses, run.rows())?;
        let pull = GatePull { pull, lambda: &self.lambda, margins: &part.margins };
        let end = self.places.of(&self.layout.group(Group::Weights)).end;
        let layers = network.layers.first().map_or(end, Layer::start)..end;
        let handover = sums.and_then(|sums| sums.hand_over(&self.gradients, layers, number, all_passes));
        let late = run.backward(&part.batch, pull, &self.gradients, handover)?;
        for (layer, lanes) in part.lanes.iter_mut().enumerate() {
            *lanes = sequences * run.lanes(layer)?;
        }
        part.fetch()?;
        if let Some(late) = late {
            self.shares.comes_late(late);
            self.is_handed_over = true;
        }
        Ok(())
    }

    fn connect(&mut self, others: &mut dyn Collective) -> Result<Option<String>, TrainError> {
        let order = self.network.order_of_reading(self.gradients.first()..self.gradients.end());
        let matrices = self.network.divisible();
        let Self { kernels, network, gradients, room, .. } = &*self;
        let table = &network.embedding;
        let is_head = network.head.weight == *table;
        let trains = gradients.of(table).map_err(TrainError::from)?.is_some();
        let lookup = |world| {
            let rows = room.sequences * room.tokens;
            if !trains {
                return Ok(None);
            }
            let hidden = network.config.hidden;
            Lookup::new(&kernels.device, world, (table.clone(), is_head), rows, hidden)
        };
        Ok(match Sums::meet(&kernels.device, order, matrices, lookup, others)? {
            Ok(mut sums) => {
                sums.share(&self.kernels.device, &self.weights.memory(), others)?;
                self.sums = Some(sums);
                self.shares.forget();
                None
            }
            Err(reason) => Some(format!("gradients go over TCP, which is slow: {reason}")),
        })
    }

    fn follow(
        &mut self,
        following: &Following<'_>,
        others: &mut dyn Collective,
    ) -> Result<Gathered, TrainError> {
        let among_others = others.world().size > 1;
        if among_others && self.sums.is_none() {
            self.add_up_on_the_host(others)?;
        }
        let ranges = following.ranges;
        let places: Vec<_> =
            ranges.iter().map(|followed| self.gradients.trained(self.places.of(&followed.range))).collect();
        let Self { judge, kernels, gradients, shares, is_handed_over, sums, sample, weights, .. } =
            &mut *self;
        // Before processes learn of each other that all have come so far: then they may write to each other's parameters.
        sample.fetch(kernels, weights)?;
        let sums = sums.as_ref();
        let was_handed_over = std::mem::take(is_handed_over);
        if let Some(sums) = sums.filter(|_| was_handed_over) {
            sums.all_but_last()?;
        }
        // What is there is looked at while the last exchange goes on.
        judge.squares(kernels, gradients, &places, (shares, Share::Counted), sums)?;
        if let Some(sums) = sums {
            if was_handed_over {
                sums.all(kernels, gradients)?;
            }
            judge.squares(kernels, gradients, &places, (shares, Share::CountedLate), Some(sums))?;
            if among_others {
                judge.add_up(sums)?;
            }
        }
        let clipped: Vec<bool> = ranges.iter().map(|followed| followed.is_clipped).collect();
        judge.decide(kernels, &clipped, following.clip)?;
        judge.fetch()?;
        judge.note()?;
        let rules: Vec<_> = places
            .into_iter()
            .zip(ranges)
            .filter_map(|(place, followed)| Some((place, followed.rule?, followed.is_clipped)))
            .collect();
        if !rules.is_empty() {
            self.move_all(&rules)?;
        }
        // Taken, so that an error drops it at once: what it waits for would never come.
        match self.sums.take() {
            None => self.judge.fetched_at().wait().map_err(KernelError::from)?,
            Some(sums) => {
                sums.wait_for(self.judge.fetched_at(), others)?;
                self.sums = Some(sums);
            }
        }
        self.sample.take();
        let (squares, moves) = self.judge.found_and_decided();
        let mut gathered = self.gathered();
        gathered.add_up(others)?;
        let moved = match rules.into_iter().next() {
            Some((place, ..)) if moves => self.sample.update(place),
            _ => true,
        };
        Ok(Gathered { squares, skipped: !moves, moved, ..gathered })
    }

    fn gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError> {
        let (trained, first) = (self.layout.trained(), self.gradients.first());
        Ok(Cow::Owned(download(&self.places, trained, &self.gradients.numbers, first)?))
    }

    fn input_gradients(&mut self) -> Result<Cow<'_, [f32]>, TrainError> {
        Ok(Cow::Owned(self.room.back.d_residual.read().map_err(KernelError::from)?))
    }

    fn evaluate(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError> {
        self.measure(ids, targets, pruning, false)
    }

    fn survey(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Vec<RowLoss>, TrainError> {
        self.survey_rows(ids, targets, pruning)
    }

    fn diverge(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Measured, TrainError> {
        self.measure(ids, targets, pruning, true)
    }

    fn gate_inputs(&mut self, ids: &[u32], show: &mut dyn FnMut(usize, &[f32])) -> Result<(), TrainError> {
        self.show_gate_inputs(ids, show)
    }

    fn complete(&mut self, others: &mut dyn Collective) -> Result<(), TrainError> {
        // Taken, so that an error drops it at once: what it waits for would never come.
        if let Some(mut sums) = self.sums.take() {
            sums.complete(&self.weights, &self.gradients, others)?;
            self.sums = Some(sums);
        }
        Ok(())
    }

    fn export(&mut self) -> Result<Parameters<'_>, TrainError> {
        if self.sums.as_ref().is_some_and(|sums| !sums.is_whole()) {
            let what = "an export of parameters that other processes moved".to_owned();
            return Err(TrainError::Internal { what });
        }
        let (trained, places) = (self.layout.trained(), &self.places);
        let values = self.weights.read(places, trained.clone())?;
        let [first, second] = &self.gradients.moments;
        let moment = |moment| download(places, trained.clone(), moment, self.gradients.first());
        let moments = [Cow::Owned(moment(first)?), Cow::Owned(moment(second)?)];
        Ok(Parameters { values: Cow::Owned(values), moments })
    }

    fn enter(&mut self, texts: &[Vec<u32>]) -> Result<(), TrainError> {
        self.enter_texts(texts)
    }

    fn climb(&mut self, layer: usize, pruning: &Pruning<'_>, advance: bool) -> Result<f64, TrainError> {
        self.climb_layer(layer, pruning, advance)
    }
}

impl Cuda {
    /// Adds up gradients, and what was found of losses, over all processes where their devices cannot.
    fn add_up_on_the_host(&self, others: &mut dyn Collective) -> Result<(), TrainError> {
        let (trained, first) = (self.layout.trained(), self.gradients.first());
        let mut gradients = download(&self.places, trained.clone(), &self.gradients.numbers, first)?;
        others.sum(&mut gradients)?;
        upload(&self.places, trained.start, &gradients, &self.gradients.numbers, first)?;
        self.judge.share(|found| Ok(others.sum_exact(found)?))
    }

    /// One step of the optimiser at some places, part by part, each sent to the others while the next is made; nothing changes
    /// where it was decided that nothing moves.
    fn move_all(&mut self, rules: &[(Range<usize>, AdamW, bool)]) -> Result<(), TrainError> {
        self.packed = false;
        let all = [self.gradients.first()..self.gradients.end()];
        let parts = self.sums.as_ref().map_or(&all[..], Sums::parts).to_vec();
        for (number, part) in parts.into_iter().enumerate() {
            for (place, rule, is_clipped) in rules {
                let place = place.start.max(part.start)..place.end.min(part.end);
                if !place.is_empty() {
                    self.move_place(&place, rule, *is_clipped)?;
                }
            }
            if let Some(sums) = &mut self.sums {
                sums.moved(number, &self.weights)?;
            }
        }
        Ok(())
    }

    /// One step of the optimiser for what this process moves of a place.
    fn move_place(&mut self, place: &Range<usize>, rule: &AdamW, is_clipped: bool) -> Result<(), TrainError> {
        let Self { kernels, gradients, weights, judge, shares, sums, .. } = self;
        let [gradients, first, second] = gradients.all(place)?;
        let (values, working) = (weights.of(place)?, weights.working(place)?);
        let stretches = shares.of(&kernels.device, sums.as_ref(), place, Share::Moved)?;
        let moved = Moved { values, gradients, first, second, working };
        let judged = Judged { verdict: judge.verdict(), is_clipped };
        Ok(kernels.optimizer.adamw(rule, moved, stretches, judged)?)
    }

    /// What the passes of this process came to, once they were waited for.
    fn gathered(&self) -> Gathered {
        let (layers, tokens) = (self.network.layers.len(), self.room.tokens);
        let mut gathered = Gathered {
            keep: vec![0.0; layers],
            met: vec![Pressure::default(); layers],
            ..Gathered::default()
        };
        for part in &self.parts[..self.passes] {
            gathered.loss.add(part.loss());
            if let Some(GateForm { heads, .. }) = self.network.gates {
                let lanes = part.batch.rows() / tokens.max(1) * heads;
                gathered.survival += mean_survival(part.survival(), lanes, tokens) / self.all_passes as f64;
            }
            for layer in 0..layers {
                gathered.keep[layer] += part.keep(layer, tokens) / self.all_passes as f64;
                let met = part.met(layer);
                gathered.met[layer].pull += met.pull;
                gathered.met[layer].weight += met.weight;
            }
        }
        gathered
    }

    /// Sends what entries cost, per layer, to every gate head of it.
    fn set_pull(&mut self, pull: Pull<'_>) -> Result<(), TrainError> {
        let Some(GateForm { heads, .. }) = self.network.gates else { return Ok(()) };
        for layer in 0..self.sent_lambda.len() / heads {
            let cost = match pull {
                Pull::PerEntry(all) => all.get(layer).copied().unwrap_or_default(),
                Pull::None | Pull::PerPair { .. } => 0.0,
            };
            (layer * heads..(layer + 1) * heads).for_each(|gate| self.sent_lambda.set(gate, cost));
        }
        Ok(self.lambda.write_pinned(&self.sent_lambda).map_err(KernelError::from)?)
    }
}
