//! Launches of the kernels in `sample.cu`.

use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};

pub(crate) const SOURCE: Source = Source {
    file: "sampling/sample.cu",
    text: concat!(include_str!("row.cuh"), include_str!("sample.cu")),
    constants: |_, _| {
        vec![
            ("THREADS", THREADS),
            ("MARK_THREADS", MARK_THREADS),
            ("CHUNK", CHUNK),
            ("CHUNKS", CHUNKS),
            ("SEGMENT", SEGMENT),
            ("BINS", BINS),
            ("NOT_FINITE", NOT_FINITE as usize),
        ]
    },
    arguments: &[SlotSampling::LAYOUT, RowState::LAYOUT, SampleArgs::LAYOUT, MarkArgs::LAYOUT],
};

/// The bit beside the index of a logit that is not finite, in place of a token.
pub const NOT_FINITE: u32 = 1 << 31;

const THREADS: usize = 512;
const MARK_THREADS: usize = 256;

/// Logits that a block reads at once.
const CHUNK: usize = 4 * THREADS;
/// Chunks of a row at most: a thread for each.
const CHUNKS: usize = THREADS;
/// Tokens of which the largest logit is remembered.
const SEGMENT: usize = 128;
/// Bins of weights.
const BINS: usize = 2048;
/// Prompt tokens that are uploaded at once.
const UPLOAD: usize = 4096;

kernel_struct! {
    /// How the tokens of one sequence are chosen; the filters apply in the order penalty, temperature, top-k, top-p, min-p.
    /// The host has checked the ranges.
    #[derive(PartialEq, Pod, Zeroable)]
    pub struct SlotSampling as SlotSampling {
        /// Logits are divided by this; 0 takes the first of the largest logits and ignores the filters. In [0, inf).
        pub temperature: f32,
        /// Only the `k` likeliest tokens; 0 keeps all.
        pub top_k: u32,
        /// Only the likeliest tokens whose probabilities reach this sum; 1 keeps all. In (0, 1].
        pub top_p: f32,
        /// Only tokens at least this share as likely as the likeliest; 0 keeps all. In [0, 1].
        pub min_p: f32,
        /// Logits of tokens already in the text are divided (if positive) or multiplied (if negative) by this; 1 does
        /// nothing. In (0, inf).
        pub repetition_penalty: f32,
    }
}

impl Default for SlotSampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

kernel_struct! {
    /// What the blocks of a row tell each other.
    #[derive(Pod, Zeroable)]
    struct RowState as RowState {
        best: u64,
        bad: u32,
        ticket: u32,
        pending: u32,
        padding: u32,
    }
}

/// Chooses the tokens of all sequences.
#[derive(Debug)]
pub struct DeviceSampler {
    sample: Function,
    weigh: Function,
    mark: Function,
    sampling: DeviceBuffer<SlotSampling>,
    /// One bit per token that the sequence's text has `[slots][words]`.
    seen: DeviceBuffer<u32>,
    /// Zeros between launches.
    states: DeviceBuffer<RowState>,
    /// The largest logit of each segment `[rows][segments]`.
    maxima: DeviceBuffer<f32>,
    /// Weights of each chunk `[rows][CHUNKS]`.
    chunks: DeviceBuffer<u64>,
    /// Zeros between launches `[rows][BINS]`.
    bins: DeviceBuffer<u64>,
    upload: DeviceBuffer<u32>,
    /// Which slots have a penalty: only they need `seen`.
    penalised: Mutex<Vec<bool>>,
    vocabulary: usize,
    words: usize,
    multiprocessors: usize,
}

kernel_struct! {
    struct SampleArgs as SampleArgs {
        sampling: u64,
        seen: u64,
        slots: u64,
        logits: u64,
        randoms: u64,
        tokens: u64,
        states: u64,
        maxima: u64,
        chunks: u64,
        bins: u64,
        vocabulary: u32,
        words: u32,
        part: u32,
        segments: u32,
        stride: u32,
        slot_count: u32,
    }
}

kernel_struct! {
    struct MarkArgs as MarkArgs {
        seen: u64,
        tokens: u64,
        count: u32,
        padding: u32,
    }
}

impl DeviceSampler {
    /// A sampler for `max_slots` sequences and logits over `vocabulary` tokens; every slot is greedy.
    ///
    /// # Errors
    /// No tokens or more than 2^20; a kernel that does not compile; no memory.
    pub fn new(device: &Device, max_slots: usize, vocabulary: usize) -> Result<Self, KernelError> {
        if !(1..=CHUNK * CHUNKS).contains(&vocabulary) {
            return Err(KernelError::Invalid {
                op: "sample",
                expected: format!("a vocabulary between 1 and {}", CHUNK * CHUNKS),
                got: vocabulary.to_string(),
            });
        }
        let module = Module::load(device, &SOURCE, &Specialisation::NEUTRAL)?;
        let words = vocabulary.div_ceil(32);
        let what = "the state of sampling";
        // A batch is padded to a power of two, say.
        let rows = 2 * max_slots + 64;
        Ok(Self {
            sample: module.function("sample", 0)?,
            weigh: module.function("weigh", 0)?,
            mark: module.function("mark", 0)?,
            sampling: DeviceBuffer::copy_of(device, what, &vec![SlotSampling::default(); max_slots])?,
            seen: DeviceBuffer::zeroed(device, what, max_slots * words)?,
            states: DeviceBuffer::zeroed(device, what, rows)?,
            maxima: DeviceBuffer::uninitialized(device, what, rows * vocabulary.div_ceil(SEGMENT))?,
            chunks: DeviceBuffer::uninitialized(device, what, rows * CHUNKS)?,
            bins: DeviceBuffer::zeroed(device, what, rows * BINS)?,
            upload: DeviceBuffer::uninitialized(device, what, UPLOAD)?,
            penalised: Mutex::new(vec![false; max_slots]),
            vocabulary,
            words,
            multiprocessors: device.facts().multiprocessors as usize,
        })
    }

