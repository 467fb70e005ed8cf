//! The same tests on a GPU.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use dropcap_kernels::KvFormat;
use dropcap_model::device::{
    DeviceDecoder, DeviceOptions, DeviceSegment, DeviceWeights, Slot, SlotState, Wanted,
};
use dropcap_policy::{EvictionPolicy, Stage};

use super::measure::{Samples, Test};

/// Weights on a device, a policy and how to run them.
pub struct DeviceBench<'a> {
    pub weights: &'a Arc<DeviceWeights>,
    pub policy: &'a dyn EvictionPolicy,
    pub kv_dtype: KvFormat,
    pub kv_limit: Option<usize>,
    pub chunk: usize,
}

impl DeviceBench<'_> {
    /// Runs `test` `warmup` + `repeats` times, each from freshly filled caches, waiting for every token as an engine
    /// does.
    pub fn run(&self, test: &Test, warmup: usize, repeats: usize) -> Result<Samples> {
        let mut samples = Samples { seconds: Vec::with_capacity(repeats), live_bytes: 0, held_bytes: 0 };
        let options = DeviceOptions {
            kv_dtype: self.kv_dtype,
            kv_limit: self.kv_limit,
            chunk: self.chunk,
            max_batch: test.batch,
            deaths: false,
            logit_rows: 0,
            kept: 0,
        };
        let mut decoder = DeviceDecoder::new(self.weights.clone(), self.policy, options)?;
        for repeat in 0..warmup + repeats {
            let slots: Vec<Slot> = (0..test.batch)
                .map(|_| decoder.open()?.context("a decoder has a slot for every sequence of its batch"))
                .collect::<Result<_>>()?;
            let references: Vec<&Slot> = slots.iter().collect();
            let mut states = decoder.fill(&references, 0, test.depth)?;
            // The first step of a batch size records a graph; that is start-up, not decoding.
            let mut position = test.depth as u32;
            if test.generation > 0 {
                // What was filled in is a prompt, which ends where its last tokens are.
                let together = self.policy.needs().together(self.chunk / test.batch).max(1);
                for (count, stage) in [(together, Stage::PromptEnd), (1, Stage::Behind)] {
                    self.feed(&mut decoder, &slots, position, count, stage, &mut states)?;
                    position += count as u32;
                }
            }
            let start = Instant::now();
            if test.prompt > 0 {
                let chunk = (self.chunk / test.batch).max(1);
                let mut done = 0;
                while done < test.prompt {
                    let (all, fed) = (test.depth + test.prompt, test.depth + done);
                    // What must come together is measured together.
                    let count = match self.policy.needs().cut(all, fed, chunk.min(test.prompt - done)) {
                        0 => test.prompt - done,
                        count => count,
                    };
                    done += count;
                    let stage = if done == test.prompt { Stage::PromptEnd } else { Stage::Prompt };
                    self.feed(&mut decoder, &slots, position, count, stage, &mut states)?;
                    position += count as u32;
                }
            }
            for _ in 0..test.generation {
                self.feed(&mut decoder, &slots, position, 1, Stage::Behind, &mut states)?;
                position += 1;
            }
            let seconds = start.elapsed().as_secs_f64();
            if repeat >= warmup {
                samples.seconds.push(seconds);
            }
            let sum = |number: fn(&SlotState) -> usize| states.iter().map(number).sum::<usize>() as u64;
            samples.live_bytes = sum(|state| state.live) * decoder.entry_bytes() as u64;
            samples.held_bytes = sum(|state| state.pages) * decoder.page_bytes() as u64;
        }
        Ok(samples)
    }

    /// Feeds `count` tokens to every sequence; any token will do, since time does not depend on which.
    fn feed(
        &self,
        decoder: &mut DeviceDecoder,
        slots: &[Slot],
        first_position: u32,
        count: usize,
        stage: Stage,
        states: &mut Vec<SlotState>,
    ) -> Result<()> {
        let vocabulary = decoder.config().vocabulary as u32;
        let ids: Vec<u32> = (0..count as u32)
            .map(|i| (first_position + i).wrapping_mul(2_654_435_761) % vocabulary)
            .collect();
        let wanted = if stage != Stage::Prompt { Wanted::Token { random: 0.0 } } else { Wanted::Nothing };
        let segments: Vec<DeviceSegment<'_>> = slots
            .iter()
            .map(|slot| DeviceSegment { slot, ids: &ids, first_position, stage, budget: None, wanted })
            .collect();
        *states = decoder.step(&segments, &mut |_| {})?.states;
        Ok(())
    }
}
