use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::check;
use crate::faulty::{Fault, FaultyDisk};

fn write(path: &Path, existing: Existing, text: &str) -> Result<(), FileError> {
    publish(path, existing, |file| file.write_all(text.as_bytes()))
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    for existing in [None, Some("old")] {
        for fault in [Fault::Killed, Fault::Full] {
            for allowed in 0.. {
                let folder = tempdir().unwrap();
                let path = folder.path().join("file");
                if let Some(text) = existing {
                    fs::write(&path, text).unwrap();
                }
                let how = if existing.is_some() { Existing::Replace } else { Existing::Refuse };
                let disk = FaultyDisk::new(fault, allowed);
                let result = publish_on(&disk, &path, how, |file| file.write_all(b"new content"));
                let text = fs::read_to_string(&path).ok();
                assert!(text.as_deref() == existing || text.as_deref() == Some("new content"), "{text:?}");
                if result.is_ok() {
                    assert_eq!(text.as_deref(), Some("new content"));
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_is_called_full_and_leaves_nothing_behind() {
    let folder = tempdir().unwrap();
    let disk = FaultyDisk::new(Fault::Full, 1);
    let path = folder.path().join("file");
    let error = publish_on(&disk, &path, Existing::Replace, |file| file.write_all(b"new")).unwrap_err();
    assert!(matches!(error, FileError::DiskFull { .. }), "{error}");
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_new_file_has_ordinary_rights_and_a_replaced_one_keeps_its_own() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(folder.path().join("ordinary"), "").unwrap();
    write(&path, Existing::Refuse, "one").unwrap();
    assert_eq!(mode(&path), mode(&folder.path().join("ordinary")));
    for rights in [0o600, 0o640, 0o666, 0o755, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(rights)).unwrap();
        write(&path, Existing::Replace, "two").unwrap();
        assert_eq!(mode(&path), rights);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    write(&path, Existing::Replace, "three").unwrap();
    assert_eq!(mode(&path), 0o755, "the new bytes are nobody's trusted program");
    assert_eq!(names(&folder), ["file", "ordinary"]);
}

#[test]
fn a_file_that_is_not_to_be_replaced_stays_even_if_it_appears_meanwhile() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    let error = publish(&path, Existing::Refuse, |file| {
        fs::write(&path, "theirs")?;
        file.write_all(b"mine")
    });
    assert!(matches!(error, Err(FileError::Exists { .. })));
    for error in [write(&path, Existing::Refuse, "mine"), check(&path, Existing::Refuse)] {
        assert!(matches!(error, Err(FileError::Exists { .. })));
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(names(&folder), ["file"]);
}

#[test]
fn a_link_stays_and_its_target_is_written() {
    let folder = tempdir().unwrap();
    let [target, link, far] = ["target", "link", "far"].map(|name| folder.path().join(name));
    symlink("target", &link).unwrap();
    symlink("link", &far).unwrap();
    // Dangling first, then with a target.
    for text in ["one", "two"] {
        check(&far, Existing::Replace).unwrap();
        write(&far, Existing::Replace, text).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), text);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::symlink_metadata(&far).unwrap().is_symlink());
        assert!(fs::symlink_metadata(&target).unwrap().is_file());
    }
    assert_eq!(names(&folder), ["far", "link", "target"]);
    symlink("loop", folder.path().join("loop")).unwrap();
    assert!(write(&folder.path().join("loop"), Existing::Replace, "").is_err());
}

#[test]
fn a_pipe_is_written_through_and_stays_a_pipe() {
    let folder = tempdir().unwrap();
    let [pipe, link] = ["pipe", "link"].map(|name| folder.path().join(name));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    symlink("pipe", &link).unwrap();
    for path in [&pipe, &link] {
        for existing in [Existing::Replace, Existing::Refuse] {
            check(path, existing).unwrap();
            let reader = thread::spawn({
                let pipe = pipe.clone();
                move || {
                    let mut text = String::new();
                    fs::File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                    text
                }
            });
            write(path, existing, "through").unwrap();
            assert_eq!(reader.join().unwrap(), "through");
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        }
    }
    assert_eq!(names(&folder), ["link", "pipe"]);
}

#[test]
fn a_device_is_written_through_and_stays_a_device() {
    let folder = tempdir().unwrap();
    let node = folder.path().join("null");
    // Memory devices, the null device among them, have major number 1 on Linux. Only root may make a node, and not
    // every file system opens one.
    let made = mknodat(CWD, &node, FileType::CharacterDevice, Mode::from(0o666), rustix::fs::makedev(1, 3));
    if made.is_err() || fs::File::options().write(true).open(&node).is_err() {
        return;
    }
    let rights = mode(&node);
    for existing in [Existing::Replace, Existing::Refuse] {
        write(&node, existing, "gone").unwrap();
        let facts = fs::metadata(&node).unwrap();
        assert!(facts.file_type().is_char_device() && mode(&node) == rights);
    }
    assert_eq!(names(&folder), ["null"]);
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (folder.path().to_path_buf(), "directory"),
        (folder.path().join("."), "directory"),
        (folder.path().join("new/"), "folder's name"),
        (socket, "socket"),
    ] {
        for refused in [write(&path, Existing::Replace, ""), check(&path, Existing::Replace)] {
            let words = refused.unwrap_err().to_string();
            assert!(words.contains(kind) && words.contains(&path.display().to_string()), "{words}");
        }
    }
    let missing = folder.path().join("missing/file");
    assert!(write(&missing, Existing::Replace, "").is_err() && check(&missing, Existing::Replace).is_err());
    assert_eq!(names(&folder), ["socket"]);
}

#[test]
fn an_error_of_the_writer_leaves_the_old_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    let error = publish(&path, Existing::Replace, |file| {
        file.write_all(b"half")?;
        Err(io::Error::other("no more"))
    });
    assert!(error.unwrap_err().to_string().contains("no more"));
    assert_eq!((&*fs::read_to_string(&path).unwrap(), &*names(&folder)), ("old", &["file".to_owned()][..]));
}

#[test]
fn writers_of_one_name_at_once_leave_one_whole_file() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    thread::scope(|scope| {
        for letter in ["a", "b", "c", "d"] {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write(path, Existing::Replace, &letter.repeat(5000)).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.len() == 5000 && text.bytes().all(|byte| byte == text.as_bytes()[0]));
    assert_eq!(names(&folder), ["file"]);
}
