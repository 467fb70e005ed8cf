//! TensorBoard's event files.
//!
//! A file is a row of records (length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes), each a protobuf
//! `Event`. Only scalars are written: `wall_time` (1), `step` (2), `file_version` (3), `summary` (5) with values of
//! `tag` (1) and `simple_value` (2), and `session_log` (7) with `status` (1).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::crc32c::masked;
use crate::TrainError;

/// An event file that scalars are appended to.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new file in `folder`, named so that TensorBoard finds it, at `wall_time` seconds after 1970.
    ///
    /// A file that begins at a later step than 0 tells TensorBoard to forget what earlier files say from that step on.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn create(folder: &Path, first_step: u64, wall_time: f64) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(|e| TrainError::write(folder, e))?;
        let (seconds, process) = (wall_time as u64, std::process::id());
        // The names sort by time and then by number, which is the order in which TensorBoard reads them.
        for number in 0_u32.. {
            let path = folder.join(format!("events.out.tfevents.{seconds:010}.dropcap.{process}.{number}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Self { path, file };
                    events.append(&version(wall_time))?;
                    if first_step > 0 {
                        events.append(&session_start(first_step, wall_time))?;
                    }
                    return Ok(events);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(TrainError::write(&path, e)),
            }
        }
        let source = std::io::ErrorKind::AlreadyExists.into();
        Err(TrainError::write(folder, source))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the scalars of one step.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn scalars(&mut self, step: u64, wall_time: f64, values: &[(&str, f64)]) -> Result<(), TrainError> {
        self.append(&scalars(step, wall_time, values))
    }

    fn append(&mut self, event: &[u8]) -> Result<(), TrainError> {
        // One write a record: whoever reads meanwhile sees few torn ones.
        self.file.write_all(&record(event)).map_err(|e| TrainError::write(&self.path, e))
    }
}

/// Bytes framed as a record.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), bytes, &masked(bytes).to_le_bytes()].concat()
}

fn version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    message(&mut event, 3, b"brain.Event:2");
    event
}

fn session_start(step: u64, wall_time: f64) -> Vec<u8> {
    let (mut log, mut event) = (Vec::new(), Vec::new());
    number(&mut log, 1, 1);
    double(&mut event, 1, wall_time);
    number(&mut event, 2, step);
    message(&mut event, 7, &log);
    event
}

fn scalars(step: u64, wall_time: f64, values: &[(&str, f64)]) -> Vec<u8> {
    let (mut summary, mut event) = (Vec::new(), Vec::new());
    for (tag, value) in values {
        let mut entry = Vec::new();
        message(&mut entry, 1, tag.as_bytes());
        // Field 2, four bytes.
        entry.push(2 << 3 | 5);
        entry.extend((*value as f32).to_le_bytes());
        message(&mut summary, 1, &entry);
    }
    double(&mut event, 1, wall_time);
    number(&mut event, 2, step);
    message(&mut event, 5, &summary);
    event
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

fn message(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn files_hold_the_bytes_that_tensorboard_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 300, 1_700_000_000.5).unwrap();
        events.scalars(300, 1_700_000_001.0, &[("loss", 2.5), ("keep/layer_0", 0.25)]).unwrap();
        assert_eq!(hex(&std::fs::read(events.path()).unwrap()), EXPECTED);
        let name = events.path().file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("events.out.tfevents.1700000000."), "{name}");
        let second = EventFile::create(folder.path(), 0, 1_700_000_000.5).unwrap();
        assert!(second.path() > events.path());
    }

    /// Read back with the tensorboard package 2.x: version, session start at 300, and both scalars.
    const EXPECTED: &str = concat!(
        "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b3531101000000000",
        "00000095fbfe180900002040fc54d94110ac023a020801b94512a3300000000000000095f5d05f0900004040fc",
        "54d94110ac022a220a0b0a046c6f737315000020400a130a0c6b6565702f6c617965725f30150000803ee3aa1b",
        "6e",
    );
}
