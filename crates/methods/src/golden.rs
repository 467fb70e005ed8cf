//! Other people's numbers, for tests: `tests/golden`, whose README says whose.

use std::path::PathBuf;

use dropcap_weights::TensorFile;
use serde_json::Value;

/// One golden file and what is written beside it.
pub(crate) struct Golden {
    file: TensorFile,
    /// The JSON beside it.
    pub(crate) json: Value,
}

/// A file of `tests/golden`.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        let json = std::fs::read(path(&format!("{name}.json"))).unwrap();
        let file = TensorFile::open(&path(&format!("{name}.safetensors"))).unwrap();
        Self { file, json: serde_json::from_slice(&json).unwrap() }
    }

    /// Names and settings of the cases whose names begin so; at least one.
    pub(crate) fn cases(&self, begin: &str) -> Vec<(&str, &Value)> {
        let cases = self.json["cases"].as_object().unwrap();
        let cases: Vec<_> = cases
            .iter()
            .filter(|(name, _)| name.starts_with(begin))
            .map(|(name, case)| (name.as_str(), case))
            .collect();
        assert!(!cases.is_empty(), "{begin}");
        cases
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.file.info(name).unwrap_or_else(|| panic!("{name} is there")).shape.to_vec()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.file.read_f32(name).unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.file.read_bytes(name, &mut bytes).unwrap();
        bytes
    }

    /// i32 or u8.
    pub(crate) fn integers(&self, name: &str) -> Vec<i32> {
        let (bytes, count) = (self.bytes(name), self.shape(name).iter().product::<usize>());
        if bytes.len() == count {
            return bytes.into_iter().map(i32::from).collect();
        }
        bytes.chunks_exact(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    pub(crate) fn doubles(&self, name: &str) -> Vec<f64> {
        self.bytes(name).chunks_exact(8).map(|word| f64::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

/// A number of a case.
pub(crate) fn count(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a count")) as usize
}

/// A list of counts.
pub(crate) fn counts(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(count).collect()
}

/// Scores within `tolerance` of the largest, but for those that we protect: these are at least the original's largest.
#[track_caller]
pub(crate) fn assert_scores(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let judged = || ours.iter().zip(theirs).filter(|(ours, _)| **ours != f32::INFINITY);
    let largest = judged().fold(0.0_f32, |largest, (_, theirs)| largest.max(theirs.abs()));
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        if *ours == f32::INFINITY {
            assert!(*theirs >= largest, "{what}: entry {at} is protected here and {theirs} there");
        } else {
            assert!(
                (ours - theirs).abs() <= tolerance * largest,
                "{what}: entry {at} is {ours}, not {theirs}"
            );
        }
    }
}

/// Places of a list without its padding, sorted.
pub(crate) fn places(row: &[i32]) -> Vec<usize> {
    let mut places: Vec<usize> =
        row.iter().filter(|&&place| place >= 0).map(|&place| place as usize).collect();
    places.sort_unstable();
    places
}
