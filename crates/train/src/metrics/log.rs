//! `metrics.jsonl`: one object a line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::TrainError;

/// The version of the lines that is written, and the newest that is gone on with.
const VERSION: u64 = 1;
const FORMAT: &str = "dropcap-metrics";

/// A file that objects are appended to, one a line, each with a `step`; the first names the format and its version.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// What it is called in a run's directory.
    pub const FILE: &str = "metrics.jsonl";

    /// Refuses a file that a later version of this program has begun; one that is not there is fine.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file that cannot be read.
    pub fn check(path: &Path) -> Result<(), TrainError> {
        let mut line = Vec::new();
        let read =
            File::open(path).and_then(|file| BufReader::new(file.take(1 << 16)).read_until(b'\n', &mut line));
        match read {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(TrainError::io("read", path, e)),
        }
        let first: Value = serde_json::from_slice(&line).unwrap_or_default();
        match first["version"].as_u64() {
            Some(found) if first["format"] == FORMAT && found > VERSION => {
                Err(TrainError::NewerFormat { path: path.to_path_buf(), found, known: VERSION })
            }
            _ => Ok(()),
        }
    }

    /// Opens the file, new or old, so that it goes on after `resumed`, the steps taken so far; `None` begins anew.
    ///
    /// Lines of a step above that, a torn last line and what follows either are cut off.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a refusal of the disk.
    pub fn open(path: &Path, resumed: Option<u64>) -> Result<Self, TrainError> {
        Self::check(path)?;
        let failed = |e| TrainError::io("open", path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let kept = match resumed {
            Some(step) => kept_bytes(&file, step).map_err(failed)?,
            None => 0,
        };
        file.set_len(kept).map_err(failed)?;
        file.seek(SeekFrom::Start(kept)).map_err(failed)?;
        let mut log = Self { path: path.to_path_buf(), file };
        if kept == 0 {
            let about = [("format", Value::from(FORMAT)), ("version", VERSION.into())];
            log.append(
                0,
                "format",
                &about.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
            )?;
        }
        Ok(log)
    }

    /// Appends one line: the step, the kind of line (`train`, `evaluation` ...), then `values` in their order of name.
    /// Numbers that are not finite become null.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn append(&mut self, step: u64, kind: &str, values: &Map<String, Value>) -> Result<(), TrainError> {
        let mut line = format!("{{\"step\":{step},\"kind\":{}", Value::from(kind));
        for (name, value) in values.iter().filter(|(name, _)| !["step", "kind"].contains(&name.as_str())) {
            line.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
        }
        line.push_str("}\n");
        self.file.write_all(line.as_bytes()).map_err(|e| TrainError::write(&self.path, e))
    }
}

/// Bytes of the lines that are whole and of a step up to `step`.
fn kept_bytes(file: &File, step: u64) -> std::io::Result<u64> {
    let (mut reader, mut line, mut kept) = (BufReader::new(file), Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || !line.ends_with(b"\n") {
            return Ok(kept);
        }
        let value: Option<Value> = serde_json::from_slice(&line).ok();
        let found = value.as_ref().and_then(|value| value.get("step")).and_then(Value::as_u64);
        match found {
            Some(found) if found <= step => kept += read as u64,
            _ => return Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_resumed_log_goes_on_where_the_state_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, None).unwrap();
        for step in 1..=5 {
            log.append(step, "train", &values(json!({"loss": f64::from(step as u32) / 2.0}))).unwrap();
        }
        log.append(5, "evaluation", &values(json!({"b": f64::NAN, "a": [1, "x\"y"]}))).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 7);
        let begin = "{\"step\":0,\"kind\":\"format\",\"format\":\"dropcap-metrics\",\"version\":1}";
        assert_eq!(whole.lines().next(), Some(begin));
        assert_eq!(whole.lines().nth(1), Some("{\"step\":1,\"kind\":\"train\",\"loss\":0.5}"));
        assert!(whole.ends_with("{\"step\":5,\"kind\":\"evaluation\",\"a\":[1,\"x\\\"y\"],\"b\":null}\n"));
        // Killed within a line, resumed from the state of step 3.
        std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
        let mut log = MetricsLog::open(&path, Some(5)).unwrap();
        log.append(6, "train", &Map::new()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 7);
        assert!(text.ends_with("{\"step\":6,\"kind\":\"train\"}\n"));
        let mut log = MetricsLog::open(&path, Some(3)).unwrap();
        log.append(4, "train", &Map::new()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().map(|line| line.as_bytes()[8] - b'0').collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        MetricsLog::open(&path, None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().collect::<Vec<_>>(), [begin]);
    }

    #[test]
    fn a_log_that_is_no_log_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, b"\xff\xfe\n{\"step\":1}\n").unwrap();
        MetricsLog::open(&path, Some(9)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert!(MetricsLog::open(folder.path(), None).is_err());
    }

    #[test]
    fn a_log_of_a_later_version_is_refused_by_name_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text = "{\"step\":0,\"kind\":\"format\",\"format\":\"dropcap-metrics\",\"version\":2}\n";
        std::fs::write(&path, text).unwrap();
        for resumed in [None, Some(3)] {
            let error = MetricsLog::open(&path, resumed).unwrap_err();
            assert!(matches!(error, TrainError::NewerFormat { found: 2, known: 1, .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        // Logs of before there was a version go on.
        std::fs::write(&path, "{\"step\":1}\n").unwrap();
        MetricsLog::open(&path, Some(1)).unwrap().append(2, "train", &Map::new()).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":1}\n{\"step\":2,\"kind\":\"train\"}\n"
        );
    }
}
