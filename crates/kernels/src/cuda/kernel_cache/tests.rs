//! Only what was stored comes back.

use std::fs;
use std::path::PathBuf;
use std::thread;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{CODE_AT, KernelCache, Key, VERSION};

const KEY: Key = Key { source: [7; 32], compiler: (13, 0) };

/// A cache in a folder of its own, which goes with it.
struct Bench {
    cache: KernelCache,
    folder: PathBuf,
}

impl Bench {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dropcap-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Self { cache: KernelCache::new(folder.join("made/when/needed")), folder }
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.cache.folder.join(key.file_name())
    }

    /// The file of a key as it would be stored.
    fn bytes(&self, key: &Key, code: &[u8]) -> Vec<u8> {
        self.cache.store(key, code).unwrap();
        fs::read(self.file(key)).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn stored_code_comes_back_and_nothing_else_is_left() {
    let bench = Bench::new("stored");
    assert_eq!(bench.cache.load(&KEY), None);
    for code in [&b"some code"[..], b"", b"other code"] {
        bench.cache.store(&KEY, code).unwrap();
        assert_eq!(bench.cache.load(&KEY).as_deref(), Some(code));
    }
    assert_eq!(fs::read_dir(&bench.cache.folder).unwrap().count(), 1);
}

#[test]
fn a_file_that_was_cut_or_grew_is_none() {
    let bench = Bench::new("cut");
    let whole = bench.bytes(&KEY, b"a kernel's code");
    for length in 0..whole.len() {
        fs::write(bench.file(&KEY), &whole[..length]).unwrap();
        assert_eq!(bench.cache.load(&KEY), None, "cut to {length} bytes");
    }
    fs::write(bench.file(&KEY), [&whole[..], b"\0"].concat()).unwrap();
    assert_eq!(bench.cache.load(&KEY), None, "a byte longer");
}

#[test]
fn a_file_with_any_bit_flipped_is_none() {
    let bench = Bench::new("flipped");
    let mut bytes = bench.bytes(&KEY, b"code");
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(bench.file(&KEY), &bytes).unwrap();
        assert_eq!(bench.cache.load(&KEY), None, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn whole_files_of_other_kernels_compilers_and_programs_are_none() {
    let bench = Bench::new("foreign");
    let others =
        [Key { source: [8; 32], ..KEY }, Key { compiler: (12, 9), ..KEY }, Key { compiler: (13, 1), ..KEY }];
    for other in others {
        let bytes = bench.bytes(&other, b"code");
        assert_ne!(bench.file(&other), bench.file(&KEY));
        fs::write(bench.file(&KEY), &bytes).unwrap();
        assert_eq!(bench.cache.load(&KEY), None);
    }
    let mut newer = bench.bytes(&KEY, b"code");
    newer[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    for foreign in
        [&newer[..], b"\x7fELF a bare cubin of an earlier program", &[0; CODE_AT], &[0xff; 2 * CODE_AT]]
    {
        fs::write(bench.file(&KEY), foreign).unwrap();
        assert_eq!(bench.cache.load(&KEY), None);
    }
    fs::remove_file(bench.file(&KEY)).unwrap();
    fs::create_dir(bench.file(&KEY)).unwrap();
    assert_eq!(bench.cache.load(&KEY), None, "a folder");
}

#[test]
fn without_a_compiler_the_newest_whole_file_serves() {
    let bench = Bench::new("any");
    assert_eq!(bench.cache.load_of_any_compiler(KEY.source), None);
    for compiler in [(12, 8), (13, 0), (9, 5)] {
        bench.cache.store(&Key { compiler, ..KEY }, format!("{compiler:?}").as_bytes()).unwrap();
    }
    bench.cache.store(&Key { source: [9; 32], compiler: (14, 0) }, b"of another kernel").unwrap();
    assert_eq!(bench.cache.load_of_any_compiler(KEY.source).as_deref(), Some(&b"(13, 0)"[..]));
    fs::write(bench.file(&KEY), b"").unwrap();
    assert_eq!(bench.cache.load_of_any_compiler(KEY.source).as_deref(), Some(&b"(12, 8)"[..]));
}

#[test]
fn readers_beside_many_writers_see_whole_files_only() {
    let bench = Bench::new("writers");
    let code = |writer: u8| vec![writer; 10_000 + usize::from(writer)];
    thread::scope(|scope| {
        for writer in 0..4 {
            let cache = &bench.cache;
            scope.spawn(move || (0..25).for_each(|_| cache.store(&KEY, &code(writer)).unwrap()));
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let Some(found) = bench.cache.load(&KEY) else { continue };
                    assert_eq!(found, code(found[0]));
                }
            });
        }
    });
    assert!(bench.cache.load(&KEY).is_some(), "the last writer's file is whole");
    assert_eq!(fs::read_dir(&bench.cache.folder).unwrap().count(), 1, "parts were left");
}

proptest! {
    #[test]
    fn whatever_lies_there_is_the_code_or_none(
        code in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bench = Bench::new("noise");
        let whole = bench.bytes(&KEY, &code);
        prop_assert_eq!(bench.cache.load(&KEY), Some(code));
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + noise.len());
        bytes.splice(at..end, noise);
        fs::write(bench.file(&KEY), &bytes).unwrap();
        prop_assert!(bench.cache.load(&KEY).is_none() || bytes == whole);
    }
}
