//! The layout of a device, read as its kernel reads it, lane by lane.

use half::bf16;
use proptest::prelude::*;

use super::format::Block;
use super::tests::{blocks, numbers};
use super::tiles::{OUTPUTS, Panels, Tiles};
use super::{BLOCK, BlockFormat};
use crate::Team;

/// The operands of one lane for one tile: what `matmul/blocks.cu` computes from its vectors.
struct Lane {
    /// By block: a of two multiplications, 4 pairs each.
    pairs: [[[[f32; 2]; 4]; 2]; 2],
    /// By block and half of the outputs.
    scales: [[f32; 2]; 2],
    leasts: [[f32; 2]; 2],
}

/// Two numbers of 16 bits in the place of a word's halves, as bf16.
fn pair(word: u32) -> [f32; 2] {
    [word as u16, (word >> 16) as u16].map(|bits| bf16::from_bits(bits).to_f32())
}

fn nibbles(word: u32, i: u32) -> [f32; 2] {
    pair((word >> (4 * i) & 0x000f_000f) | 0x4300_4300)
}

fn bytes(word: u32, i: u32) -> [f32; 2] {
    let word = word >> (8 * i);
    let (low, high) = (pair(word & 0x007f_007f | 0x4300_4300), pair(word & 0x0080_0080 | 0xc300_c300));
    [low[0] + high[0], low[1] + high[1]]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(word: u32) -> f32 {
    half::f16::from_bits(word as u16).to_f32()
}

/// `tile` counts over the whole matrix; what is added to codes is what the kernel leaves to the sum of x.
fn lane(format: BlockFormat, codes: &[u8], heads: &[u8], tile: usize, lane: usize) -> Lane {
    let mut all = Lane { pairs: Default::default(), scales: [[0.0; 2]; 2], leasts: [[0.0; 2]; 2] };
    let group = lane / 4;
    for block in 0..2 {
        let operands = |words: [u32; 2], i: u32| -> [f32; 2] {
            if format == BlockFormat::Q8_0 {
                bytes(words[i as usize / 2], i % 2)
            } else {
                nibbles(words[0], i)
            }
        };
        let words = |upper: usize| -> [u32; 2] {
            if format == BlockFormat::Q8_0 {
                let at = (2 * tile + block) * 512 + lane * 16 + upper * 8;
                [word(codes, at), word(codes, at + 4)]
            } else {
                [word(codes, tile * 512 + lane * 16 + (2 * block + upper) * 4), 0]
            }
        };
        for product in 0..2u32 {
            let i = 2 * product;
            let (low, high) = (words(0), words(1));
            all.pairs[block][product as usize] =
                [operands(low, i), operands(high, i), operands(low, i + 1), operands(high, i + 1)];
        }
        for upper in 0..2 {
            if format == BlockFormat::Q4_1 {
                let both = word(heads, tile * 128 + group * 16 + (2 * block + upper) * 4);
                all.scales[block][upper] = half(both);
                all.leasts[block][upper] = half(both >> 16);
            } else {
                let both = word(heads, tile * 64 + group * 8 + block * 4);
                all.scales[block][upper] = half(both >> (16 * upper));
            }
        }
    }
    all
}

/// d = a b of a warp (`mma.m16n8k16`, PTX ISA), in f64: `a` and `b` by lane, `d[output][row]`.
fn mma(a: &[[[f32; 2]; 4]], b: &[[[f32; 2]; 2]], d: &mut [[f64; 8]; 16]) {
    let (mut left, mut right) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
    for lane in 0..32 {
        let (group, quarter) = (lane / 4, lane % 4);
        for i in 0..2 {
            for (part, (output, input)) in [(0, 0), (8, 0), (0, 8), (8, 8)].into_iter().enumerate() {
                left[group + output][2 * quarter + i + input] = a[lane][part][i];
            }
            right[2 * quarter + i][group] = b[lane][0][i];
            right[2 * quarter + i + 8][group] = b[lane][1][i];
        }
    }
    for (d, left) in d.iter_mut().zip(&left) {
        for (row, d) in d.iter_mut().enumerate() {
            *d += (0..16).map(|k| f64::from(left[k]) * f64::from(right[k][row])).sum::<f64>();
        }
    }
}

/// The product of 8 rows as the kernel computes it, exactly.
fn product(tiles: Tiles, codes: &[u8], heads: &[u8], x: &[f32], inputs: usize) -> Vec<[f64; 8]> {
    let (format, per_panel) = (tiles.format, (inputs / BLOCK).div_ceil(2));
    let offset = match format {
        BlockFormat::Q8_0 => 0.0,
        BlockFormat::Q4_0 => -136.0,
        BlockFormat::Q4_1 => -128.0,
    };
    let mut out = Vec::new();
    for panel in 0..tiles.panels() {
        let mut sums = [[0f64; 8]; OUTPUTS];
        for tile in 0..per_panel {
            let lanes: Vec<Lane> =
                (0..32).map(|at| lane(format, codes, heads, panel * per_panel + tile, at)).collect();
            for block in 0..2 {
                let first = tile * 64 + block * BLOCK;
                // The vector of a lane: 8 inputs of row lane / 4, or zeros past the end.
                let vector = |lane: usize, i: usize| {
                    if first < inputs { x[lane / 4 * inputs + first + lane % 4 * 8 + i] } else { 0.0 }
                };
                let (mut d, mut base) = ([[0f64; 8]; OUTPUTS], [[0f64; 8]; OUTPUTS]);
                for product in 0..2 {
                    let b: Vec<[[f32; 2]; 2]> = (0..32)
                        .map(|lane| [0, 1].map(|i| [0, 1].map(|j| vector(lane, 4 * product + 2 * i + j))))
                        .collect();
                    let a: Vec<[[f32; 2]; 4]> = lanes.iter().map(|lane| lane.pairs[block][product]).collect();
                    mma(&a, &b, &mut d);
                    mma(&[[[offset; 2]; 4]; 32], &b, &mut base);
                }
                for (output, sums) in sums.iter_mut().enumerate() {
                    let head = &lanes[output % 8 * 4];
                    let (scale, least) = (head.scales[block][output / 8], head.leasts[block][output / 8]);
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum += f64::from(scale) * (d[output][row] + base[output][row])
                            - f64::from(least) * base[output][row] / 128.0;
                    }
                }
            }
        }
        out.extend(sums);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn lanes_of_a_warp_find_their_operands(outputs in 1usize..50, count in 1usize..6, seed: u64, which in 0usize..3) {
        let (format, inputs) = (BlockFormat::ALL[which], count * BLOCK);
        let tiles = Tiles::new(format, outputs, inputs);
        let stored = blocks(format, outputs * count, seed);
        let mut panels = tiles.zeroed(tiles.panels());
        // In two parts, which meet inside of a panel: the second is laid over what the first left there.
        let (team, row) = (Team::new(2).unwrap(), count * format.block_bytes());
        let cut = outputs / 2;
        tiles.lay(&team, &mut panels, 0, cut, &stored[..cut * row]);
        let mut rest = Panels {
            codes: panels.codes[cut / OUTPUTS * tiles.panel_codes()..].to_vec(),
            heads: panels.heads[cut / OUTPUTS * tiles.panel_heads()..].to_vec(),
        };
        tiles.lay(&team, &mut rest, cut, outputs - cut, &stored[cut * row..]);
        panels.codes.truncate(cut / OUTPUTS * tiles.panel_codes());
        panels.heads.truncate(cut / OUTPUTS * tiles.panel_heads());
        panels.codes.extend(rest.codes);
        panels.heads.extend(rest.heads);
        let mut weights = vec![0f64; outputs * inputs];
        for output in 0..outputs {
            for at in 0..count {
                let block = Block::read(format, &stored[(output * count + at) * format.block_bytes()..]);
                let (panel, within) = (output / OUTPUTS, output % OUTPUTS);
                let codes = &panels.codes[panel * tiles.panel_codes()..][..tiles.panel_codes()];
                let heads = &panels.heads[panel * tiles.panel_heads()..][..tiles.panel_heads()];
                let back = tiles.taken(codes, heads, within, at);
                prop_assert_eq!((back.scale, back.least, back.numbers), (block.scale, block.least, block.numbers));
                for (i, &number) in block.numbers.iter().enumerate() {
                    weights[output * inputs + at * BLOCK + i] = f64::from(block.value(format, number));
                }
            }
        }
        let x: Vec<f32> = numbers(8 * inputs, !seed).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
        let got = product(tiles, &panels.codes, &panels.heads, &x, inputs);
        prop_assert_eq!(tiles.bytes(), Some(panels.codes.len() + panels.heads.len()));
        for (output, got) in got.iter().enumerate() {
            for (row, &got) in got.iter().enumerate() {
                // Past the last output are zeros.
                let row = &x[row * inputs..(row + 1) * inputs];
                let weights = weights.get(output * inputs..(output + 1) * inputs).unwrap_or_default();
                let want: f64 = row.iter().zip(weights).map(|(&x, w)| f64::from(x) * w).sum();
                prop_assert!((got - want).abs() < 1e-4 * (1.0 + want.abs()), "{format} output {output}: {got}, want {want}");
            }
        }
    }
}
