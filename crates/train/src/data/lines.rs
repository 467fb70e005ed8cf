//! The lines of a source, unpacked on the way, as UTF-8.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;

use crate::TrainError;

/// Longest line of a source, in bytes: what the tokenizer takes at once.
pub const MAX_LINE_BYTES: usize = dropcap_model::MAX_TEXT_BYTES;

/// Whether a file name ends with `.jsonl` or `.jsonl.xz`.
pub(crate) fn is_json_lines(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.trim_end_matches(".xz").ends_with(".jsonl")
}

/// One line at a time of a file that may be packed with xz.
pub(crate) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

impl Lines {
    /// Opens a file; its name says whether it is packed.
    pub(crate) fn open(path: &Path) -> Result<Self, TrainError> {
        let file = File::open(path).map_err(|e| TrainError::io("open", path, e))?;
        if !file.metadata().map_err(|e| TrainError::io("open", path, e))?.is_file() {
            let reason = "is no file; name the files one by one".to_owned();
            return Err(TrainError::Data { path: path.to_path_buf(), reason });
        }
        let file = BufReader::with_capacity(1 << 16, file);
        let packed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("xz"));
        let reader: Box<dyn BufRead + Send> = if packed {
            Box::new(BufReader::with_capacity(1 << 16, XzReader::new(file, true)))
        } else {
            Box::new(file)
        };
        Ok(Self { path: path.to_path_buf(), reader, number: 0 })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the line that was read last, counted from 1.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Appends the next line to `out`, its line break (always `\n`) included if it has one; false at the end.
    pub(crate) fn next(&mut self, out: &mut String) -> Result<bool, TrainError> {
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
        let text = if self.number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        out.push_str(text);
        Ok(true)
    }
}
