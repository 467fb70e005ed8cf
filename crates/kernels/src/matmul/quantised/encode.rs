//! Numbers to blocks, by ggml's own rules for each format, so that a model quantised here is the one that others quantise.

use half::f16;

use super::BLOCK;
use super::format::{Block, BlockFormat};
use crate::matmul::fill::read;
use crate::matmul::{Orientation, Part};

impl Block {
    /// The block of 32 finite numbers.
    pub(super) fn of(format: BlockFormat, numbers: &[f32; BLOCK]) -> Self {
        match format {
            BlockFormat::Q8_0 => {
                let largest = numbers.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let scale = largest / 127.0;
                let by = inverse(scale);
                let byte = |x: f32| (x * by).round() as i8 as u8;
                Self { scale: f16::from_f32(scale), least: f16::ZERO, numbers: numbers.map(byte) }
            }
            BlockFormat::Q4_0 => {
                // The number of the largest magnitude, which becomes -8 whatever its sign.
                let far = numbers.iter().fold(0f32, |far, &x| if x.abs() > far.abs() { x } else { far });
                let scale = far / -8.0;
                let by = inverse(scale);
                let nibble = |x: f32| ((x * by + 8.5) as i8).clamp(0, 15) as u8;
                Self { scale: f16::from_f32(scale), least: f16::ZERO, numbers: numbers.map(nibble) }
            }
            BlockFormat::Q4_1 => {
                let least = numbers.iter().fold(f32::INFINITY, |least, &x| least.min(x));
                let most = numbers.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
                let scale = (most - least) / 15.0;
                let by = inverse(scale);
                let nibble = |x: f32| (((x - least) * by + 0.5) as i8).clamp(0, 15) as u8;
                let (scale, least) = (f16::from_f32(scale), f16::from_f32(least));
                Self { scale, least, numbers: numbers.map(nibble) }
            }
        }
    }
}

impl Block {
    /// Block `block` of an output of a part, of finite numbers.
    pub(super) fn of_part(
        format: BlockFormat,
        part: &Part<'_>,
        inputs: usize,
        output: usize,
        block: usize,
    ) -> Self {
        let mut numbers = [0f32; BLOCK];
        match part.orientation {
            Orientation::OutputsByInputs => read(part, output * inputs + block * BLOCK, &mut numbers),
            Orientation::InputsByOutputs => {
                for (input, number) in numbers.iter_mut().enumerate() {
                    let at = (block * BLOCK + input) * part.outputs + output;
                    read(part, at, std::slice::from_mut(number));
                }
            }
        }
        Self::of(format, &numbers)
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}
