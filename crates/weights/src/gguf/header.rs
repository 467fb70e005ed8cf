//! The header of a GGUF file as it stands in the file: read front to back, under caps, not yet believed.

use std::collections::BTreeMap;
use std::io::Read;

use super::GgufFault;
use super::value::{GgufNumbers, GgufValue, Kind};
use crate::error::quoted;
use crate::header::{MAX_HEADER_BYTES, MAX_TENSORS};

/// Longest key, in bytes: the format's own limit.
pub(crate) const MAX_KEY_BYTES: u64 = 65_535;
/// Longest name of a tensor, in bytes: the format's own limit.
pub(crate) const MAX_NAME_BYTES: u64 = 64;
/// Most dimensions of a tensor: the format's own limit.
pub(crate) const MAX_DIMENSIONS: u32 = 4;

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// A header as written: nothing in it has been compared with anything.
#[derive(Debug)]
pub(crate) struct RawHeader {
    pub(crate) metadata: BTreeMap<String, GgufValue>,
    /// Tensors in the order of the file.
    pub(crate) tensors: Vec<RawTensor>,
    /// Bytes from the beginning of the file to the end of the header.
    pub(crate) end: u64,
}

/// One tensor's entry as written.
#[derive(Debug)]
pub(crate) struct RawTensor {
    pub(crate) name: String,
    /// Innermost first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: u64,
}

/// Why reading stopped: the file is at fault, or the operating system refused.
pub(crate) enum Stop {
    Fault(GgufFault),
    Io(std::io::Error),
}

impl From<GgufFault> for Stop {
    fn from(fault: GgufFault) -> Self {
        Self::Fault(fault)
    }
}

/// A file of a known length that is read front to back.
struct Front<R> {
    reader: R,
    at: u64,
    length: u64,
}

impl RawHeader {
    /// Reads the header of a file of `length` bytes.
    ///
    /// Memory is proportional to what was read, and never taken from a claim that the rest of the file cannot hold.
    pub(crate) fn read(reader: impl Read, length: u64) -> Result<Self, Stop> {
        let mut front = Front { reader, at: 0, length };
        if front.array::<4>("its first bytes")? != *b"GGUF" {
            return Err(GgufFault::Magic.into());
        }
        match u32::from_le_bytes(front.array("its version")?) {
            2 | 3 => {}
            got if matches!(got.swap_bytes(), 1..=3) => return Err(GgufFault::BigEndian.into()),
            got => return Err(GgufFault::Version { got }.into()),
        }
        let tensors = front.u64("the number of tensors")?;
        let entries = front.u64("the number of metadata entries")?;
        if tensors > MAX_TENSORS as u64 {
            return Err(GgufFault::TooManyTensors { got: tensors }.into());
        }
        if entries > MAX_TENSORS as u64 {
            return Err(GgufFault::TooManyEntries { got: entries }.into());
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..entries {
            let key = front.name("a key", 1..=MAX_KEY_BYTES, |got| GgufFault::KeyLength { got })?;
            let value = front.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(GgufFault::DuplicateKey { key: quoted(&key) }.into());
            }
            metadata.insert(key, value);
        }
        let tensors = (0..tensors).map(|_| front.tensor()).collect::<Result<_, Stop>>()?;
        Ok(Self { metadata, tensors, end: front.at })
    }
}

