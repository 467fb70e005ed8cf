//! Logits that are no numbers end the request that they are of, and no other.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use crate::support::{Model, Running, Setup};
use dropcap_kernels::DType;
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
/// Tokens after which the model of these tests breaks.
const BREAKS: usize = 50;

/// The GPT-2 of the golden vectors; the sum over the learned vector of one position is more than f32 holds.
fn broken() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/gpt2_dcp"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("breaks_at_a_position");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(golden.join(name), folder.join(name)).unwrap();
        }
        fill_position(&folder.join("model.safetensors"), BREAKS, 3e38);
        Model::at(&folder, DType::F32)
    })
}

/// Overwrites what the model knows of one position.
fn fill_position(path: &Path, position: usize, number: f32) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let table = &tensors["transformer.wpe.weight"];
    assert_eq!(table["dtype"], "F32");
    let (width, start) = (&table["shape"][1], &table["data_offsets"][0]);
    let (width, start) = (width.as_u64().unwrap() as usize, start.as_u64().unwrap() as usize);
    let row = header + start + position * width * size_of::<f32>();
    bytes[row..row + width * size_of::<f32>()].copy_from_slice(&number.to_le_bytes().repeat(width));
    std::fs::write(path, bytes).unwrap();
}

fn server() -> Running {
    let model = broken();
    Setup { model, policy: model.method("none"), ..Setup::default() }.start()
}

/// A request whose text ends after so many tokens, its prompt's included.
fn request(prompt: usize, end: usize) -> Value {
    let ids: Vec<usize> = (0..prompt).map(|i| 1 + i * 7 % 90).collect();
    json!({"prompt": ids, "max_tokens": end - prompt, "temperature": 0, "ignore_eos": true})
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = true.into();
    body
}

#[test]
fn logits_that_are_no_numbers_end_their_request_alone() {
    let server = server();
    // The last token of a text does not go through the model.
    let healthy = [request(10, BREAKS), request(30, BREAKS), request(BREAKS - 1, BREAKS)];
    let alone: Vec<Value> = healthy.iter().map(|body| server.ask(PATH, body)["choices"].take()).collect();
    thread::scope(|scope| {
        let server = &server;
        let texts: Vec<_> = healthy.iter().map(|body| scope.spawn(move || server.ask(PATH, body))).collect();
        let long = request(40, BREAKS + 20);
        let whole = scope.spawn({
            let long = long.clone();
            move || server.refusal(PATH, &long)
        });
        let stream = scope.spawn(move || server.post(PATH, &streamed(long)));
        // A prompt that is too long already has no token at all.
        let prompt = scope.spawn(move || server.refusal(PATH, &request(BREAKS + 5, BREAKS + 6)));
        for refusal in [whole, prompt] {
            let (status, error) = refusal.join().unwrap();
            assert_eq!((status, error["code"].as_str()), (500, Some("non_finite_logits")), "{error}");
        }
        let stream = stream.join().unwrap();
        let mut events = stream.events();
        let last: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
        assert_eq!(last["error"]["code"], "non_finite_logits", "{last}");
        // What came before is there: tokens from position 40 to the one that broke.
        assert_eq!(stream.status, 200);
        assert!(!events.is_empty() && !events.contains(&"[DONE]".to_owned()), "{events:?}");
        for (text, alone) in texts.into_iter().zip(&alone) {
            assert_eq!(&text.join().unwrap()["choices"], alone);
        }
    });
    server.settle();
    assert_eq!(server.metric("dropcap_nonfinite_logits_total"), 3.0);
    // It serves on.
    assert_eq!(&server.ask(PATH, &healthy[0])["choices"], &alone[0]);
    assert_eq!(server.get("/health").status, 200);
}
