//! `pyramid`: many entries below, few above.

/// Entries that layer `layer` of `layers` keeps per head when `capacity` are kept on average, of which `window` are the newest.
/// `n` entries there are; at most all of them.
///
/// Cai et al. 2024, arXiv 2406.02069, equations 2 to 4; KVCache-Factory `PyramidKVCluster`, in whole numbers as there: the top
/// layer keeps (capacity - window) / beta beside its window, the bottom layer what makes the mean right, steps are
/// even. With n below twice that mean there is no pyramid. The original takes the window off the mean and not off the
/// pyramid's ends, and so keeps up to a window more; with n below capacity it keeps all.
#[must_use]
pub fn pyramid_tokens(
    layer: usize,
    layers: usize,
    n: usize,
    capacity: usize,
    window: usize,
    beta: usize,
) -> usize {
    let base = capacity.saturating_sub(window);
    if n <= capacity {
        return n;
    }
    if n < 2 * base || layers < 2 {
        return capacity;
    }
    let least = base / beta.max(1);
    let (mut most, mut least) = (2 * base - least, least);
    if most >= n.saturating_sub(window) {
        most = n.saturating_sub(window);
        least = (2 * base).saturating_sub(most);
    }
    let step = most.saturating_sub(least) / (layers - 1);
    (most.saturating_sub(layer.saturating_mul(step)) + window).min(n)
}

/// Entries that layer `layer` of `layers` keeps per head, its window among them, when the share `keep` of n is kept on average.
///
/// kvpress `PyramidKVPress`: as [`pyramid_tokens`], but in fractions, rounded half to even at the end, and where the top layer
/// would keep less than its `window`, every layer keeps the same.
#[must_use]
pub fn pyramid_share(layer: usize, layers: usize, n: usize, keep: f64, window: usize, beta: f64) -> usize {
    let (length, window) = (n as f64, window as f64);
    let mean = length * keep;
    let mut least = mean / beta.max(1.0);
    let mut most = mean * 2.0 - least;
    if most >= length - window {
        most = length - window;
        least = mean * 2.0 - most;
    }
    let kept = if layers > 1 && length >= most && most >= least && least >= window {
        let step = (most - least) / (layers - 1) as f64;
        most - layer as f64 * step
    } else {
        mean
    };
    (kept.round_ties_even() as usize).min(n)
}
