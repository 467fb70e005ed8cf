//! A folder takes the place of another, and at no moment is there none.

use std::path::{Path, PathBuf};

use dropcap_files::folder_of;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::TrainError;
use crate::disk::{Disk, partial_path};

/// Ends the name under which the old folder waits where the two cannot trade places in one step.
const BEFORE: &str = "-before";

/// Puts the folder `new` at `place`; what is there goes only when `new` is.
///
/// The two names are exchanged in one step where the file system can. Else the old folder waits under a name beside its
/// own while the new one takes its place, and [`recover`] gives it its name back if a process died in between.
///
/// # Errors
/// A refusal of the disk; the old folder is at its place or waits beside it then.
pub(super) fn replace_folder(disk: &dyn Disk, new: &Path, place: &Path) -> Result<(), TrainError> {
    let exchange = |a: &Path, b: &Path| renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok();
    replace_with(disk, new, place, &exchange)
}

/// Gives the folder at `place` its name back if it waits beside it and nothing took its place.
///
/// # Errors
/// A refusal of the disk.
pub(super) fn recover(disk: &dyn Disk, place: &Path) -> Result<(), TrainError> {
    let before = before(place);
    if before.exists() && !place.exists() {
        disk.rename(&before, place).map_err(|error| TrainError::write(place, error))?;
    }
    Ok(())
}

fn replace_with(
    disk: &dyn Disk,
    new: &Path,
    place: &Path,
    exchange: &dyn Fn(&Path, &Path) -> bool,
) -> Result<(), TrainError> {
    let failed = |error| TrainError::write(place, error);
    recover(disk, place)?;
    let old = if !place.exists() {
        disk.rename(new, place).map_err(failed)?;
        None
    } else if exchange(new, place) {
        Some(new.to_path_buf())
    } else {
        let before = before(place);
        // Left by a process that died after the new folder had taken its place.
        remove(disk, &before)?;
        disk.rename(place, &before).map_err(failed)?;
        disk.rename(new, place).map_err(failed)?;
        Some(before)
    };
    disk.settle(folder_of(place)).map_err(failed)?;
    old.map_or(Ok(()), |old| remove(disk, &old))
}

fn before(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{name}{BEFORE}"))
}

/// Takes the folder out of sight first, so that one removed by half is never taken for a whole one.
fn remove(disk: &dyn Disk, folder: &Path) -> Result<(), TrainError> {
    if !folder.exists() {
        return Ok(());
    }
    let gone = partial_path(&folder.with_extension("gone"));
    let attempt = || {
        if gone.exists() {
            disk.remove_folder(&gone)?;
        }
        disk.rename(folder, &gone)?;
        disk.remove_folder(&gone)
    };
    attempt().map_err(|error| TrainError::io("remove", folder, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::LocalDisk;
    use dropcap_files::faulty::{Fault, FaultyDisk};
    use std::fs;

    /// A result is whole if both of its files say the same.
    fn is_whole(folder: &Path) -> bool {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        read("a").is_some() && read("a") == read("b")
    }

    fn write(folder: &Path, text: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("a"), text).unwrap();
        fs::write(folder.join("b"), text).unwrap();
    }

    #[test]
    fn there_is_a_whole_folder_at_every_moment_wherever_the_process_dies() {
        type Exchange = fn(&Path, &Path) -> bool;
        let ways: [(&str, Exchange); 2] = [
            ("in one step", |a, b| renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()),
            ("in two", |_, _| false),
        ];
        for (way, exchange) in ways {
            for fault in [Fault::Killed, Fault::Full] {
                for allowed in 0.. {
                    let folder = tempfile::tempdir().unwrap();
                    let (new, place) = (folder.path().join(".partial-1-model"), folder.path().join("model"));
                    write(&place, "old");
                    write(&new, "new");
                    let done = replace_with(&FaultyDisk::new(fault, allowed), &new, &place, &exchange);
                    let found = if place.exists() { place.clone() } else { before(&place) };
                    assert!(is_whole(&found), "{way}, {fault:?} after {allowed}");
                    recover(&LocalDisk, &place).unwrap();
                    assert!(is_whole(&place), "{way}, {fault:?} after {allowed}");
                    // The next run replaces it, whatever was left.
                    let again = folder.path().join(".partial-2-model");
                    write(&again, "newest");
                    replace_with(&LocalDisk, &again, &place, &exchange).unwrap();
                    assert_eq!(fs::read_to_string(place.join("a")).unwrap(), "newest");
                    assert!(!before(&place).exists());
                    if done.is_ok() {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_folder_just_takes_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (new, place) = (folder.path().join("new"), folder.path().join("model"));
        write(&new, "new");
        replace_folder(&LocalDisk, &new, &place).unwrap();
        assert!(is_whole(&place) && !new.exists());
    }
}
