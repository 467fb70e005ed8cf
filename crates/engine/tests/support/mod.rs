//! What the engine's tests share: the golden models, tensors of golden files, a naive decoder.

mod model;
pub mod naive;
pub mod presses;
pub mod running;

use std::path::PathBuf;

use dropcap_kernels::DType;
use dropcap_model::WeightFormat;
use dropcap_policy::EvictionPolicy;
use dropcap_weights::TensorFile;
pub use model::Model;

/// Golden models of all families, by folder below `tests/golden`.
pub const MODELS: [&str; 8] = [
    "llama_kvpress/gpt2m",
    "llama_kvpress/llama",
    "llama_kvpress/llama31_rope",
    "llama_kvpress/mistral",
    "llama_kvpress/mistral_sw24",
    "llama_kvpress/qwen2",
    "llama_kvpress/qwen3",
    "gpt2_dcp",
];

/// A path below `tests/golden`: where the test was built, or, on a machine that it was brought to, in the working
/// directory.
pub fn golden(path: &str) -> PathBuf {
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden"));
    if built.exists() { built } else { PathBuf::from("tests/golden") }.join(path)
}

/// JSON of a golden file.
pub fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

impl Model {
    /// A golden model, loaded in float32.
    pub fn open(folder: &str) -> Model {
        Model::open_as(folder, DType::F32)
    }

    pub fn open_as(folder: &str, format: impl Into<WeightFormat>) -> Model {
        Model::at(&golden(folder), format)
    }

    /// Logits and lifetimes of `ids` under `policy`, fed in chunks.
    pub fn evaluate(
        &self,
        policy: &dyn EvictionPolicy,
        ids: &[u32],
        chunk: usize,
    ) -> dropcap_engine::Evaluation {
        let pool = self.decoder.page_pool(policy, DType::F32, None).unwrap();
        dropcap_engine::evaluate(&self.decoder, &self.team, policy, &pool, ids, chunk).unwrap()
    }
}

/// A tensor of a golden file as f32.
pub fn floats(file: &TensorFile, name: &str) -> Vec<f32> {
    file.read_f32(name).unwrap()
}

/// A tensor of whole numbers (i32, i64 or u32) of a golden file.
pub fn integers(file: &TensorFile, name: &str) -> Vec<i64> {
    let info = file.info(name).unwrap_or_else(|| panic!("{name} is in the file"));
    let elements: usize = info.shape.iter().product();
    let mut bytes = Vec::new();
    file.read_bytes(name, &mut bytes).unwrap();
    let width = bytes.len() / elements.max(1);
    let unsigned = format!("{:?}", info.dtype).starts_with('U');
    bytes
        .chunks_exact(width)
        .map(|chunk| {
            let mut word = [if !unsigned && chunk[width - 1] & 0x80 != 0 { 0xff } else { 0 }; 8];
            word[..width].copy_from_slice(chunk);
            i64::from_le_bytes(word)
        })
        .collect()
}

/// Token ids of a golden file.
pub fn ids(file: &TensorFile, name: &str) -> Vec<u32> {
    integers(file, name).into_iter().map(|id| u32::try_from(id).unwrap()).collect()
}

/// The largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, next| if next.is_nan() { f32::NAN } else { next.max(worst) })
}

/// The index of the largest.
pub fn argmax(row: &[f32]) -> u32 {
    let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
    best.unwrap() as u32
}
