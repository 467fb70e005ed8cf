//! A model whose numbers go wrong for some texts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should fail")]

mod support;

use std::fs;
use std::thread;

use dropcap_kernels::DType;
use serde_json::{Value, json};
use support::{Model, Setup};
use tempfile::TempDir;

const PATH: &str = "/v1/completions";
/// The position at which the damaged model leaves the range of its numbers.
const DAMAGED: usize = 40;

/// The carried model with the largest bf16 numbers in the embedding of one position: their sum is infinite.
fn damaged() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(support::directory()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let (_, positions) =
        tensors.as_object().unwrap().iter().find(|(name, _)| name.ends_with("wpe.weight")).unwrap();
    assert_eq!(positions["dtype"], "BF16");
    let row = 2 * positions["shape"][1].as_u64().unwrap() as usize;
    let first = header + positions["data_offsets"][0].as_u64().unwrap() as usize + DAMAGED * row;
    for number in bytes[first..first + row].chunks_exact_mut(2) {
        number.copy_from_slice(&[0x7f, 0x7f]);
    }
    fs::write(&path, bytes).unwrap();
    folder
}

#[test]
fn numbers_that_go_wrong_end_one_request_and_no_other() {
    let folder = damaged();
    let model: &'static Model = Box::leak(Box::new(Model::at(folder.path(), DType::F32)));
    let server = Setup { model, policy: model.method("none"), ..Setup::default() }.start();
    let body = |prompt: usize, max_tokens: usize, stream: bool| json!({"prompt": vec![7; prompt], "max_tokens": max_tokens, "ignore_eos": true, "stream": stream});
    let (streamed, whole) = thread::scope(|scope| {
        let streamed = scope.spawn(|| server.post(PATH, &body(DAMAGED - 9, 100, true)));
        let whole = scope.spawn(|| server.post(PATH, &body(DAMAGED - 9, 100, false)));
        // In the same steps, and never at that position.
        for _ in 0..4 {
            let answer = server.ask(PATH, &body(3, DAMAGED - 4, false));
            assert_eq!(answer["usage"]["completion_tokens"], DAMAGED - 4);
        }
        (streamed.join().unwrap(), whole.join().unwrap())
    });
    assert_eq!(whole.status, 500, "{}", whole.text());
    assert_eq!(whole.json()["error"]["type"], "server_error");
    // What came before stays, and the stream says why it ends.
    let events = streamed.events();
    assert!(events.len() > 1 && events.last().unwrap().contains("server_error"), "{events:?}");
    server.settle();
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("dropcap_nonfinite_logits_total"), 2.0);
}
