//! Adapters that PEFT wrote, merged while a checkpoint is read, give the logits of PEFT's own unmerged model.

use std::sync::Arc;

use crate::support::{Model, distance, floats, golden, ids};
use dropcap_kernels::{DType, Team};
use dropcap_model::{Adapter, Checkpoint, Decoder};
use dropcap_policy::KeepAll;
use dropcap_weights::TensorFile;

/// As for the dense vectors; merging rounds each weight once more.
const LOGITS: f32 = 2e-4;

fn with_adapter(model: &str, dtype: DType) -> Model {
    let team = Arc::new(Team::new(2).unwrap());
    let base = Checkpoint::open(&golden(&format!("llama_kvpress/{model}"))).unwrap();
    let checkpoint = base.with_adapter(Adapter::open(&golden(&format!("lora/{model}"))).unwrap()).unwrap();
    let decoder = Arc::new(Decoder::load(&team, &checkpoint, dtype).unwrap());
    Model { checkpoint, decoder, team }
}

#[test]
fn merged_adapters_give_pefts_logits_for_every_family() {
    for name in ["gpt2m", "llama", "mistral", "qwen2", "qwen3"] {
        let model = with_adapter(name, DType::F32);
        let vectors = TensorFile::open(&golden(&format!("lora/{name}/vectors.safetensors"))).unwrap();
        let ids = ids(&vectors, "ids");
        let found = model.evaluate(&KeepAll, &ids, ids.len()).logits;
        let off = distance(&found, &floats(&vectors, "logits"));
        assert!(off <= LOGITS, "{name}: logits off by {off}");
        let base = Model::open(&format!("llama_kvpress/{name}"));
        let dense = base.evaluate(&KeepAll, &ids, ids.len()).logits;
        assert!(distance(&found, &dense) > 100.0 * LOGITS, "{name}: the adapter changes nothing");
    }
}

#[test]
fn a_model_with_an_adapter_has_another_fingerprint_than_its_base() {
    let base = Model::open("llama_kvpress/llama").checkpoint.fingerprint().unwrap();
    let merged = with_adapter("llama", DType::F32).checkpoint.fingerprint().unwrap();
    assert_eq!(base.differences(&merged).len(), 1, "only the weights differ");
}
