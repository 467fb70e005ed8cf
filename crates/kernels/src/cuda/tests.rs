//! Every kernel file compiles, and the device layer moves memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::testing::device;
use super::{DeviceBuffer, Library, SOURCES, Specialisation, TRAIN_SOURCES, compile};
use crate::{CodeBits, DType};

/// Shapes that together reach every branch on a constant: formats, grouping, gates, head widths.
fn specialisations() -> Vec<Specialisation> {
    let base = Specialisation {
        weights: DType::Bf16,
        cache: DType::Bf16,
        codes: None,
        query_heads: 32,
        kv_heads: 8,
        groups: 1,
        head_dim: 64,
        hidden: 2048,
        side_width: 64,
        statistics: 0,
    };
    vec![
        base,
        Specialisation { weights: DType::F32, cache: DType::F32, side_width: 0, statistics: 1, ..base },
        Specialisation {
            weights: DType::F16,
            cache: DType::F16,
            groups: 8,
            head_dim: 128,
            statistics: 1,
            ..base
        },
        Specialisation { weights: DType::F32, kv_heads: 32, head_dim: 256, side_width: 0, ..base },
        // Keys have 8 bits here, as values do where those have.
        Specialisation { cache: DType::F16, codes: Some(CodeBits::Four), groups: 8, statistics: 1, ..base },
        Specialisation {
            query_heads: 4,
            kv_heads: 2,
            groups: 2,
            head_dim: 8,
            hidden: 32,
            side_width: 4,
            statistics: 1,
            ..base
        },
    ]
}

#[test]
fn every_kernel_file_compiles_for_every_architecture() {
    if let Err(error) = Library::Nvrtc.load() {
        assert!(std::env::var_os("DROPCAP_REQUIRE_NVRTC").is_none(), "{error}");
        eprintln!("SKIPPED: {error}");
        return;
    }
    // What no constant changes is compiled once; for the oldest architecture the files take the two shapes that differ most in turn.
    let neutral = [
        "cuda/bandwidth.cu",
        "cuda/landing.cu",
        "matmul/blocks.cu",
        "matmul/random.cu",
        "sampling/sample.cu",
    ];
    // Others do not know of codes, and those outside of all these folders of no heads and caches either.
    let coded = ["attention/", "ranking/", "lifetimes/", "rope/"];
    let of_heads = ["gated_attention/", "similarity/", "vote/"];
    let mut jobs = Vec::new();
    for (number, source) in SOURCES.iter().chain(TRAIN_SOURCES).enumerate() {
        if neutral.contains(&source.file) {
            jobs.extend([(8, 0), (9, 0)].map(|capability| (source, capability, Specialisation::NEUTRAL)));
            continue;
        }
        let is_in = |folders: &[&str]| folders.iter().any(|folder| source.file.starts_with(folder));
        let mut all = specialisations();
        jobs.push((source, (8, 0), all[number % 2]));
        if !is_in(&coded) {
            all.retain(|specialisation| specialisation.codes.is_none());
            if !is_in(&of_heads) {
                let mut seen = Vec::new();
                all.retain(|of| {
                    let known = (of.weights, of.hidden);
                    let is_new = !seen.contains(&known);
                    seen.push(known);
                    is_new
                });
            }
        }
        jobs.extend(all.into_iter().map(|specialisation| (source, (9, 0), specialisation)));
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((source, capability, specialisation)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let code = compile(source, *capability, specialisation);
            let code = code.unwrap_or_else(|error| panic!("{specialisation:?}: {error}"));
            assert!(!code.is_empty());
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
}

#[test]
fn cuda_memory_comes_back_as_it_went() {
    let Some(device) = device("cuda_memory_comes_back_as_it_went") else { return };
    let numbers: Vec<u32> = (0..100_000).collect();
    let buffer = DeviceBuffer::copy_of(&device, "a test", &numbers).unwrap();
    assert_eq!(buffer.read().unwrap(), numbers);
    assert_eq!(buffer.read_range(17, 3).unwrap(), [17, 18, 19]);
    buffer.fill_bytes(0).unwrap();
    assert!(buffer.read().unwrap().iter().all(|&number| number == 0));
}

#[test]
fn cuda_memory_that_is_not_there_is_an_error_with_sizes() {
    let Some(device) = device("cuda_memory_that_is_not_there_is_an_error_with_sizes") else { return };
    let error = DeviceBuffer::<u8>::uninitialized(&device, "a test", 1 << 50).unwrap_err();
    assert!(error.to_string().contains("1125899906842624 bytes for a test"), "{error}");
    DeviceBuffer::<u8>::uninitialized(&device, "a test", 1 << 20).unwrap();
}
