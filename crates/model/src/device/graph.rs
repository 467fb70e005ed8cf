//! Decode steps as recorded graphs, one for each batch size.

use dropcap_kernels::cuda::{DeviceSpan, Graph, PinnedBuffer, Row, StepSize};
use dropcap_kernels::lifetimes::StepStatus;

use super::decoder::DeviceDecoder;
use super::launch::Mode;
use super::step::token;
use super::{DeviceOutcome, DeviceRows, DeviceSegment, RowSink};
use crate::ModelError;

/// The slot of padding.
const NONE: u32 = u32::MAX;

/// A recorded decode step for one batch size, and the host memory that its copies read and write.
#[derive(Debug)]
pub(super) struct DecodeGraph {
    graph: Graph,
    rows: PinnedBuffer<Row>,
    spans: PinnedBuffer<DeviceSpan>,
    slots: PinnedBuffer<u32>,
    randoms: PinnedBuffer<f32>,
    /// Entries that stay, `[bucket][layers][groups]`, where queries rank them.
    kept: PinnedBuffer<u32>,
    tokens: PinnedBuffer<u32>,
}

impl DecodeGraph {
    /// Sets row `i` to the token of a segment, or to padding.
    fn set(&mut self, i: usize, segment: Option<&DeviceSegment<'_>>) {
        let slot = segment.map_or(NONE, |segment| segment.slot.index());
        let first_position = segment.map_or(0, |segment| segment.first_position);
        let token = segment.map_or(0, |segment| segment.ids[0]);
        let random = segment.and_then(|segment| segment.wanted.random()).unwrap_or_default();
        self.rows.set(i, Row { slot, token, position: first_position, back: 1 });
        self.spans.set(i, DeviceSpan { slot, first_row: i as u32, queries: 1, first_position });
        self.slots.set(i, slot);
        self.randoms.set(i, random);
    }
}

impl DeviceDecoder {
    /// One token for each of `chosen`, by a recorded graph.
    pub(super) fn decode(
        &mut self,
        segments: &[DeviceSegment<'_>],
        chosen: &[usize],
        outcome: &mut DeviceOutcome,
        sink: RowSink<'_>,
    ) -> Result<(), ModelError> {
        let bucket = chosen.len().next_power_of_two().min(self.options.max_batch);
        let mut graph = match self.graphs.remove(&bucket) {
            Some(graph) => graph,
            None => self.record(bucket)?,
        };
        for i in 0..bucket {
            let segment = chosen.get(i).map(|&index| &segments[index]);
            graph.set(i, segment);
            if let Some(ranker) = self.ranker.as_ref().filter(|ranker| ranker.every() > 0) {
                let first = i * ranker.lanes();
                let similarities = segment.map_or(&[][..], |segment| self.similarities(segment));
                let budgets = ranker.budgets(segment, similarities);
                (first..).zip(budgets).for_each(|(at, kept)| graph.kept.set(at, kept));
            }
        }
        graph.graph.launch()?;
        self.weights.device.synchronize()?;
        for (i, &index) in chosen.iter().enumerate() {
            outcome.tokens[index] = Some(token(graph.tokens.get(i)));
        }
        self.graphs.insert(bucket, graph);
        let slots: Vec<usize> = chosen.iter().map(|&index| segments[index].slot.index() as usize).collect();
        let status: Vec<u32> = (0..StepStatus::words(slots.len())).map(|i| self.status_host.get(i)).collect();
        self.note(&slots, &status)?;
        for (&index, &slot) in chosen.iter().zip(&slots) {
            outcome.states[index] = self.states[slot];
        }
        let stride = self.weights.head().outputs();
        for (i, &index) in chosen.iter().enumerate() {
            if segments[index].wanted.logits_from() == Some(0) {
                let row = self.scratch.logits.read_range(i * stride, stride)?;
                let (drawn, logits) = (outcome.tokens[index], &row[..self.config().vocabulary]);
                sink(DeviceRows { segment: index, first_row: 0, drawn, logits });
            }
        }
        Ok(())
    }

    /// Records a decode step for `bucket` sequences.
    fn record(&mut self, bucket: usize) -> Result<DecodeGraph, ModelError> {
        let device = self.weights.device.clone();
        let (rows, spans) = (PinnedBuffer::zeroed(&device, bucket)?, PinnedBuffer::zeroed(&device, bucket)?);
        let (slots, randoms) =
            (PinnedBuffer::zeroed(&device, bucket)?, PinnedBuffer::zeroed(&device, bucket)?);
        let mut tokens = PinnedBuffer::zeroed(&device, bucket)?;
        let ranker = self.ranker.as_ref().filter(|ranker| ranker.every() > 0);
        let budgets = ranker.map_or(0, |ranker| bucket * ranker.lanes());
        let kept = PinnedBuffer::zeroed(&device, budgets)?;
        let size = StepSize { rows: bucket, spans: bucket };
        self.tune(bucket)?;
        let mut status = std::mem::replace(&mut self.status_host, PinnedBuffer::zeroed(&device, 0)?);
        let ranker = self.ranker.as_ref().filter(|ranker| ranker.every() > 0);
        let graph = Graph::record(&device, || {
            self.inputs.rows.write_pinned(&rows)?;
            self.inputs.spans.write_pinned(&spans)?;
            self.sampling.slots.write_pinned(&slots)?;
            self.sampling.randoms.write_pinned(&randoms)?;
            ranker.map_or(Ok(()), |ranker| ranker.send_pinned(&kept))?;
            self.run_layers(size, Mode::Decode)?;
            self.decode_head(bucket)?;
            self.sample(bucket)?;
            ranker.map_or(Ok(()), |_| self.prune(size, self.config().max_positions))?;
            self.reclaim(size)?;
            self.sampling.tokens.read_pinned(&mut tokens)?;
            self.status.read_pinned(&mut status)?;
            Ok::<(), ModelError>(())
        });
        self.status_host = status;
        Ok(DecodeGraph { graph: graph?, rows, spans, slots, randoms, kept, tokens })
    }
}
