//! Which files can be read as text, by their names and their first bytes.

use std::path::Path;

use serde_json::Value;

use crate::TrainError;

/// What is read, for messages.
pub const SUPPORTED: &str = "plain text in UTF-8 (.txt and the like), or .jsonl with one {\"text\": \"...\"}, {\"prompt\": \"...\", \"completion\": \"...\"} or {\"messages\": [...]} a line; either may be packed as .xz";

/// Endings of names whose files are no text, whatever their bytes happen to be, and what to do.
const REFUSED: [(&str, &[&str]); 4] = [
    ("write one JSON object with a `text` a line, and name the file .jsonl", &["json"]),
    (
        "write its text column as .jsonl",
        &["csv", "tsv", "parquet", "arrow", "feather", "orc", "avro", "xls", "xlsx", "sqlite", "db"],
    ),
    (
        "unpack it, or pack it with xz",
        &["gz", "tgz", "bz2", "zst", "zip", "7z", "rar", "lz4", "br", "lzma", "tar", "txz"],
    ),
    (
        "extract its text",
        &[
            "pdf",
            "doc",
            "docx",
            "odt",
            "rtf",
            "epub",
            "mobi",
            "npy",
            "npz",
            "bin",
            "pt",
            "pth",
            "pkl",
            "pickle",
            "safetensors",
            "gguf",
            "h5",
            "hdf5",
        ],
    ),
];

/// What files of other formats begin with.
const BEGINNINGS: [(&str, &[u8]); 10] = [
    ("packed with gzip", b"\x1f\x8b"),
    ("packed with zstd", b"\x28\xb5\x2f\xfd"),
    ("packed with bzip2", b"BZh"),
    ("packed with xz, and not named .xz", b"\xfd7zXZ\0"),
    ("a zip archive", b"PK\x03\x04"),
    ("a Parquet file", b"PAR1"),
    ("an Arrow file", b"ARROW1"),
    ("a PDF", b"%PDF-"),
    ("UTF-16", b"\xff\xfe"),
    ("a shard of tokens", b"DCTOKENS"),
];

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// Whether it is packed with xz.
    pub(super) packed: bool,
    /// Whether every line is an object with a document.
    pub(super) json: bool,
}

impl Kind {
    /// What the name says.
    pub(super) fn of(path: &Path) -> Result<Self, TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let plain = name.strip_suffix(".xz");
        let packed = plain.is_some();
        let ending = plain.unwrap_or(&name).rsplit_once('.').map_or("", |(_, ending)| ending);
        for (advice, endings) in REFUSED {
            if endings.contains(&ending) {
                return Err(refused(path, &format!(".{ending} is not read: {advice}")));
            }
        }
        Ok(Self { packed, json: matches!(ending, "jsonl" | "ndjson") })
    }

    /// Refuses a file whose first bytes, unpacked, are those of another format than the name says.
    pub(super) fn check(self, path: &Path, begin: &[u8]) -> Result<(), TrainError> {
        if let Some((what, _)) = BEGINNINGS.iter().find(|(_, bytes)| begin.starts_with(bytes)) {
            return Err(refused(path, &format!("it is {what}")));
        }
        let begin = begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begin).trim_ascii_start();
        if self.json {
            if begin.starts_with(b"[") {
                return Err(refused(path, "it holds one JSON array; write its objects one a line"));
            }
        } else {
            let line = begin.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let object = serde_json::from_slice::<Value>(line).unwrap_or_default();
            let named = [
                ("`text`", object["text"].is_string()),
                ("`messages`", object["messages"].is_array()),
                (
                    "`prompt` and a `completion`",
                    object["prompt"].is_string() && object["completion"].is_string(),
                ),
            ];
            if let Some((keys, _)) = named.iter().find(|(_, has)| *has) {
                let what = format!("its first line is a JSON object with a {keys}; name it .jsonl");
                return Err(refused(path, &what));
            }
        }
        Ok(())
    }
}

fn refused(path: &Path, what: &str) -> TrainError {
    TrainError::Data { path: path.to_path_buf(), reason: format!("{what}. What can be read is {SUPPORTED}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, begin: &[u8]) -> String {
        let path = Path::new(name);
        let error = Kind::of(path).and_then(|kind| kind.check(path, begin)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(".jsonl") && error.contains(".xz"), "{error}");
        error
    }

    #[test]
    fn files_of_other_formats_are_refused_with_what_is_read() {
        for name in
            ["data.json", "a.csv", "A.CSV", "b.tsv.xz", "c.parquet", "d.txt.gz", "e.jsonl.zst", "f.tar.xz"]
        {
            let error = refusal(name, b"whatever");
            let ending = name.to_lowercase();
            let ending = ending.trim_end_matches(".xz").rsplit('.').next().unwrap().to_owned();
            assert!(error.contains(&format!(".{ending} is not read")), "{error}");
        }
        assert!(refusal("a.txt", b"\x1f\x8b\x08\0").contains("gzip"));
        assert!(refusal("corpus", b"PAR1\x15\x04").contains("Parquet"));
        assert!(refusal("a.txt", b"\xff\xfeh\0").contains("UTF-16"));
        assert!(refusal("a.jsonl", b"\n [{\"text\": \"a\"}]").contains("one JSON array"));
        assert!(refusal("a.txt", b"{\"text\": \"a\"}\n{\"text\": \"b\"}").contains("name it .jsonl"));
    }

    #[test]
    fn text_under_any_other_name_is_read() {
        for name in ["a", "a.txt", "wiki.train.raw", "b.md", "c.py", "d.TXT.XZ", "e.de", ".hidden", "f.html"]
        {
            let kind = Kind::of(Path::new(name)).unwrap();
            assert!(!kind.json, "{name}");
            for begin in [&b""[..], b"Once", b"{\"name\": 3}\n", b"{\n", b"[1, 2]\n", b"\xef\xbb\xbfx"] {
                kind.check(Path::new(name), begin).unwrap();
            }
        }
        let kind = Kind::of(Path::new("a.ndjson.xz")).unwrap();
        assert_eq!(kind, Kind { packed: true, json: true });
        kind.check(Path::new("a.ndjson.xz"), b"{\"content\": 3}").unwrap();
    }
}
