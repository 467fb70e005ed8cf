//! Compiled kernels on disk: a file each, which says what it is and proves that it is whole.
//!
//! A file that is not exactly what was asked for (cut, changed, of another kernel, of a newer program) is as good as
//! none: the kernel is compiled again and the file replaced. Code is handed to the driver only after its digest was
//! checked, because the driver does not check: it crashes.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use dropcap_files::{Existing, publish};
use sha2::{Digest, Sha256};

/// A folder of compiled kernels; made when the first is stored.
#[derive(Debug, Clone)]
pub(super) struct KernelCache {
    folder: PathBuf,
}

/// Which code a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Digest of all that the compiler is given.
    pub(super) source: [u8; 32],
    /// The compiler's own version.
    pub(super) compiler: (i32, i32),
}

const MAGIC: [u8; 8] = *b"dropcap\0";
/// Of the layout below: magic, version, key, length of the code, digest of all these and the code; then the code.
/// Numbers are little-endian.
const VERSION: u32 = 1;
const CODE_AT: usize = 8 + 4 + (32 + 4 + 4) + 8 + 32;
/// Kernels have some hundred kilobytes: whatever is longer is none of ours.
const MOST_BYTES: u64 = 64 << 20;

impl Key {
    fn file_name(&self) -> String {
        format!("{}{}.{}{ENDING}", self.stem(), self.compiler.0, self.compiler.1)
    }

    fn stem(&self) -> String {
        let digest: String = self.source.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{digest}-")
    }
}

const ENDING: &str = ".kernel";

impl KernelCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The code of that key, if there is a whole file of it.
    pub(super) fn load(&self, key: &Key) -> Option<Vec<u8>> {
        decode(key, &read(&self.folder.join(key.file_name()))?).map(<[u8]>::to_vec)
    }

    /// The code that any compiler has made of the source, the newest first: for machines without one.
    pub(super) fn load_of_any_compiler(&self, source: [u8; 32]) -> Option<Vec<u8>> {
        let stem = Key { source, compiler: (0, 0) }.stem();
        let files = fs::read_dir(&self.folder).ok()?.filter_map(Result::ok);
        let version = |name: String| {
            let (major, minor) = name.strip_prefix(&stem)?.strip_suffix(ENDING)?.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        };
        let mut versions: Vec<(i32, i32)> =
            files.filter_map(|file| version(file.file_name().into_string().ok()?)).collect();
        versions.sort_unstable();
        versions.into_iter().rev().find_map(|compiler| self.load(&Key { source, compiler }))
    }

    /// Keeps the code, in place of whatever lies there.
    pub(super) fn store(&self, key: &Key, code: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let write = |file: &mut dyn io::Write| {
            file.write_all(&head(key, code))?;
            file.write_all(code)
        };
        publish(&self.folder.join(key.file_name()), Existing::Replace, write).map_err(io::Error::other)
    }
}

/// What stands before the code.
fn head(key: &Key, code: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(CODE_AT);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(key.source);
    head.extend(key.compiler.0.to_le_bytes());
    head.extend(key.compiler.1.to_le_bytes());
    head.extend((code.len() as u64).to_le_bytes());
    let digest = Sha256::new().chain_update(&head).chain_update(code).finalize();
    head.extend(digest);
    head
}

/// The code in a file, if it is that of the key, in this version, and whole.
fn decode<'a>(key: &Key, file: &'a [u8]) -> Option<&'a [u8]> {
    let (found, code) = file.split_at_checked(CODE_AT)?;
    (head(key, code) == found).then_some(code)
}

/// All of a regular file of sensible size.
fn read(path: &Path) -> Option<Vec<u8>> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
