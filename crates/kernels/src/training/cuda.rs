//! The kernels beside the operations of a pass.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::{check_at_least, checked_size};

pub(crate) const SOURCE: Source = Source {
    file: "training/train.cu",
    text: include_str!("train.cu"),
    constants: |_, _| vec![("THREADS", THREADS as usize)],
    arguments: &[Noise::LAYOUT, Round::LAYOUT, Keep::LAYOUT, Sample::LAYOUT],
};

const OP: &str = "counts of a pass";
const THREADS: u32 = 256;
/// Partial sums of what a layer keeps.
const KEEP_BLOCKS: usize = 32;

/// What is drawn, rounded and counted while a network trains.
#[derive(Debug, Clone)]
pub struct TrainCounts {
    noise: Function,
    round: Function,
    keep: Function,
    sample: Function,
}

/// Of each position, what the queries before it that count see of one entry.
#[derive(Debug)]
pub struct KeepTable {
    shares: DeviceBuffer<f64>,
    tokens: usize,
}

/// Sums of what layers keep, one place each.
#[derive(Debug)]
pub struct KeptSums(DeviceBuffer<f64>);

kernel_struct! {
    struct Noise as Noise {
        out: u64,
        base: u64,
        count: u64,
        scale: f32,
        padding: u32,
    }
}

kernel_struct! {
    struct Round as Round {
        x: u64,
        rows: u64,
        stride: u32,
        first: u32,
        width: u32,
        padding: u32,
    }
}

kernel_struct! {
    struct Keep as Keep {
        expires_at: u64,
        shares: u64,
        partials: u64,
        count: u64,
        tokens: u32,
        padding: u32,
    }
}

kernel_struct! {
    struct Sample as Sample {
        x: u64,
        out: u64,
        apart: u64,
        count: u32,
        padding: u32,
    }
}

impl KeepTable {
    /// For sequences of `tokens`, of which the later half of the queries counts.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, tokens: usize) -> Result<Self, KernelError> {
        let mut sum = 0.0;
        let mut shares = vec![0.0; tokens + 1];
        for query in tokens / 2..tokens {
            sum += 1.0 / (query + 1) as f64;
            shares[query + 1] = sum;
        }
        Ok(Self { shares: DeviceBuffer::copy_of(device, "shares of queries", &shares)?, tokens })
    }
}

impl KeptSums {
    /// Room for `places` sums.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, places: usize) -> Result<Self, KernelError> {
        Ok(Self(DeviceBuffer::zeroed(device, "sums of what is kept", places * KEEP_BLOCKS)?))
    }

    /// The partial sums behind the places, for a copy to the host; [`KeptSums::ratio`] makes ratios of the copy.
    #[must_use]
    pub fn partials(&self) -> &DeviceBuffer<f64> {
        &self.0
    }

    /// The keep ratio of `place` in a copy of [`KeptSums::partials`], of `lanes` lanes of T = `tokens` entries: the mean over
    /// the later half of the queries k of live entries / (k + 1).
    #[must_use]
    pub fn ratio(partials: &[f64], place: usize, lanes: usize, tokens: usize) -> f64 {
        let queries = (tokens - tokens / 2) * lanes;
        if queries == 0 {
            return 1.0;
        }
        let own = partials.iter().skip(place * KEEP_BLOCKS).take(KEEP_BLOCKS);
        own.sum::<f64>() / queries as f64
    }
}

impl TrainCounts {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self {
            noise: module.function("logistic_noise", 0)?,
            round: module.function("round_columns", 0)?,
            keep: module.function("kept", 0)?,
            sample: module.function("sample", 0)?,
        })
    }

    /// Fills the first `count` numbers with logistic noise of `scale`, each a function of `base` and its place: the top 24 bits
    /// of SplitMix64's finaliser of `base ^ place`, through the logit.
    ///
    /// # Errors
    /// A buffer that is too short, or a failed device.
    pub fn noise(
        &self,
        base: u64,
        scale: f32,
        count: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "the noise", count, out.len())?;
        let arguments = Noise { out: out.pointer(), base, count: count as u64, scale, padding: 0 };
        // SAFETY: the layout of `Noise`; the length as just checked.
        unsafe { self.noise.launch(Grid::new(count.div_ceil(THREADS as usize), THREADS), &arguments) }?;
        Ok(())
    }

    /// Rounds columns `first` to `first + width` of the bytes `x` of f32 `[rows, stride]`, as the specialisation's cache would store them.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn round(
        &self,
        rows: usize,
        [stride, first, width]: [usize; 3],
        x: DeviceSlice<'_, u8>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "the stride", first + width, stride)?;
        check_at_least(OP, "the rows", checked_size(OP, &[rows, stride, size_of::<f32>()])?, x.len())?;
        let arguments = Round {
            x: x.pointer(),
            rows: rows as u64,
            stride: stride as u32,
            first: first as u32,
            width: width as u32,
            padding: 0,
        };
        let blocks = (rows * width).div_ceil(THREADS as usize);
        // SAFETY: the layout of `Round`; lengths as just checked.
        unsafe { self.round.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// Writes what a layer keeps, of `lanes` lanes of the table's tokens, u32 `[lanes, T]`, to one place of `sums`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn keep(
        &self,
        lanes: usize,
        expires_at: &DeviceBuffer<u32>,
        table: &KeepTable,
        sums: &KeptSums,
        place: usize,
    ) -> Result<(), KernelError> {
        let count = checked_size(OP, &[lanes, table.tokens])?;
        check_at_least(OP, "the lifetimes", count, expires_at.len())?;
        check_at_least(OP, "the sums", (place + 1) * KEEP_BLOCKS, sums.0.len())?;
        let own = DeviceSlice::new(&sums.0, place * KEEP_BLOCKS..(place + 1) * KEEP_BLOCKS)?;
        let arguments = Keep {
            expires_at: expires_at.pointer(),
            shares: table.shares.pointer(),
            partials: own.pointer(),
            count: count as u64,
            tokens: table.tokens as u32,
            padding: 0,
        };
        // SAFETY: the layout of `Keep`; lengths as just checked.
        unsafe { self.keep.launch(Grid::new(KEEP_BLOCKS, THREADS), &arguments) }?;
        Ok(())
    }

    /// Copies every `apart`-th number of `x`, from the first on, to `out`; all of them for 1. What of `out` is left over stays.
    ///
    /// # Errors
    /// More numbers than there is room for, or a failed device.
    pub fn sample(
        &self,
        x: DeviceSlice<'_, f32>,
        apart: usize,
        out: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let count = x.len().div_ceil(apart.max(1));
        check_at_least(OP, "the sample", count, out.len())?;
        let arguments = Sample {
            x: x.pointer(),
            out: out.pointer(),
            apart: apart.max(1) as u64,
            count: count as u32,
            padding: 0,
        };
        // SAFETY: the layout of `Sample`; lengths as just checked.
        unsafe { self.sample.launch(Grid::new(count.div_ceil(THREADS as usize), THREADS), &arguments) }?;
        Ok(())
    }
}
