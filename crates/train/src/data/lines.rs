//! The lines of a source, unpacked on the way, as UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use super::kind::Kind;
use crate::TrainError;

/// Longest line of a source, in bytes: what the tokenizer takes at once.
pub const MAX_LINE_BYTES: usize = dropcap_model::MAX_TEXT_BYTES;

/// One line at a time of a file that may be packed with xz.
pub struct Lines {
    path: PathBuf,
    kind: Kind,
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Opens a file; its name says whether it is packed.
    ///
    /// # Errors
    /// A file that cannot be opened, something that is no file, a format that is not read.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let file = File::open(path).map_err(|e| TrainError::io("open", path, e))?;
        if !file.metadata().map_err(|e| TrainError::io("open", path, e))?.is_file() {
            let reason = "is no file; name the files one by one".to_owned();
            return Err(TrainError::Data { path: path.to_path_buf(), reason });
        }
        let file = BufReader::with_capacity(1 << 16, file);
        let kind = Kind::of(path)?;
        let mut reader: Box<dyn BufRead + Send> = if kind.packed {
            Box::new(BufReader::with_capacity(1 << 16, XzReader::new(file, true)))
        } else {
            Box::new(file)
        };
        // What cannot be read is an error of the first line.
        kind.check(path, reader.fill_buf().unwrap_or_default())?;
        Ok(Self { path: path.to_path_buf(), kind, reader, number: 0 })
    }

    /// Whether every line is an object with a document.
    pub(crate) fn is_json(&self) -> bool {
        self.kind.json
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line that was read last, counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Appends the next line to `out`, its line break (always `\n`) included if it has one; false at the end.
    ///
    /// # Errors
    /// A line that cannot be read, is too long, or is no text.
    pub fn next(&mut self, out: &mut String) -> Result<bool, TrainError> {
        let mut bytes = Vec::new();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut bytes);
        self.number += 1;
        let refused =
            |reason: String| TrainError::DataLine { path: self.path.clone(), line: self.number, reason };
        match read {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(e) => {
                return Err(refused(format!("cannot read on: {e}; the file may be damaged or cut off")));
            }
        }
        if bytes.len() as u64 == limit {
            let reason = format!("the line is longer than {MAX_LINE_BYTES} bytes: break it");
            return Err(refused(reason));
        }
        if bytes.ends_with(b"\r\n") {
            bytes.truncate(bytes.len() - 2);
            bytes.push(b'\n');
        }
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            let (at, byte) = (e.valid_up_to(), bytes[e.valid_up_to()]);
            refused(format!("byte {} of the line (0x{byte:02x}) is not UTF-8: convert the file", at + 1))
        })?;
        if let Some(at) = text.find('\0') {
            let reason = format!(
                "byte {} of the line is zero, which no text has: the file is binary, or UTF-16; convert it to UTF-8",
                at + 1
            );
            return Err(refused(reason));
        }
        // One byte-order mark belongs to the file, as everywhere.
        let text = if self.number == 1 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        out.push_str(text);
        Ok(true)
    }
}
