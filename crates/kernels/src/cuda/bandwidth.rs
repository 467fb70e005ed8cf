//! What a device's memory gives: the yardstick of decoding.

use std::time::Instant;

use super::{
    Argument, CudaError, Device, DeviceBuffer, Grid, Module, NO_CONSTANTS, Source, Specialisation,
    kernel_struct,
};

/// The kernel file.
pub(super) const SOURCE: Source = Source {
    file: "cuda/bandwidth.cu",
    text: include_str!("bandwidth.cu"),
    constants: NO_CONSTANTS,
    arguments: &[Args::LAYOUT],
};

/// Many times the second-level cache.
const BYTES: usize = 4 << 30;
const READS: u32 = 8;

kernel_struct! {
    struct Args as Args {
        words: u64,
        count: u64,
        out: u64,
    }
}

/// The best of some plain reads of up to 4 GiB, in bytes per second; waits for the device.
///
/// # Errors
/// Less than 64 MiB free, or a failed device.
pub fn read_bandwidth(device: &Device) -> Result<f64, CudaError> {
    let function = Module::load(device, &SOURCE, &Specialisation::NEUTRAL)?.function("read_all", 0)?;
    let bytes = BYTES.min(device.memory()?.0 / 2).max(64 << 20);
    let words = DeviceBuffer::<u8>::zeroed(device, "the measurement of bandwidth", bytes)?;
    let out = DeviceBuffer::<u32>::zeroed(device, "the measurement of bandwidth", 1)?;
    let args = Args { words: words.pointer(), count: (bytes / 16) as u64, out: out.pointer() };
    let grid = Grid::new(4 * device.facts().multiprocessors as usize, 512);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..READS {
            // SAFETY: `Args` is that of the kernel, which reads `count` 16-byte words of a buffer that has them.
            unsafe { function.launch(grid, &args) }?;
        }
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(bytes as f64 * f64::from(READS) / best)
}