    /// A sequence begins in `slot`: its parameters, and no token seen yet. Waits for the device.
    ///
    /// # Errors
    /// A slot that does not exist.
    pub fn set(&self, slot: usize, sampling: SlotSampling) -> Result<(), KernelError> {
        self.check_slot(slot)?;
        self.sampling.write(slot, &[sampling])?;
        if let Some(penalised) = self.penalised.lock().unwrap_or_else(PoisonError::into_inner).get_mut(slot) {
            *penalised = sampling.repetition_penalty != 1.0;
            if *penalised {
                self.seen.write(slot * self.words, &vec![0; self.words])?;
            }
        }
        Ok(())
    }

    /// The sequence's text has these tokens too: its prompt. Sampled ones are known. Waits for the device, or does
    /// nothing where the slot has no penalty.
    ///
    /// # Errors
    /// A slot or a token that does not exist.
    pub fn seen(&self, slot: usize, tokens: &[u32]) -> Result<(), KernelError> {
        self.check_slot(slot)?;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocabulary) {
            return Err(KernelError::Invalid {
                op: "sample",
                expected: format!("tokens below {}", self.vocabulary),
                got: token.to_string(),
            });
        }
        // Held until the end: the upload buffer is one for all.
        let penalised = self.penalised.lock().unwrap_or_else(PoisonError::into_inner);
        if penalised.get(slot) != Some(&true) {
            return Ok(());
        }
        for some in tokens.chunks(UPLOAD) {
            self.upload.write(0, some)?;
            let argument = MarkArgs {
                seen: self.seen.pointer() + (slot * self.words * size_of::<u32>()) as u64,
                tokens: self.upload.pointer(),
                count: some.len() as u32,
                padding: 0,
            };
            // SAFETY: the argument is the kernel's; the tokens are inside the slot's bitmap, as just checked.
            unsafe {
                self.mark.launch(Grid::new(some.len().div_ceil(MARK_THREADS), MARK_THREADS as u32), &argument)
            }?;
        }
        Ok(())
    }

    /// Chooses a token for each of `count` rows: `slots` u32 `[count]` says whose row it is, each slot at most once,
    /// `u32::MAX` for padding, whose token stays as it is; `logits` f32, row i from `i * stride` on; `randoms` f32 `[count]`, each in
    /// [0, 1). Written to `tokens` u32 `[count]`: the token, or `0x8000_0000 | i` where logit i is the first that is
    /// NaN or infinite. Two launches.
    ///
    /// # Errors
    /// Buffers that are too short, more rows than twice the slots and 64.
    pub fn sample(
        &self,
        count: usize,
        slots: &DeviceBuffer<u32>,
        logits: &DeviceBuffer<f32>,
        stride: usize,
        randoms: &DeviceBuffer<f32>,
        tokens: &DeviceBuffer<u32>,
    ) -> Result<(), KernelError> {
        let least = |what, expected: usize, got| {
            let op = "sample";
            if got >= expected { Ok(()) } else { Err(KernelError::Length { op, what, expected, got }) }
        };
        least("slots", count, slots.len())?;
        least("the stride of logits", self.vocabulary, stride)?;
        least("logits", count * stride, logits.len())?;
        least("randoms", count, randoms.len())?;
        least("tokens", count, tokens.len())?;
        least("rows", count, self.states.len())?;
        if count == 0 {
            return Ok(());
        }
        // One multiprocessor alone would read a row of 128256 logits for 5 us; two blocks on each are plenty.
        let chunks = self.vocabulary.div_ceil(CHUNK);
        let splits = (2 * self.multiprocessors).div_ceil(count).clamp(1, chunks.div_ceil(2));
        let part = chunks.div_ceil(splits) * CHUNK;
        let argument = SampleArgs {
            sampling: self.sampling.pointer(),
            seen: self.seen.pointer(),
            slots: slots.pointer(),
            logits: logits.pointer(),
            randoms: randoms.pointer(),
            tokens: tokens.pointer(),
            states: self.states.pointer(),
            maxima: self.maxima.pointer(),
            chunks: self.chunks.pointer(),
            bins: self.bins.pointer(),
            vocabulary: self.vocabulary as u32,
            words: self.words as u32,
            part: part as u32,
            segments: self.vocabulary.div_ceil(SEGMENT) as u32,
            stride: stride as u32,
            slot_count: self.sampling.len() as u32,
        };
        let grid = Grid::new(self.vocabulary.div_ceil(part), THREADS as u32).by(count).early();
        // SAFETY: the argument is the kernel's, and its buffers are as large as just checked; it passes over slots that
        // do not exist.
        unsafe { self.sample.launch(grid, &argument) }?;
        // Rows that the first launch leaves are known only on the device.
        // SAFETY: as above.
        Ok(unsafe { self.weigh.launch(grid, &argument) }?)
    }

    fn check_slot(&self, slot: usize) -> Result<(), KernelError> {
        if slot < self.sampling.len() {
            return Ok(());
        }
        Err(KernelError::Invalid {
            op: "sample",
            expected: format!("slots below {}", self.sampling.len()),
            got: slot.to_string(),
        })
    }
}
