//! Gradients at the embeddings of a prompt's tokens, against those of LeaF's own code (tests/golden/leaf).

use std::path::{Path, PathBuf};

use dropcap_kernels::Team;
use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_model::Checkpoint;
use dropcap_weights::TensorFile;
use serde_json::Value;

use crate::backend::{Backend, Pass, Processor, Room};
use crate::collective::Alone;
use crate::network::{Network, Pruning, Pull};
use crate::select::difference;

/// Of the largest number of each list, as its README says of f32.
const TOLERANCE: f64 = 1e-5;

fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

fn close(what: &str, got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= TOLERANCE * largest, "{what}: {got} {expected}");
    }
}

/// Norms of the gradients of the mean loss of the answer that begins at `from`, and that loss.
fn norms(model: &str, ids: &[u32], from: usize) -> (Vec<f64>, f64) {
    let checkpoint = Checkpoint::open(&golden("llama_kvpress").join(model)).unwrap();
    let network =
        Network::new(checkpoint.config(), checkpoint.plan(), None, &[]).unwrap().with_held_weights();
    let values = network.layout().read(&checkpoint).unwrap();
    let room = Room { sequences: 1, tokens: ids.len(), recompute: false };
    let mut backend = Processor::new(Team::new(2).unwrap(), network, None, room, Vec::new(), values);
    let target = |row: usize| if row + 1 >= from && row + 1 < ids.len() { ids[row + 1] } else { IGNORE };
    let targets: Vec<u32> = (0..ids.len()).map(target).collect();
    backend
        .pass(&Pass {
            ids,
            targets: &targets,
            pruning: &Pruning::Dense,
            pull: Pull::None,
            scale: 1.0 / (ids.len() - from) as f32,
            distill: 0.0,
            part: 0,
            parts: 1,
        })
        .unwrap();
    let loss = backend.gather(&[], &mut Alone).unwrap().loss.mean();
    let gradients = backend.input_gradients().unwrap();
    let rows = gradients.chunks(gradients.len() / ids.len());
    let norm = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    (rows.map(norm).collect(), loss)
}

#[test]
fn what_a_prompts_tokens_mean_to_student_and_teacher_is_what_the_published_code_finds() {
    let file = TensorFile::open(&golden("leaf/vectors.safetensors")).unwrap();
    let doubles = |name: &str| -> Vec<f64> {
        let mut bytes = Vec::new();
        file.read_bytes(name, &mut bytes).unwrap();
        bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    };
    let index: Value = serde_json::from_slice(&std::fs::read(golden("leaf/index.json")).unwrap()).unwrap();
    let cases = index["gradients"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for (number, case) in cases.iter().enumerate() {
        let integer = |value: &Value| value.as_u64().unwrap() as usize;
        let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| integer(id) as u32).collect();
        let span = integer(&case["span"][0])..integer(&case["span"][1]);
        let mut prompts = Vec::new();
        for who in ["student", "teacher"] {
            let model = case[who].as_str().unwrap();
            let (norms, loss) = norms(model, &ids, integer(&case["answer_starts_at"]));
            let name = format!("grad{number}.{model}");
            close(&name, &norms, &doubles(&format!("{name}.raw_norm")));
            close(&name, &[loss], &[index["losses"][&name].as_f64().unwrap()]);
            prompts.push(norms[span.clone()].to_vec());
        }
        let found = difference(&prompts[0], &prompts[1]);
        close(&format!("grad{number}"), &found, &doubles(&format!("grad{number}.diff01")));
    }
}