impl<R: Read> Front<R> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Stop> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), Stop> {
        let end = self.at + bytes.len() as u64;
        if end > self.length {
            return Err(GgufFault::Cut { what: what.to_owned() }.into());
        }
        if end > MAX_HEADER_BYTES {
            return Err(GgufFault::HeaderTooLong.into());
        }
        self.reader.read_exact(bytes).map_err(Stop::Io)?;
        self.at = end;
        Ok(())
    }

    /// So many bytes, which the rest of the file and of the header's limit can hold.
    fn bytes(&mut self, got: u64, what: &str) -> Result<Vec<u8>, Stop> {
        self.claim(got, what)?;
        let mut bytes = vec![0; got as usize];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    /// Refuses what the rest of the file, or of the header's limit, cannot hold.
    fn claim(&self, got: u64, what: &str) -> Result<(), Stop> {
        let left = self.length - self.at;
        if got > left {
            return Err(GgufFault::Claim { what: what.to_owned(), got, left }.into());
        }
        if got > MAX_HEADER_BYTES.saturating_sub(self.at) {
            return Err(GgufFault::HeaderTooLong.into());
        }
        Ok(())
    }

    fn text(&mut self, what: &str) -> Result<String, Stop> {
        let length = self.u64(what)?;
        let bytes = self.bytes(length, what)?;
        String::from_utf8(bytes).map_err(|_| GgufFault::NotUtf8 { what: what.to_owned() }.into())
    }

    fn name(
        &mut self,
        what: &str,
        allowed: std::ops::RangeInclusive<u64>,
        fault: fn(u64) -> GgufFault,
    ) -> Result<String, Stop> {
        let length = self.u64(what)?;
        if !allowed.contains(&length) {
            return Err(fault(length).into());
        }
        let bytes = self.bytes(length, what)?;
        String::from_utf8(bytes).map_err(|_| GgufFault::NotUtf8 { what: what.to_owned() }.into())
    }

    fn value(&mut self, key: &str) -> Result<GgufValue, Stop> {
        let what = format!("the metadata entry {}", quoted(key));
        match self.u32(&what)? {
            TEXT => Ok(GgufValue::Text(self.text(&what)?)),
            LIST => self.list(key, &what),
            got => {
                let kind = self.kind(key, got)?;
                let bytes = self.bytes(kind.bytes() as u64, &what)?;
                check_truths(key, kind, &bytes)?;
                Ok(kind.value(&bytes))
            }
        }
    }

    fn list(&mut self, key: &str, what: &str) -> Result<GgufValue, Stop> {
        let (kind, count) = (self.u32(what)?, self.u64(what)?);
        // The least that so many values take: a text has a length of eight bytes.
        let each = if kind == TEXT { 8 } else { self.kind(key, kind)?.bytes() as u64 };
        let least = count.saturating_mul(each);
        self.claim(least, what)?;
        if kind == TEXT {
            let texts = (0..count).map(|_| self.text(what)).collect::<Result<_, Stop>>()?;
            return Ok(GgufValue::Texts(texts));
        }
        let kind = self.kind(key, kind)?;
        let bytes = self.bytes(least, what)?;
        check_truths(key, kind, &bytes)?;
        Ok(GgufValue::Numbers(GgufNumbers::new(kind, bytes)))
    }

    fn kind(&self, key: &str, got: u32) -> Result<Kind, Stop> {
        Kind::from_number(got).ok_or_else(|| GgufFault::ValueKind { key: quoted(key), got }.into())
    }

    fn tensor(&mut self) -> Result<RawTensor, Stop> {
        let fault = |got| GgufFault::NameLength { got };
        let name = self.name("a tensor's name", 1..=MAX_NAME_BYTES, fault)?;
        let what = format!("the entry of the tensor {}", quoted(&name));
        let got = self.u32(&what)?;
        if !(1..=MAX_DIMENSIONS).contains(&got) {
            return Err(GgufFault::Dimensions { tensor: quoted(&name), got }.into());
        }
        let dims = (0..got).map(|_| self.u64(&what)).collect::<Result<_, Stop>>()?;
        Ok(RawTensor { name, dims, kind: self.u32(&what)?, offset: self.u64(&what)? })
    }
}

fn check_truths(key: &str, kind: Kind, bytes: &[u8]) -> Result<(), GgufFault> {
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(&got) if kind == Kind::Bool => Err(GgufFault::Truth { key: quoted(key), got }),
        _ => Ok(()),
    }
}
