//! From a file's bytes to panels, at about the speed of memory.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::packed::PANEL;
use super::{Orientation, Part, TensorBytes};
use crate::chunks::{Pieces, TASK_ELEMENTS};
use crate::simd::Element;
use crate::{Buffer, DType, ElementsMut, Team};

/// Inputs that one task or one turn of a task moves: a square of 32 x 32 stays in L1 while it is turned.
const BLOCK: usize = 32;
/// Panels that a task takes of each input row when the file holds `[inputs, outputs]`: long enough reads.
const GROUP: usize = 8;

/// Writes a checked part to its place.
pub(super) fn fill(team: &Team, data: &mut Buffer, inputs: usize, first: usize, part: &Part<'_>) {
    match data.elements_mut() {
        ElementsMut::F32(all) => fill_panels(team, all, inputs, first, part),
        ElementsMut::F16(all) => fill_panels(team, all, inputs, first, part),
        ElementsMut::Bf16(all) => fill_panels(team, all, inputs, first, part),
    }
}

fn fill_panels<W: Element>(team: &Team, data: &mut [W], inputs: usize, first: usize, part: &Part<'_>) {
    if part.outputs == 0 {
        return;
    }
    let panels = Pieces::new(data);
    let end = first + part.outputs;
    let first_panel = first / PANEL;
    let panel_count = end.div_ceil(PANEL) - first_panel;
    // The lanes of a panel that belong to the part, and the part's output in the first of them.
    let lanes = |panel: usize| {
        let from = first.max(panel * PANEL);
        (from - panel * PANEL..end.min((panel + 1) * PANEL) - panel * PANEL, from - first)
    };
    match part.orientation {
        Orientation::OutputsByInputs => team.run(panel_count, &|task| {
            let panel = first_panel + task;
            let (lanes, output) = lanes(panel);
            let mut rows = [[W::zeroed(); BLOCK]; PANEL];
            for k in (0..inputs).step_by(BLOCK) {
                let count = BLOCK.min(inputs - k);
                for (row, output) in rows[lanes.clone()].iter_mut().zip(output..) {
                    read(part, output * inputs + k, &mut row[..count]);
                }
                // SAFETY: a task writes only its own panel, one slot at a time.
                let slot = unsafe { panels.range((panel * inputs + k) * PANEL, count * PANEL) };
                let (slot, _) = slot.as_chunks_mut::<PANEL>();
                if lanes.len() == PANEL {
                    for (i, slot) in slot.iter_mut().enumerate() {
                        *slot = std::array::from_fn(|lane| rows[lane][i]);
                    }
                } else {
                    for (i, slot) in slot.iter_mut().enumerate() {
                        lanes.clone().for_each(|lane| slot[lane] = rows[lane][i]);
                    }
                }
            }
        }),
        Orientation::InputsByOutputs => {
            let groups = panel_count.div_ceil(GROUP);
            team.run(inputs.div_ceil(BLOCK) * groups, &|task| {
                let (block, group) = (task / groups, task % groups);
                let from = first_panel + group * GROUP;
                let to = (from + GROUP).min(first_panel + panel_count);
                for k in block * BLOCK..inputs.min((block + 1) * BLOCK) {
                    for panel in from..to {
                        let (lanes, output) = lanes(panel);
                        // SAFETY: a task writes only its own inputs of its own panels, one slot at a time.
                        let slot =
                            unsafe { panels.range((panel * inputs + k) * PANEL + lanes.start, lanes.len()) };
                        read(part, k * part.outputs + output, slot);
                    }
                }
            });
        }
    }
}

/// `count` elements of a tensor from number `first` on, in their order, as `dtype` (rounding to nearest even).
pub(super) fn converted(
    team: &Team,
    source: TensorBytes<'_>,
    first: usize,
    count: usize,
    dtype: DType,
) -> Buffer {
    let part = Part { source, orientation: Orientation::OutputsByInputs, outputs: 1 };
    let mut data = Buffer::zeroed(dtype, count);
    match data.elements_mut() {
        ElementsMut::F32(all) => convert(team, all, first, &part),
        ElementsMut::F16(all) => convert(team, all, first, &part),
        ElementsMut::Bf16(all) => convert(team, all, first, &part),
    }
    data
}

fn convert<W: Element>(team: &Team, to: &mut [W], first: usize, part: &Part<'_>) {
    let tasks = to.len().div_ceil(TASK_ELEMENTS);
    let pieces = Pieces::new(to);
    team.run(tasks, &|task| {
        // SAFETY: each task writes its own piece.
        let piece = unsafe { pieces.range(task * TASK_ELEMENTS, TASK_ELEMENTS) };
        for (i, block) in piece.chunks_mut(BLOCK).enumerate() {
            read(part, first + task * TASK_ELEMENTS + i * BLOCK, block);
        }
    });
}

/// Reads `to.len()` (at most 32) neighbouring elements of the file, converted.
#[inline]
pub(super) fn read<W: Element>(part: &Part<'_>, at: usize, to: &mut [W]) {
    let size = part.source.dtype.bytes();
    let bytes = &part.source.bytes[at * size..(at + to.len()) * size];
    if part.source.dtype == W::DTYPE && cfg!(target_endian = "little") {
        bytemuck::cast_slice_mut::<W, u8>(to).copy_from_slice(bytes);
        return;
    }
    let mut wide = [0f32; BLOCK];
    let wide = &mut wide[..to.len()];
    match part.source.dtype {
        DType::F32 => {
            for (wide, bytes) in wide.iter_mut().zip(bytes.as_chunks().0) {
                *wide = f32::from_le_bytes(*bytes);
            }
        }
        DType::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves[..wide.len()].convert_to_f32_slice(wide);
        }
        DType::Bf16 => {
            for (wide, bytes) in wide.iter_mut().zip(bytes.as_chunks().0) {
                *wide = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
    }
    W::narrow(wide, to);
}

/// Writes numbers that depend on the seed and the place `[output, input]` only.
pub(super) fn fill_random(data: &mut Buffer, inputs: usize, outputs: usize, scale: f32, seed: u64) {
    let value = |index: usize| {
        let panel = index / (inputs * PANEL);
        let output = panel * PANEL + index % PANEL;
        if output >= outputs {
            0.0
        } else {
            (hash(index as u64 ^ seed.wrapping_mul(0xd129_0de2_6b53_4f35)) * 2.0 - 1.0) * scale
        }
    };
    match data.elements_mut() {
        ElementsMut::F32(all) => all.iter_mut().enumerate().for_each(|(i, x)| *x = value(i)),
        ElementsMut::F16(all) => all.iter_mut().enumerate().for_each(|(i, x)| *x = f16::from_f32(value(i))),
        ElementsMut::Bf16(all) => all.iter_mut().enumerate().for_each(|(i, x)| *x = bf16::from_f32(value(i))),
    }
}

/// A number in 0..=1 from a counter: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) fn hash(counter: u64) -> f32 {
    let mut z = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / ((1u64 << 24) - 1) as f32
}
