//! The stub that the golden values were made with, as a judge.

use std::collections::HashMap;
use std::path::PathBuf;

use dropcap_compress::{CompressError, Judge, Reading, Token, Tokens};

/// A path below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

/// A model whose tokens are the bytes of a text, each modulo 128, which likes pairs that it has seen.
pub struct Bytes {
    /// f64 `[128, 128]`.
    table: Vec<f64>,
    positions: usize,
}

impl Bytes {
    pub fn open() -> Self {
        Self::of(1 << 20)
    }

    /// One that reads so many tokens at most.
    pub fn of(positions: usize) -> Self {
        let file = std::fs::read(golden("longcodezip/vectors.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let bytes = tensors.tensor("table").unwrap().data().to_vec();
        let table = bytes.as_chunks().0.iter().map(|four| f64::from(f32::from_le_bytes(*four))).collect();
        Self { table, positions }
    }
}

impl Tokens for Bytes {
    fn tokens(&self, text: &str) -> Result<Vec<Token>, CompressError> {
        Ok(text.bytes().enumerate().map(|(at, byte)| (u32::from(byte % 128), at..at + 1)).collect())
    }
}

impl Judge for Bytes {
    fn log_probs(&mut self, readings: Vec<Reading>) -> Result<Vec<Vec<f32>>, CompressError> {
        let read = |reading: Reading| {
            assert!(reading.ids.len() <= self.positions, "{} tokens", reading.ids.len());
            assert!(reading.from >= 1);
            let mut seen: HashMap<(u32, u32), f64> = HashMap::new();
            let mut found = Vec::new();
            for (index, pair) in reading.ids.windows(2).enumerate() {
                let (last, next) = (pair[0], pair[1]);
                if index + 1 >= reading.from {
                    let times = |v: u32| seen.get(&(last, v)).copied().unwrap_or(0.0);
                    let logit =
                        |v: u32| self.table[last as usize * 128 + v as usize] + 2.0 * (1.0 + times(v)).ln();
                    let sum: f64 = (0..128).map(|v| logit(v).exp()).sum();
                    found.push((logit(next) - sum.ln()) as f32);
                }
                *seen.entry((last, next)).or_insert(0.0) += 1.0;
            }
            found
        };
        Ok(readings.into_iter().map(read).collect())
    }

    fn positions(&self) -> usize {
        self.positions
    }
}
