//! What is known already, in memory and, where it is to last, in a directory.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dropcap_files::{Existing, publish};
use serde_json::Value;

use crate::EvalError;
use crate::record::Record;

/// The resolved configuration in a directory of results.
const CONFIGURATION: &str = "config.json";
/// The log in a directory of results: one record a line.
const EXAMPLES: &str = "examples.jsonl";

/// Every example that was measured.
#[derive(Debug, Default)]
pub struct Results {
    records: Vec<Record>,
    known: HashSet<(String, String, usize)>,
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
}

impl Results {
    /// Results that live in a directory, which is made if it is not there; one of the same evaluation that was stopped goes
    /// on where it was.
    ///
    /// A last line that was cut off by a crash is dropped and measured again.
    ///
    /// # Errors
    /// A directory of another configuration, or that holds something else; one that another process writes; a refusal of
    /// the operating system; a log with a line that is no record.
    pub fn open(directory: &Path, configuration: &Value) -> Result<Self, EvalError> {
        fs::create_dir_all(directory).map_err(|e| EvalError::io("create", directory, e))?;
        let path = directory.join(CONFIGURATION);
        match fs::read(&path) {
            Ok(bytes) => {
                let found: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let keys = differences(&found, configuration);
                if !keys.is_empty() {
                    return Err(EvalError::OtherRun { path: directory.to_path_buf(), keys });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut entries = fs::read_dir(directory).map_err(|e| EvalError::io("read", directory, e))?;
                if entries.next().is_some() {
                    return Err(EvalError::NotEmpty { path: directory.to_path_buf() });
                }
                let text = format!("{configuration:#}\n");
                publish(&path, Existing::Refuse, |file| file.write_all(text.as_bytes()))?;
            }
            Err(error) => return Err(EvalError::io("read", &path, error)),
        }
        Self::read(directory)
    }

    /// Takes the log of a directory, and goes on writing it.
    fn read(directory: &Path) -> Result<Self, EvalError> {
        let path = directory.join(EXAMPLES);
        let opened = File::options().read(true).append(true).create(true).open(&path);
        let mut file = opened.map_err(|e| EvalError::io("open", &path, e))?;
        if file.try_lock().is_err() {
            return Err(EvalError::Busy { path: directory.to_path_buf() });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|e| EvalError::io("read", &path, e))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let cut = |file: &mut File| -> io::Result<()> {
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0)).map(|_| ())
        };
        if whole < text.len() {
            cut(&mut file).map_err(|e| EvalError::io("write", &path, e))?;
        }
        let mut results = Self::default();
        for (number, line) in text[..whole].lines().enumerate() {
            let record: Record = serde_json::from_str(line).map_err(|e| {
                let reason = format!("is no record of an example: {e}; remove the line to measure it again");
                EvalError::example(&path, number as u64 + 1, reason)
            })?;
            results.keep(record);
        }
        results.log = Some(Log { path, file });
        Ok(results)
    }

    /// All records, in the order in which they were made.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The examples of `of` that are not known.
    pub(crate) fn missing(&self, task: &str, method: &str, of: usize) -> Vec<usize> {
        let key = |example| (task.to_owned(), method.to_owned(), example);
        (0..of).filter(|&example| !self.known.contains(&key(example))).collect()
    }

    /// Adds a record, and writes it down, unless its example is known.
    pub(crate) fn add(&mut self, record: Record) -> Result<(), EvalError> {
        if !self.keep(record) {
            return Ok(());
        }
        if let (Some(log), Some(record)) = (&mut self.log, self.records.last()) {
            let written = serde_json::to_string(record)
                .map_err(io::Error::from)
                .and_then(|line| log.file.write_all(format!("{line}\n").as_bytes()));
            written.map_err(|e| EvalError::io("write", &log.path, e))?;
        }
        Ok(())
    }

    fn keep(&mut self, record: Record) -> bool {
        let new = self.known.insert((record.task.clone(), record.method.clone(), record.example));
        if new {
            self.records.push(record);
        }
        new
    }
}

/// Keys of two objects that do not agree.
fn differences(found: &Value, wanted: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let (found, wanted) = (found.as_object().unwrap_or(&empty), wanted.as_object().unwrap_or(&empty));
    let keys: std::collections::BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    keys.into_iter().filter(|&key| found.get(key) != wanted.get(key)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;
    use serde_json::json;

    fn record(example: usize) -> Record {
        let outcome = Outcome::TooLong { tokens: 9 };
        Record { task: "t".into(), method: "none".into(), example, outcome }
    }

    #[test]
    fn a_stopped_evaluation_goes_on_and_a_cut_line_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("new");
        let configuration = json!({"seed": 1});
        let mut results = Results::open(&directory, &configuration).unwrap();
        assert_eq!(results.missing("t", "none", 3), [0, 1, 2]);
        results.add(record(2)).unwrap();
        results.add(record(0)).unwrap();
        assert!(matches!(Results::open(&directory, &configuration), Err(EvalError::Busy { .. })));
        drop(results);
        let log = directory.join(EXAMPLES);
        let whole = fs::read_to_string(&log).unwrap();
        fs::write(&log, &whole[..whole.len() - 4]).unwrap();
        let mut results = Results::open(&directory, &configuration).unwrap();
        assert_eq!(results.missing("t", "none", 3), [0, 1]);
        results.add(record(0)).unwrap();
        drop(results);
        assert_eq!(fs::read_to_string(&log).unwrap(), whole);
    }

    #[test]
    fn results_of_something_else_are_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        drop(Results::open(folder.path(), &json!({"seed": 1, "model": "a"})).unwrap());
        let error = Results::open(folder.path(), &json!({"seed": 2, "model": "a", "new": 0})).unwrap_err();
        assert!(error.to_string().contains("differs in new, seed:"), "{error}");
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(Results::open(other.path(), &json!({})), Err(EvalError::NotEmpty { .. })));
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        drop(Results::open(folder.path(), &json!({})).unwrap());
        fs::write(folder.path().join(EXAMPLES), "{}\n").unwrap();
        let error = Results::open(folder.path(), &json!({})).unwrap_err().to_string();
        assert!(error.contains("examples.jsonl line 1"), "{error}");
    }
}
