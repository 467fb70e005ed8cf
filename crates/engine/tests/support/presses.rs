//! The presses of NVIDIA/kvpress whose vectors lie in `tests/golden/llama_kvpress`, and what tests compare with them.

use serde_json::Value;

/// From the README of the vectors, while the kept sets agree.
pub const LOGITS: f32 = 2e-4;
/// Models that they were run on.
pub const MODELS: [&str; 5] = ["llama", "llama31_rope", "mistral", "qwen2", "qwen3"];
/// The name there and ours, with what `@` stands for.
pub const METHODS: [(&str, &str); 12] = [
    ("knorm", "knorm@"),
    ("keydiff", "keydiff@"),
    ("tova", "tova@"),
    ("observed_attention", "observed_attention@"),
    ("snapkv", "snapkv(window=16)@"),
    ("expected_attention", "expected_attention(future=64)@"),
    ("expected_attention_nocov", "expected_attention(future=64, covariance=false, value_norm=false)@"),
    ("expected_attention_eps", "expected_attention(sinks=2, future=48, epsilon=0.01)@"),
    ("lagkv_cross", "lagkv(lag=16, across=true)@"),
    ("pyramidkv", "pyramid(snapkv(window=8), beta=10)@"),
    ("adakv_snapkv", "ada(snapkv(window=16), floor=0.2)@"),
    ("adakv_keydiff", "ada(keydiff, floor=0.3)@"),
];

/// The same for those that turn keys to consecutive positions.
pub const TURNED: [(&str, &str); 2] = [
    ("key_rerotation_knorm", "key_rerotation(knorm)@"),
    ("key_rerotation_streaming", "streaming_llm(sinks=4, when=prefill_end, positions=cache)@"),
];

/// Cases whose cut lies between two scores that differ by less than 1e-7, where float32 may take the other one.
pub const CLOSE: [(&str, &str); 3] = [
    ("llama31_rope", "snapkv.r0.5"),
    ("mistral", "snapkv.r0.5"),
    ("mistral", "expected_attention_nocov.r0.8"),
];

/// Positions of a bitmap in hexadecimal, least significant bit first.
pub fn positions(bitmap: &Value) -> Vec<u32> {
    let digits = bitmap.as_str().unwrap().as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    let set = |(index, byte): (usize, u8)| {
        (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * index as u32 + bit)
    };
    bytes.enumerate().flat_map(set).collect()
}

/// Whether what stays of each layer and head is what a case says. In the close cases one entry of a head may be another, and
/// then what follows sees another entry.
///
/// # Panics
/// Other entries.
pub fn stays_as_there(model: &str, name: &str, case: &Value, kept: &[Vec<Vec<u32>>]) -> bool {
    let mut same = true;
    for (layer, (found, wanted)) in kept.iter().zip(case["kept"].as_array().unwrap()).enumerate() {
        let wanted: Vec<Vec<u32>> = wanted.as_array().unwrap().iter().map(positions).collect();
        if *found == wanted {
            continue;
        }
        let others = |(found, wanted): (&Vec<u32>, &Vec<u32>)| {
            found.iter().filter(|position| !wanted.contains(position)).count()
        };
        let most = found.iter().zip(&wanted).map(others).max();
        let close = CLOSE.contains(&(model, name)) && most <= Some(1);
        assert!(close, "{model} {name} layer {layer}: {found:?}, not {wanted:?}");
        same = false;
    }
    same
}
