//! One test of the table: fill the caches, run, take the time.

use std::time::Instant;

use anyhow::Result;
use dropcap_cache::{KvCache, KvReport};
use dropcap_kernels::{KvFormat, Team};
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, Stage};

/// What to time.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Prompt tokens per sequence, or 0.
    pub prompt: usize,
    /// Generated tokens per sequence, or 0.
    pub generation: usize,
    /// Tokens in each cache beforehand.
    pub depth: usize,
    /// Sequences.
    pub batch: usize,
}

impl Test {
    /// `pp512` or `tg16`, as llama-bench names them.
    pub fn name(&self) -> String {
        if self.prompt > 0 { format!("pp{}", self.prompt) } else { format!("tg{}", self.generation) }
    }

    /// Positions that a sequence takes.
    pub fn positions(&self) -> usize {
        [self.depth, self.prompt, self.generation].into_iter().fold(0, usize::saturating_add)
    }
}

/// What came out of the repeats of one test.
pub struct Samples {
    /// Seconds of each timed repeat.
    pub seconds: Vec<f64>,
    /// Live bytes of all caches after the last repeat.
    pub live_bytes: u64,
    /// Bytes held by their pages.
    pub held_bytes: u64,
}

impl Samples {
    /// The fastest repeat.
    pub fn best_seconds(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Every repeat, in milliseconds per step.
    pub fn milliseconds(&self, steps: f64) -> Vec<f64> {
        self.seconds.iter().map(|seconds| 1e3 * seconds / steps).collect()
    }

    /// Mean and standard deviation over the repeats.
    pub fn tokens_per_second(&self, test: &Test) -> (f64, f64) {
        let tokens = (test.batch * (test.prompt + test.generation)) as f64;
        let rates: Vec<f64> = self.seconds.iter().map(|seconds| tokens / seconds).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let squares: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
        (mean, (squares / (rates.len().max(2) - 1) as f64).sqrt())
    }
}

/// A decoder, a policy and how to run them.
pub struct Bench<'a> {
    pub decoder: &'a Decoder,
    pub team: &'a Team,
    pub policy: &'a dyn EvictionPolicy,
    pub kv_dtype: KvFormat,
    pub kv_limit: Option<usize>,
    pub chunk: usize,
}

impl Bench<'_> {
    /// Runs `test` `warmup` + `repeats` times, each from freshly filled caches.
    pub fn run(&self, test: &Test, warmup: usize, repeats: usize) -> Result<Samples> {
        let mut samples = Samples { seconds: Vec::with_capacity(repeats), live_bytes: 0, held_bytes: 0 };
        let mut scratch = Scratch::default();
        for repeat in 0..warmup + repeats {
            let pool = self.decoder.page_pool(self.policy, self.kv_dtype, self.kv_limit)?;
            let (layers, lanes) = (self.decoder.config().layers, self.decoder.lanes_per_layer(self.policy));
            let mut caches: Vec<KvCache> =
                (0..test.batch).map(|_| KvCache::new(&pool, layers, lanes)).collect();
            for cache in &mut caches {
                self.decoder.fill(self.team, self.policy, cache, test.depth)?;
            }
            let start = Instant::now();
            if test.prompt > 0 {
                self.feed(&mut caches, test.prompt, self.chunk.div_ceil(test.batch), true, &mut scratch)?;
            } else {
                for _ in 0..test.generation {
                    self.feed(&mut caches, 1, 1, false, &mut scratch)?;
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            if repeat >= warmup {
                samples.seconds.push(seconds);
            }
            let report: KvReport = caches.iter().map(KvCache::report).sum();
            (samples.live_bytes, samples.held_bytes) = (report.live_bytes, report.held_bytes);
        }
        Ok(samples)
    }

    /// Feeds `count` tokens to every cache in chunks, with logits of the last row of the last chunk, as an
    /// engine would ask for.
    fn feed(
        &self,
        caches: &mut [KvCache],
        count: usize,
        chunk: usize,
        prompt: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let vocabulary = self.decoder.config().vocabulary as u32;
        let needs = self.policy.needs();
        let mut logits = Vec::new();
        let mut done = 0;
        while done < count {
            let before = caches.first().map_or(0, |cache| cache.next_position() as usize);
            let wanted = chunk.min(count - done);
            let tokens = match needs.cut(if prompt { before + count - done } else { 0 }, before, wanted) {
                // What must come together is measured together.
                0 => count - done,
                tokens => tokens,
            };
            done += tokens;
            let last = done == count;
            // Any token will do: time does not depend on which.
            let ids: Vec<u32> = (0..tokens as u32)
                .map(|i| (done as u32 + i).wrapping_mul(2_654_435_761) % vocabulary)
                .collect();
            let stage = match (prompt, last) {
                (true, true) => Stage::PromptEnd,
                (true, false) => Stage::Prompt,
                (false, _) => Stage::Behind,
            };
            let mut segments: Vec<Segment<'_>> = caches
                .iter_mut()
                .map(|cache| Segment {
                    cache,
                    ids: &ids,
                    stage,
                    budget: None,
                    logits: if last { Logits::Last } else { Logits::None },
                })
                .collect();
            let mut ignore = |_, _, _, _| {};
            self.decoder.forward(self.team, self.policy, &mut segments, scratch, &mut ignore, &mut logits)?;
        }
        Ok(())
    }
}
