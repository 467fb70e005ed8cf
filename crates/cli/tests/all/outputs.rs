//! What stands under the name of an output is replaced only if it is a regular file.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use crate::support::{failure, golden, output, text};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// The verbs that write the file that they are given.
fn write(verb: &str, folder: &Path, path: &Path) {
    match verb {
        "forward" => {
            let model = golden("gpt2_dcp");
            output(&["forward", "-m", text(&model), "--ids", "1,2", "-o", text(path)]);
        }
        _ => {
            let corpus = folder.join("corpus.txt");
            fs::write(&corpus, "one two three two one").unwrap();
            output(&["tokenizer", "train", text(&corpus), "-v", "260", "-o", text(path), "--force"]);
        }
    }
}

const VERBS: [&str; 2] = ["forward", "tokenizer"];

#[test]
fn a_pipe_and_a_link_are_written_through_and_stay() {
    for verb in VERBS {
        let folder = tempfile::tempdir().unwrap();
        let [plain, pipe, link, target] =
            ["plain", "pipe", "link", "target"].map(|name| folder.path().join(name));
        write(verb, folder.path(), &plain);
        let expected = fs::read(&plain).unwrap();

        mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut bytes = Vec::new();
                File::open(pipe).unwrap().read_to_end(&mut bytes).unwrap();
                bytes
            }
        });
        write(verb, folder.path(), &pipe);
        assert!(reader.join().unwrap() == expected && fs::metadata(&pipe).unwrap().file_type().is_fifo());

        symlink("target", &link).unwrap();
        for _ in 0..2 {
            write(verb, folder.path(), &link);
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "{verb}");
            assert!(fs::read(&target).unwrap() == expected);
        }
    }
}

#[test]
fn a_device_is_written_through_and_stays_a_device() {
    for verb in VERBS {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("null");
        // Only root may make a node, and not every file system opens one.
        let made = mknodat(CWD, &node, FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3));
        if made.is_err() || File::options().write(true).open(&node).is_err() {
            return;
        }
        write(verb, folder.path(), &node);
        assert!(fs::metadata(&node).unwrap().file_type().is_char_device(), "{verb}");
    }
}

#[test]
fn a_new_file_has_ordinary_rights_and_an_old_one_keeps_its_own() {
    for verb in VERBS {
        let folder = tempfile::tempdir().unwrap();
        let [ordinary, path] = ["ordinary", "path"].map(|name| folder.path().join(name));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        fs::write(&ordinary, "").unwrap();
        write(verb, folder.path(), &path);
        assert_eq!(mode(&path), mode(&ordinary), "{verb}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        write(verb, folder.path(), &path);
        assert_eq!(mode(&path), 0o640, "{verb}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/out");
    for path in [folder.path(), &missing] {
        // The model does not exist either; the output is looked at first.
        let words = failure(&["forward", "-m", "nowhere", "--ids", "1", "-o", text(path)]);
        assert!(words.contains(text(path)), "{words}");
    }
}
