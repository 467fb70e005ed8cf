//! One process, or thread, at a time downloads a blob.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::HubError;

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Takes the lock at `path`, and as long as the holder makes `growing` change, waits for it.
///
/// The kernel releases the lock when its holder ends, so there is none to clean up after. The file stays: to
/// remove it would let two processes hold two locks of one name.
pub(super) fn take(
    path: &Path,
    file: &str,
    growing: &Path,
    longest: Duration,
    waiting: impl FnOnce(),
) -> Result<File, HubError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(HubError::cache("create", parent))?;
    }
    let mut open = OpenOptions::new();
    let lock = open.read(true).write(true).create(true).truncate(false).open(path);
    let lock = lock.map_err(HubError::cache("open the lock", path))?;
    let mut waiting = Some(waiting);
    let mut seen = (size(growing), Instant::now());
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(source)) => return Err(HubError::cache("lock", path)(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        let now = size(growing);
        if now != seen.0 {
            seen = (now, Instant::now());
        } else if seen.1.elapsed() >= longest {
            return Err(HubError::Locked { file: file.to_owned(), lock: path.to_owned(), waited: longest });
        }
        sleep(LOOK_AGAIN);
    }
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|data| data.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_holder_that_stands_still_is_named_and_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/a.lock");
        let growing = folder.path().join("a.incomplete");
        let held = take(&path, "a", &growing, Duration::ZERO, || panic!("nobody holds it")).unwrap();
        let mut waited = false;
        let error = take(&path, "a", &growing, Duration::from_millis(60), || waited = true).unwrap_err();
        assert!(waited && matches!(error, HubError::Locked { .. }), "{error}");
        thread::scope(|scope| {
            let next = scope.spawn(|| take(&path, "a", &growing, Duration::from_secs(20), || ()));
            drop(held);
            next.join().unwrap().unwrap();
        });
    }
}
