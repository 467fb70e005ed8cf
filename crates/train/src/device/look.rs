//! A look at the model between two steps: losses, and what layers keep.

use dropcap_kernels::cross_entropy::Shares;
use dropcap_kernels::cuda::DeviceBuffer;
use dropcap_kernels::{DType, KernelError, RowLoss};
use half::bf16;

use super::Cuda;
use super::forward::Counting;
use super::head::{Goal, Lesson};
use super::part::Part;
use super::room::Teaching;
use crate::TrainError;
use crate::backend::Measured;
use crate::network::Pruning;

/// Memory for one sequence at a time, and the texts that were entered.
#[derive(Debug)]
pub(super) struct Look {
    part: Part,
    /// The entered texts' residual streams before a layer, f32 `[T, c]` each, and room for one behind it.
    streams: Vec<DeviceBuffer<f32>>,
    spare: Option<DeviceBuffer<f32>>,
    /// The layer that they stand before.
    next: usize,
    /// A sequence with what it gives when nothing is forgotten.
    dense: Option<(Vec<u32>, Teaching)>,
}

impl Cuda {
    /// What stands ready for one sequence, with as many places to count what is kept at.
    fn take_look(&mut self, places: usize) -> Result<Look, TrainError> {
        match self.look.take() {
            Some(look) if look.part.lanes.len() >= places => Ok(look),
            _ => {
                let part = self.part(self.room.tokens, places)?;
                Ok(Look { part, streams: Vec::new(), spare: None, next: 0, dense: None })
            }
        }
    }

    fn wait(&self) -> Result<(), TrainError> {
        Ok(self.kernels.device.synchronize().map_err(KernelError::from)?)
    }

    /// Loss and keep ratios of one sequence, and how far its predictions are from the dense ones where that is asked for.
    pub(super) fn measure(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
        from_dense: bool,
    ) -> Result<Measured, TrainError> {
        let sequences = self.admit(ids, targets, pruning)?;
        if sequences != 1 {
            return Err(TrainError::Internal { what: format!("{sequences} sequences to measure at a time") });
        }
        let (layers, tokens) = (self.network.layers.len(), self.room.tokens);
        let mut look = self.take_look(layers)?;
        let known = look.dense.take();
        let part = &mut look.part;
        // Nothing that was sent before is still on its way.
        self.wait()?;
        part.send(ids, targets, self.network.config.vocabulary)?;
        let run = self.run(1, pruning);
        let dense = match known {
            _ if !from_dense => None,
            Some((of, dense)) if of == ids => Some(dense),
            _ => {
                let dense = Teaching::new(&self.kernels, &self.network, tokens)?;
                self.run(1, &Pruning::Dense).look(&part.batch, None, &dense.output)?;
                Some(dense)
            }
        };
        let teacher = dense.as_ref().map(|Teaching { output, logits }| Lesson {
            network: &self.network,
            weights: &self.weights,
            output,
            logits,
        });
        let counting = Counting { table: &self.table, sums: &part.kept };
        run.look(&part.batch, Some(counting), &self.room.normed)?;
        let shares = Shares { distill: if from_dense { 1.0 } else { 0.0 }, scale: 1.0 };
        let goal = Goal { targets: &part.targets, losses: &part.losses, teacher, shares };
        run.loss(goal, None)?;
        for layer in 0..layers {
            part.lanes[layer] = run.lanes(layer)?;
        }
        part.fetch()?;
        self.wait()?;
        let keep = (0..layers).map(|layer| part.keep(layer, tokens)).collect();
        let measured = Measured { loss: part.loss(), keep };
        look.dense = dense.map(|dense| (ids.to_vec(), dense));
        self.look = Some(look);
        Ok(measured)
    }

