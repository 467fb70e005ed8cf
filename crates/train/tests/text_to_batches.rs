//! From files of text to batches, through a tokenizer that was trained on them.
#![cfg(test)]

use std::io::Write;
use std::path::{Path, PathBuf};

use dropcap_model::Tokenizer;
use dropcap_train::data::{Batches, Borders, Language, Prepared, Preparing, TokenShard, prepare, tokenize};
use dropcap_train::tokenizer::{TrainedTokenizer, train_bpe};
use dropcap_train::{Digest, TrainError};

const TEXT: &str = "The cat sat on the mat. The cat ate.\n\nIt slept.\n\n<|endoftext|>\nThe dog sat on the cat, don't ask.\n";

struct Corpus {
    folder: tempfile::TempDir,
    files: Vec<PathBuf>,
}

impl Corpus {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.txt"), TEXT.repeat(3)).unwrap();
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut packed = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        packed.write_all("{\"text\": \"The cat sat, naïvely.\"}\n".repeat(4).as_bytes()).unwrap();
        std::fs::write(path("b.jsonl.xz"), packed.finish().unwrap()).unwrap();
        let files = vec![path("a.txt"), path("b.jsonl.xz")];
        Self { folder, files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, vocabulary: usize) -> Result<TrainedTokenizer, TrainError> {
        train_bpe(&self.files, vocabulary, &self.path("tokenizer.json"), &mut |_| ())
    }

    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::open(self.folder.path()).unwrap()
    }

    /// The shards, and a word for each event.
    fn prepare(&self, tokenizer: &Tokenizer, mark: &[u8]) -> (Vec<TokenShard>, Vec<&'static str>) {
        let (cache, mut events) = (self.path("cache"), Vec::new());
        let borders = Borders::of(tokenizer, &[], None).unwrap();
        let what = Preparing {
            files: &self.files,
            language: Language { tokenizer, borders: &borders, stops: &[], template: Ok(None) },
            tokenizer_digest: Digest::of(mark),
            vocabulary: 300,
            cache: &cache,
            keep: true,
            threads: 2,
        };
        let shards = prepare(&what, &mut |event| match event {
            Prepared::Found { .. } => events.push("found"),
            Prepared::Made { .. } => events.push("made"),
            Prepared::Replacing { .. } => events.push("replacing"),
            _ => {}
        });
        (shards.unwrap(), events)
    }
}

fn tokens(path: &Path, tokenizer: &Tokenizer, threads: usize) -> Vec<u32> {
    let borders = Borders::of(tokenizer, &[], None).unwrap();
    let language = Language { tokenizer, borders: &borders, stops: &[], template: Ok(None) };
    tokenize(path, &language, threads, &mut |_| ()).unwrap().ids
}

#[test]
fn a_trained_tokenizer_reads_any_text_and_shortens_its_own() {
    let corpus = Corpus::new();
    let trained = corpus.train(290).unwrap();
    assert_eq!((trained.vocabulary, trained.documents), (290, 8));
    let tokenizer = corpus.tokenizer();
    tokenizer.check_vocabulary(290).unwrap();
    assert_eq!(tokenizer.id("<|endoftext|>"), Some(0));
    assert!(tokenizer.is_control(0));
    for text in ["The cat sat.", "don't", "漢字 🎉\n\n\ttab", "<|endoftext|>", ""] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("The cat").unwrap().len(), 2);
    // The same files give the same file.
    let first = std::fs::read(corpus.path("tokenizer.json")).unwrap();
    corpus.train(290).unwrap();
    assert_eq!(std::fs::read(corpus.path("tokenizer.json")).unwrap(), first);
}

#[test]
fn a_tokenizer_that_cannot_be_trained_leaves_nothing() {
    let corpus = Corpus::new();
    for vocabulary in [0, 256, 1 << 30] {
        let error = corpus.train(vocabulary).unwrap_err().to_string();
        assert!(error.contains(&vocabulary.to_string()) && error.contains("257"), "{error}");
    }
    std::fs::write(&corpus.files[0], b"fine\n\xff").unwrap();
    let error = corpus.train(290).unwrap_err().to_string();
    assert!(error.contains("a.txt line 2"), "{error}");
    std::fs::remove_file(&corpus.files[1]).unwrap();
    std::fs::write(&corpus.files[0], b"fine\n").unwrap();
    assert!(corpus.train(290).unwrap_err().to_string().contains("b.jsonl.xz"));
    assert!(!corpus.path("tokenizer.json").exists());
    assert!(train_bpe(&[], 290, &corpus.path("t"), &mut |_| ()).is_err());
    // Little text: fewer tokens, and it says so.
    let small = train_bpe(&corpus.files[..1], 4000, &corpus.path("t"), &mut |_| ()).unwrap();
    assert!((257..300).contains(&small.vocabulary));
}

#[test]
fn every_document_ends_with_the_end_of_text_and_threads_change_nothing() {
    let corpus = Corpus::new();
    corpus.train(290).unwrap();
    let tokenizer = corpus.tokenizer();
    let ids = tokens(&corpus.files[0], &tokenizer, 1);
    let documents: Vec<String> =
        ids.split(|&id| id == 0).map(|document| tokenizer.decode(document).unwrap()).collect();
    let last = "The dog sat on the cat, don't ask.\nThe cat sat on the mat. The cat ate.\n\nIt slept.";
    assert_eq!(documents.len(), 5, "four documents and nothing after the last end");
    assert_eq!((&*documents[1], &*documents[4]), (last, ""));
    // A long document, cut into pieces.
    let long = corpus.path("long.txt");
    let lines: String = (0..9000).map(|line| format!("The cat sat on mat {line}, don't ask.\n")).collect();
    std::fs::write(&long, &lines).unwrap();
    let one = tokens(&long, &tokenizer, 1);
    assert_eq!(one, tokens(&long, &tokenizer, 3));
    let whole = tokenizer.encode(lines.trim_end()).unwrap();
    assert!(one[..one.len() - 1] == whole, "pieces are cut where nothing is joined");
}

#[test]
fn shards_are_made_once_and_again_when_something_changed() {
    let corpus = Corpus::new();
    corpus.train(290).unwrap();
    let tokenizer = corpus.tokenizer();
    let (shards, events) = corpus.prepare(&tokenizer, b"1");
    assert_eq!(events, ["made", "made"]);
    assert_eq!(corpus.prepare(&tokenizer, b"1"), (shards.clone(), vec!["found", "found"]));
    // Another tokenizer has shards of its own.
    assert_eq!(corpus.prepare(&tokenizer, b"2").1, ["made", "made"]);
    assert_eq!(corpus.prepare(&tokenizer, b"1").1, ["found", "found"]);
    std::fs::write(&corpus.files[0], TEXT).unwrap();
    let (changed, events) = corpus.prepare(&tokenizer, b"1");
    assert_eq!(events, ["replacing", "made", "found"]);
    assert!(changed[0].len() < shards[0].len());
    // A damaged shard is made again.
    for entry in std::fs::read_dir(corpus.path("cache")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let (again, events) = corpus.prepare(&tokenizer, b"1");
    assert_eq!(events, ["replacing", "made", "replacing", "made"]);
    assert_eq!(again, changed);
    let batches = Batches::new("training", again, 3, 8, 7).unwrap();
    let batch = batches.batch(5);
    assert_eq!((batch.ids.len(), &batch.ids[1..8]), (24, &batch.targets[..7]));
}
