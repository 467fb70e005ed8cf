//! A cache of codes on the device.

use std::sync::Arc;

use dropcap_engine::{EngineOptions, evaluate};
use dropcap_kernels::{DType, KvFormat};
use dropcap_model::device::{DeviceDecoder, DeviceOptions};
use dropcap_policy::{EvictionPolicy, KeepAll};

use super::on_device::{OnDevice, device};
use super::support::{MODELS, Model};
use super::{greedy, texts};

const TEXT: u32 = 97;

/// The root of the mean square of differences.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    (a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64).sqrt()
}

/// Rows of codes are whole words there.
fn folders() -> impl Iterator<Item = &'static str> {
    MODELS.into_iter().filter(|folder| Model::open(folder).decoder.config().head_dim.is_multiple_of(8))
}

#[test]
fn cuda_codes_are_those_of_the_processor_up_to_what_they_lose() {
    let Some(device) = device("cuda_codes_are_those_of_the_processor_up_to_what_they_lose") else { return };
    let text: Vec<u32> = (0..TEXT).map(|i| i * 29 % 97).collect();
    for folder in folders() {
        let mut model = OnDevice::open(&device, folder, DType::F32);
        let policies: [Arc<dyn EvictionPolicy>; 3] = [
            Arc::new(KeepAll),
            model.host.method("streaming_llm(sinks=3, recent=17)"),
            model.host.method("simulate(keep=0.3, width=5)"),
        ];
        for format in [KvFormat::Q8, KvFormat::Q4] {
            model.kv_dtype = format;
            for policy in &policies {
                let policy = policy.as_ref();
                let exact = model.host.evaluate(policy, &text, 97);
                let pool = model.host.decoder.page_pool(policy, format, None).unwrap();
                for chunk in [1, 33, 97] {
                    let what = format!("{folder} {format} {policy:?} chunks of {chunk}");
                    let (decoder, team) = (&model.host.decoder, &model.host.team);
                    let host = evaluate(decoder, team, policy, &pool, &text, chunk).unwrap();
                    let found = model.evaluate(policy, &text, chunk);
                    assert_eq!(found.expires_at, host.expires_at, "{what}");
                    assert_eq!(found.report.live_entries, host.report.live_entries, "{what}");
                    // The processor's rows of values are lines of 32 dimensions, also of a head that has fewer.
                    assert!(found.report.dense_bytes <= host.report.dense_bytes, "{what}");
                    // A last bit of f32 may take the code beside, and what that changes is coded again in the next layer: so two
                    // runs differ by as much as one loses, and not by more.
                    let lost = apart(&host.logits, &exact.logits);
                    let off = apart(&found.logits, &host.logits);
                    assert!(lost > 0.0 && off <= 1.5 * lost, "{what}: {off} apart, {lost} lost");
                }
            }
        }
    }
}

#[test]
fn cuda_codes_serve_ragged_batches_and_give_their_pages_back() {
    let Some(device) = device("cuda_codes_serve_ragged_batches_and_give_their_pages_back") else { return };
    let mut model = OnDevice::open(&device, "llama_kvpress/llama", DType::F32);
    let requests: Vec<_> =
        (0..7u32).map(|i| greedy((0..5 + 11 * i).map(|j| (i + j * 13) % 97).collect(), 40)).collect();
    for format in [KvFormat::Q8, KvFormat::Q4] {
        model.kv_dtype = format;
        for spec in ["none", "streaming_llm(sinks=2, recent=20)"] {
            let policy = model.host.method(spec);
            let alone: Vec<Vec<u32>> = requests
                .iter()
                .map(|one| {
                    let mut engine = model.engine(policy.clone(), EngineOptions::default());
                    texts(&mut engine, std::slice::from_ref(one)).remove(0)
                })
                .collect();
            let options = EngineOptions { chunk: 256, max_batch: 7, ..EngineOptions::default() };
            let mut engine = model.engine(policy, options);
            let together = texts(&mut engine, &requests);
            // Batches round products otherwise, and a code beside may turn a near tie; whole texts of nonsense would not.
            let same = together.iter().zip(&alone).filter(|(a, b)| a == b).count();
            assert!(same >= 5, "{format} {spec}: {same} of 7 texts are those that each has alone");
            assert_eq!(engine.usage().unwrap().held_bytes, 0, "{format} {spec}");
        }
    }
}

#[test]
fn cuda_methods_that_rank_keep_as_much_over_codes() {
    let Some(device) = device("cuda_methods_that_rank_keep_as_much_over_codes") else { return };
    let text: Vec<u32> = (0..TEXT).map(|i| i * 37 % 97).collect();
    for folder in ["llama_kvpress/llama", "llama_kvpress/qwen3"] {
        let mut model = OnDevice::open(&device, folder, DType::F32);
        for format in [KvFormat::Q8, KvFormat::Q4] {
            model.kv_dtype = format;
            for spec in [
                "knorm@20",
                "keydiff@0.3",
                "snapkv(window=9, kernel=3)@0.3",
                "h2o(when=every_query, recent=6)@19",
                "expected_attention(future=9)@0.3",
                "lagkv(lag=8)@0.4",
                "compactor(chunk=16, sketch=6)@0.3",
                "ada(snapkv)@0.2",
            ] {
                let policy = model.host.method(spec);
                let pool = model.host.decoder.page_pool(policy.as_ref(), format, None).unwrap();
                let (decoder, team) = (&model.host.decoder, &model.host.team);
                let host = evaluate(decoder, team, policy.as_ref(), &pool, &text, 97).unwrap();
                let found = model.evaluate(policy.as_ref(), &text, 97);
                // A code beside moves a score by a hundredth; what stays is mostly the same, and as much.
                let (kept, wanted) = (found.report.live_entries, host.report.live_entries);
                assert_eq!(kept, wanted, "{folder} {format} {spec}");
                let entries = host.expires_at.iter().flatten().zip(found.expires_at.iter().flatten());
                let (same, all) =
                    entries.fold((0, 0), |(same, all), (a, b)| (same + usize::from(a == b), all + 1));
                assert!(
                    10 * same >= 9 * all,
                    "{folder} {format} {spec}: {same} of {all} ends are the host's"
                );
            }
        }
    }
}

#[test]
fn cuda_methods_that_turn_keys_are_refused_over_codes() {
    let Some(device) = device("cuda_methods_that_turn_keys_are_refused_over_codes") else { return };
    let model = OnDevice::open(&device, "llama_kvpress/llama", DType::F32);
    for spec in ["key_rerotation(knorm)@10", "streaming_llm(sinks=3, recent=20, positions=cache)"] {
        let options = DeviceOptions {
            kv_dtype: KvFormat::Q8,
            kv_limit: Some(64 << 20),
            chunk: 64,
            max_batch: 1,
            deaths: false,
            logit_rows: 1,
            kept: 0,
        };
        let policy = model.host.method(spec);
        let error =
            DeviceDecoder::new(model.weights.clone(), policy.as_ref(), options).unwrap_err().to_string();
        let words = ["turns keys", "q8", "--kv-dtype", "--device cpu"];
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
