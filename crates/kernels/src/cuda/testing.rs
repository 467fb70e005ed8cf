//! The device of the tests, and lanes in its layout.

pub(crate) mod entries;
pub(crate) mod sequences;

use std::path::PathBuf;

use half::{bf16, f16};

use super::{CudaError, Device, Specialisation};
use crate::{DType, Elements, LaneView, PAGE_ENTRIES};

/// The first device, or none where there is none; says so loudly, because the test then proves nothing.
pub(crate) fn device(test: &str) -> Option<Device> {
    match Device::open(0, Some(cache())) {
        Ok(device) => Some(device),
        Err(CudaError::Library { .. } | CudaError::NoDevice { .. } | CudaError::Driver { .. }) => {
            eprintln!("SKIPPED {test}: there is no CUDA device on this machine");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn cache() -> PathBuf {
    std::env::temp_dir().join("dropcap-test-kernels")
}

/// The bytes of a lane's pages as `prelude.cuh` lays them out, killers all `u32::MAX`.
///
/// Slots without an entry hold what a careless kernel would notice: NaN, and entries that every query sees.
pub(crate) fn page_bytes(specialisation: &Specialisation, lane: &LaneView<'_>) -> Vec<u8> {
    let (layout, bytes) = (lane.layout, specialisation.page_bytes());
    let heads = specialisation.kv_heads / specialisation.groups;
    assert_eq!((layout.heads(), layout.head_dim()), (heads, specialisation.head_dim));
    assert_eq!(layout.format(), specialisation.format());
    let known = bytes - (3 + specialisation.statistics) * 4 * PAGE_ENTRIES;
    let mut pages = Vec::new();
    for (index, page) in lane.pages.iter().enumerate() {
        let start = pages.len();
        pages.resize(start + known, 0xff);
        pages.resize(start + known + 4 * PAGE_ENTRIES, 0);
        pages.resize(start + bytes, 0xff);
        let target = &mut pages[start..];
        for entry in index * PAGE_ENTRIES..lane.len().min((index + 1) * PAGE_ENTRIES) {
            let slot = entry % PAGE_ENTRIES;
            let side = PAGE_ENTRIES * specialisation.key_value_bytes();
            let numbers = |row: &[f32]| -> Vec<u8> {
                row.iter().flat_map(|&x| encoded(specialisation.cache, x)).collect()
            };
            let mut put = |first: usize, row: &[u8]| target[first..first + row.len()].copy_from_slice(row);
            let [(key_row, of_key), (value_row, of_value)] = specialisation.rows();
            for head in 0..layout.heads() {
                let keys = PAGE_ENTRIES * (key_row + value_row) * head;
                let (keys, values) =
                    (keys + slot * key_row, keys + PAGE_ENTRIES * key_row + slot * value_row);
                match (layout.coded_keys(), layout.coded_values(), page.elements()) {
                    (Some(key), Some(value), Elements::F16(all)) => {
                        let steps = PAGE_ENTRIES * (key_row + value_row) * layout.heads()
                            + 4 * PAGE_ENTRIES * (of_key + of_value) * head;
                        let (key_steps, value_steps) = (
                            steps + slot * 4 * of_key,
                            steps + 4 * (PAGE_ENTRIES * of_key + slot * of_value),
                        );
                        for (block, range, rows, steps) in [
                            (key, layout.key_range(head), keys, key_steps),
                            (value, layout.value_range(head), values, value_steps),
                        ] {
                            put(rows, &block.row_of_codes(&all[range.clone()], slot));
                            put(steps, &block.row_of_steps(&all[range], slot));
                        }
                    }
                    _ => {
                        put(keys, &numbers(&layout.read_key(page, slot, head).unwrap()));
                        put(values, &numbers(&layout.read_value(page, slot, head).unwrap()));
                    }
                }
            }
            if specialisation.side_width > 0 {
                let row = numbers(&layout.read_side(page, slot, 0).unwrap());
                put(side + slot * row.len(), &row);
            }
            for (i, number) in [lane.positions[entry], lane.expires_at[entry]].into_iter().enumerate() {
                let at = known + (i * PAGE_ENTRIES + slot) * 4;
                target[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
        }
    }
    pages
}

/// Where each lane's pages begin if lanes of these lengths lie one after the other, and where the last ends.
pub(crate) fn first_pages(lengths: impl IntoIterator<Item = usize>) -> Vec<u32> {
    let mut firsts = vec![0];
    for length in lengths {
        firsts.push(firsts[firsts.len() - 1] + length.div_ceil(PAGE_ENTRIES) as u32);
    }
    firsts
}

/// The bytes of a number in a format.
pub(crate) fn encoded(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        DType::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// The numbers of bytes in a format.
pub(crate) fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let numbers = bytes.chunks_exact(dtype.bytes());
    match dtype {
        DType::F32 => numbers.map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect(),
        DType::F16 => numbers.map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()).collect(),
        DType::Bf16 => numbers.map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f32()).collect(),
    }
}
