//! The search for NaN and infinity.

use std::fmt;

use crate::error::{WeightsError, quoted};
use crate::tensor_file::TensorFile;

/// The first element of a tensor that is NaN or infinite.
#[derive(Debug, Clone, PartialEq)]
pub struct NonFinite {
    /// The tensor's name.
    pub tensor: String,
    /// Row-major index of the element.
    pub index: u64,
    /// Its value.
    pub value: f32,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tensor {} holds {} at element {}", quoted(&self.tensor), self.value, self.index)
    }
}

/// Bytes read at a time: large enough to stream, small enough to stay in cache; a multiple of every width.
const STRETCH: u64 = 1 << 20;

impl TensorFile {
    /// Finds the first NaN or infinity of a tensor, reading it once in stretches of 1 MiB.
    ///
    /// Doubles that pass the range of f32 count as infinite, because that is what they would become.
    ///
    /// # Errors
    /// As [`TensorFile::read_f32`].
    pub fn first_non_finite(&self, name: &str) -> Result<Option<NonFinite>, WeightsError> {
        let info = self.expect(name)?;
        let (dtype, bytes) = (info.dtype, info.bytes());
        let mut stretch = Vec::new();
        let mut first = 0;
        while first < bytes {
            stretch.resize((bytes - first).min(STRETCH) as usize, 0);
            self.read_range(name, first, &mut stretch)?;
            let numbers = dtype.widen(&stretch).ok_or_else(|| WeightsError::NotNumbers {
                path: self.path().to_path_buf(),
                tensor: quoted(name),
                got: dtype,
            })?;
            if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
                let index = first / dtype.bytes() as u64 + at as u64;
                return Ok(Some(NonFinite { tensor: name.to_owned(), index, value: numbers[at] }));
            }
            first += stretch.len() as u64;
        }
        Ok(None)
    }
}
