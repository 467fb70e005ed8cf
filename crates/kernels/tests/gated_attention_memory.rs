//! The memory of a gated attention's forward and backward pass grows with the tokens, not with their square.
#![cfg(test)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dropcap_kernels::gated_attention::{
    GatedShape, Margin, Pressure, Rule, Saved, Voter, VoterGradient, backward, forward,
};
use dropcap_kernels::{AlphaSigmoid, AttentionShape, Team};

/// How much more than linear the growth may be.
const SLACK: f64 = 1.3;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The largest number of bytes that one forward and backward pass held beside its arguments.
fn peak(tokens: usize, rule: Rule<'_>, pressure: Pressure<'_>) -> usize {
    let team = Team::new(2).unwrap();
    let attention = AttentionShape { query_heads: 2, kv_heads: 1, head_dim: 16, scale: 0.25 };
    let shape = GatedShape {
        sequences: 1,
        tokens,
        attention,
        gate_heads: 1,
        gate_width: 4,
        sliding_window: None,
        sinks: 4,
        recent: 16,
    };
    let noise = |len: usize, seed: usize| -> Vec<f32> {
        (0..len).map(|i| ((i + seed) * 7919 % 10_007) as f32 / 5000.0 - 1.0).collect()
    };
    let (qkv, dout) = (noise(tokens * 64, 1), noise(tokens * 32, 2));
    let (query_gates, key_gates) = (noise(tokens * 4, 3), noise(tokens * 4, 4));
    let voters = [Voter { query_gates: &query_gates, key_gates: &key_gates, bias: &[1.5] }];
    let (mut out, mut dqkv) = (vec![0.0; dout.len()], vec![0.0; qkv.len()]);
    let (mut dq, mut dk, mut bias) = (vec![0.0; tokens * 4], vec![0.0; tokens * 4], [0.0]);
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut saved = Saved::new();
    forward(&team, &shape, rule, &voters, &qkv, 64, &mut out, &mut saved).unwrap();
    let mut gradients = [VoterGradient { query_gates: &mut dq, key_gates: &mut dk, bias: &mut bias }];
    let mut margin = Margin::default();
    backward(
        &team,
        &shape,
        rule,
        &voters,
        &qkv,
        64,
        &out,
        &dout,
        &saved,
        pressure,
        &mut dqkv,
        &mut gradients,
        &mut margin,
    )
    .unwrap();
    PEAK.load(Relaxed) - before
}

#[test]
fn memory_grows_with_the_tokens() {
    let curve = AlphaSigmoid::new(1.5).unwrap();
    let rules: [(Rule<'_>, Pressure<'_>); 2] = [
        (Rule::Hard { noise: None }, Pressure::Hard { lambda: &[0.1] }),
        (Rule::Soft { curve: &curve }, Pressure::Soft { per_pair: 0.1, last_query: false }),
    ];
    for (rule, pressure) in rules {
        let (short, long) = (peak(1024, rule, pressure), peak(8192, rule, pressure));
        assert!(long as f64 <= SLACK * 8.0 * short as f64, "{short} bytes at 1024 tokens, {long} at 8192");
    }
}
