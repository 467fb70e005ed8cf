//! What the memory gives: a plain read loop over all threads, the yardstick of decoding.

use std::hint::black_box;
use std::time::Instant;

use dropcap_kernels::Team;

/// Much larger than any last-level cache.
const WORDS: usize = (512 << 20) / size_of::<u64>();

/// Best of some reads of 512 MiB, in bytes per second.
pub fn read_bytes_per_second(team: &Team) -> f64 {
    let memory: Vec<u64> = (0..WORDS as u64).collect();
    let parts: Vec<&[u64]> = memory.chunks(WORDS.div_ceil(team.threads())).collect();
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        team.run(parts.len(), &|part| {
            // Integer sums may be reordered, so this runs at vector width.
            black_box(parts[part].iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    size_of_val(memory.as_slice()) as f64 / best
}
