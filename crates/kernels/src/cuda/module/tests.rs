//! A damaged cache costs a compilation.

use std::fs;

use super::{KernelCache, Wanted};
use crate::cuda::{Library, SOURCES, Specialisation, compiler_version};

#[test]
fn a_damaged_kernel_is_compiled_again() {
    if let Err(error) = Library::Nvrtc.load() {
        assert!(std::env::var_os("DROPCAP_REQUIRE_NVRTC").is_none(), "{error}");
        eprintln!("SKIPPED: {error}");
        return;
    }
    let folder = std::env::temp_dir().join(format!("dropcap-damaged-{}", std::process::id()));
    let cache = KernelCache::new(folder.clone());
    let source = SOURCES.iter().find(|source| source.file == "cuda/bandwidth.cu").unwrap();
    let wanted = Wanted { source, capability: (8, 0), specialisation: &Specialisation::NEUTRAL };
    assert_eq!(wanted.cached(&cache), None);
    let code = wanted.compiled(Some(&cache)).unwrap();
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&[][..], &whole[..whole.len() / 2], &flipped, &code] {
        fs::write(&file, damaged).unwrap();
        assert_eq!(wanted.cached(&cache), None);
        assert_eq!(wanted.compiled(Some(&cache)).unwrap(), code);
        assert_eq!(wanted.cached(&cache).as_ref(), Some(&code));
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn another_compiler_option_constant_or_text_is_another_file() {
    let bench = |source, capability, specialisation: &Specialisation, compiler| {
        Wanted { source, capability, specialisation }.key(compiler)
    };
    let neutral = Specialisation::NEUTRAL;
    let key = bench(&SOURCES[0], (8, 0), &neutral, (13, 0));
    assert_eq!(key, bench(&SOURCES[0], (8, 0), &neutral, (13, 0)));
    let others = [
        bench(&SOURCES[0], (8, 0), &neutral, (13, 1)),
        bench(&SOURCES[0], (9, 0), &neutral, (13, 0)),
        bench(&SOURCES[0], (8, 0), &Specialisation { hidden: 16, ..neutral }, (13, 0)),
        bench(&SOURCES[1], (8, 0), &neutral, (13, 0)),
    ];
    assert!(others.iter().all(|other| *other != key));
    assert!(compiler_version().map_or(true, |(major, _)| major >= 12));
}
