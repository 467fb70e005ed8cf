//! A cheap digest of a model's stored weights.

use crate::error::WeightsError;
use crate::gguf::GgufFile;
use crate::shards::ShardedTensors;

/// FNV-1a over 128 bits, fed with tensors' labels, formats, shapes and samples of their bytes.
///
/// From each tensor four stretches of 256 bytes are taken, evenly spaced, the first and the last bytes included;
/// a tensor of at most 1 KiB is taken whole. Training changes nearly every weight, so samples tell two models
/// apart, at a few reads per tensor. It guards against mistakes, not against an adversary: FNV is no
/// cryptographic hash, and bytes between the samples are not seen.
///
/// The digest is over the stored bytes and does not depend on how the tensors are split into files. The same
/// weights stored in another dtype have another digest.
#[derive(Debug, Clone)]
pub struct ContentDigest {
    state: u128,
}

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
const STRETCHES: u64 = 4;
const STRETCH_BYTES: u64 = 256;

impl Default for ContentDigest {
    fn default() -> Self {
        Self { state: OFFSET }
    }
}

impl ContentDigest {
    /// A digest of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.state = (self.state ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }

    /// Takes in one tensor under a label, which may differ from its name in the file.
    ///
    /// # Errors
    /// No such tensor; the file became shorter or unreadable.
    pub fn tensor(&mut self, label: &str, tensors: &ShardedTensors, name: &str) -> Result<(), WeightsError> {
        let file = tensors.file_of(name)?;
        let info = file.expect(name)?;
        let read = |first, out: &mut [u8]| file.read_range(name, first, out);
        self.samples(label, info.dtype.name(), &info.shape, info.bytes(), read)
    }

    /// [`ContentDigest::tensor`] of a GGUF file.
    ///
    /// # Errors
    /// No such tensor; the file became shorter or unreadable.
    pub fn gguf_tensor(&mut self, label: &str, file: &GgufFile, name: &str) -> Result<(), WeightsError> {
        let info = file.expect(name)?;
        let read = |first, out: &mut [u8]| file.read_range(name, first, out);
        self.samples(label, info.dtype.name(), &info.shape, info.bytes(), read)
    }

    fn samples(
        &mut self,
        label: &str,
        dtype: &str,
        shape: &[usize],
        bytes: u64,
        read: impl Fn(u64, &mut [u8]) -> Result<(), WeightsError>,
    ) -> Result<(), WeightsError> {
        // Lengths go before what they measure, so that two lists of tensors cannot run into each other.
        self.bytes(&(label.len() as u64).to_le_bytes());
        self.bytes(label.as_bytes());
        self.bytes(dtype.as_bytes());
        self.bytes(&(shape.len() as u64).to_le_bytes());
        for &dim in shape {
            self.bytes(&(dim as u64).to_le_bytes());
        }
        let mut sample = [0; (STRETCHES * STRETCH_BYTES) as usize];
        if bytes <= sample.len() as u64 {
            let whole = &mut sample[..bytes as usize];
            read(0, whole)?;
            self.bytes(whole);
        } else {
            let stretch = &mut sample[..STRETCH_BYTES as usize];
            for at in 0..STRETCHES {
                // u128: the product may pass 64 bits for a file of exabytes.
                let first = u128::from(bytes - STRETCH_BYTES) * u128::from(at) / u128::from(STRETCHES - 1);
                read(first as u64, stretch)?;
                self.bytes(stretch);
            }
        }
        Ok(())
    }

    /// The digest of all that was taken in.
    pub fn finish(&self) -> u128 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_fnv_1a_of_128_bits() {
        // Published test vectors of the hash.
        let of = |text: &str| {
            let mut digest = ContentDigest::new();
            digest.bytes(text.as_bytes());
            digest.finish()
        };
        assert_eq!(of(""), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(of("a"), 0xd228cb696f1a8caf78912b704e4a8964);
        assert_eq!(of("foobar"), 0x343e1662793c64bf6f0d3597ba446f18);
    }
}