    /// Losses of each row of a micro-batch. It may be called before a step's passes, whose memory it uses: nothing of the step
    /// before is still on its way there.
    pub(super) fn survey_rows(
        &mut self,
        ids: &[u32],
        targets: &[u32],
        pruning: &Pruning<'_>,
    ) -> Result<Vec<RowLoss>, TrainError> {
        let sequences = self.admit(ids, targets, pruning)?;
        let mut part = match self.survey.take() {
            Some(part) => part,
            None => self.part(self.room.sequences * self.room.tokens, 1)?,
        };
        self.wait()?;
        part.send(ids, targets, self.network.config.vocabulary)?;
        let run = self.run(sequences, pruning);
        run.look(&part.batch, None, &self.room.normed)?;
        let shares = Shares { distill: 0.0, scale: 1.0 };
        let goal = Goal { targets: &part.targets, losses: &part.losses, teacher: None, shares };
        run.loss(goal, None)?;
        part.fetch()?;
        self.wait()?;
        let rows = part.row_losses();
        self.survey = Some(part);
        Ok(rows)
    }

    /// Shows what the gates of each layer read when nothing is forgotten.
    pub(super) fn show_gate_inputs(
        &mut self,
        ids: &[u32],
        show: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), TrainError> {
        self.admit(ids, ids, &Pruning::Dense)?;
        let mut look = self.take_look(self.network.layers.len())?;
        self.wait()?;
        look.part.send(ids, ids, self.network.config.vocabulary)?;
        let run = self.run(1, &Pruning::Dense);
        let (streams, slot) = (&self.room.residual, self.room.slot(0));
        run.embed(&look.part.batch, &streams[0])?;
        let bytes = ids.len() * self.network.config.hidden * self.kernels.dtype.bytes();
        for layer in 0..self.network.layers.len() {
            run.layer(layer, slot, &streams[layer % 2], &streams[(layer + 1) % 2])?;
            let read = slot.attention_input.read_range(0, bytes).map_err(KernelError::from)?;
            show(layer, &widened(&read, self.kernels.dtype));
        }
        self.look = Some(look);
        Ok(())
    }

    pub(super) fn enter_texts(&mut self, texts: &[Vec<u32>]) -> Result<(), TrainError> {
        let count = self.room.tokens * self.network.config.hidden;
        let mut look = self.take_look(texts.len().max(self.network.layers.len()))?;
        let mut streams = Vec::with_capacity(texts.len());
        for text in texts {
            let sequences = self.admit(text, text, &Pruning::Dense)?;
            if sequences != 1 {
                return Err(TrainError::Internal { what: format!("a text of {} tokens", text.len()) });
            }
            self.wait()?;
            look.part.send(text, text, self.network.config.vocabulary)?;
            let stream = self.kernels.wide("the residual stream of a text", count)?;
            self.run(1, &Pruning::Dense).embed(&look.part.batch, &stream)?;
            streams.push(stream);
        }
        look.spare = Some(self.kernels.wide("the residual stream of a text", count)?);
        look.streams = streams;
        look.next = 0;
        self.look = Some(look);
        Ok(())
    }

    pub(super) fn climb_layer(
        &mut self,
        layer: usize,
        pruning: &Pruning<'_>,
        advance: bool,
    ) -> Result<f64, TrainError> {
        let tokens = self.room.tokens;
        let unready = || TrainError::Internal { what: format!("no texts stand before layer {layer}") };
        let mut look = self.look.take().ok_or_else(unready)?;
        if look.next != layer || layer >= self.network.layers.len() {
            return Err(unready());
        }
        self.windows.prepare(&self.kernels.device, [self.room.sequences, tokens], pruning)?;
        self.pack()?;
        let run = self.run(1, pruning);
        let Look { part, streams, spare, next, .. } = &mut look;
        let spare = spare.as_mut().ok_or_else(unready)?;
        let slot = self.room.slot(0);
        let lanes = run.lanes(layer)?;
        for (place, stream) in streams.iter_mut().enumerate() {
            run.layer(layer, slot, stream, spare)?;
            let counting = Counting { table: &self.table, sums: &part.kept };
            run.count(layer, slot, Some(counting), place)?;
            part.lanes[place] = lanes;
            if advance {
                std::mem::swap(stream, spare);
            }
        }
        part.fetch()?;
        self.wait()?;
        let sum: f64 = (0..streams.len()).map(|place| part.keep(place, tokens)).sum();
        let mean = sum / streams.len().max(1) as f64;
        *next += usize::from(advance);
        self.look = Some(look);
        Ok(mean)
    }
}

/// The numbers of bytes in a format of products.
fn widened(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        _ => bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    }
}
