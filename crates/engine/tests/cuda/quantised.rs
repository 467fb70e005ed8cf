//! Weights in blocks on a device: what their numbers compute, but for activations of bf16.

use std::collections::BTreeSet;
use std::sync::Arc;

use dropcap_engine::EngineOptions;
use dropcap_model::WeightFormat;
use dropcap_policy::KeepAll;

use super::support::Model;
use super::{BF16, OnDevice, device, greedy, texts};

/// Files that the `gguf` package wrote, and how they are held.
const FILES: [(&str, &str); 2] = [("gguf/llama.gguf", "Q4_1"), ("gguf/mistral_sw24.gguf", "Q8_0")];

/// The error of all logits against their size.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn cuda_blocks_of_a_file_stay_as_they_are_and_compute_what_their_numbers_compute() {
    let name = "cuda_blocks_of_a_file_stay_as_they_are_and_compute_what_their_numbers_compute";
    let Some(device) = device(name) else { return };
    for (file, format) in FILES {
        let (numbers, model) = (Model::open(file), OnDevice::open(&device, file, WeightFormat::Auto));
        assert_eq!(model.weights.formats(), format);
        assert_eq!(model.weights.formats(), model.host.decoder.formats());
        // A number of 4 bits takes 5 with its scale and least value, one of 8 takes 8.5.
        assert!(model.weights.streamed_bytes() * 3 < numbers.decoder.streamed_bytes());
        let vocabulary = numbers.checkpoint.config().vocabulary as u32;
        let text: Vec<u32> = (0..97).map(|at| (at * 37 + 5) % vocabulary).collect();
        let expected = numbers.evaluate(&KeepAll, &text, 97);
        // One row, some, as many as several readings of the weights take, and as many as are multiplied as numbers.
        for chunk in [1, 12, 33, 97] {
            let found = model.evaluate(&KeepAll, &text, chunk);
            assert_eq!(found.logits.len(), expected.logits.len());
            let off = off(&found.logits, &expected.logits);
            assert!(off > 0.0 && off <= BF16, "{file} in chunks of {chunk}: off by {off}");
        }
    }
}

#[test]
fn cuda_a_model_is_quantised_while_it_is_loaded_as_on_the_processor() {
    let name = "cuda_a_model_is_quantised_while_it_is_loaded_as_on_the_processor";
    let Some(device) = device(name) else { return };
    // Gates, biases, turned matrices and learned positions in blocks; and a model 48 wide, of which one matrix is whole blocks.
    for folder in ["llama_kvpress/llama", "llama_kvpress/qwen2", "llama_kvpress/gpt2m", "gpt2_dcp"] {
        for format in [WeightFormat::Q8, WeightFormat::Q4] {
            let model = OnDevice::open(&device, folder, format);
            // What is no whole blocks has the dtype of activations, and then fewer bytes than others.
            let sorted = |formats: &str| formats.split('+').map(str::to_owned).collect::<BTreeSet<_>>();
            let held = model.host.decoder.formats().replace("f32", "bf16");
            let on_device = model.weights.formats();
            assert!(held.contains('Q') && sorted(&on_device) == sorted(&held), "{folder} {format}: {held}");
            let text: Vec<u32> = (0..80).map(|i| i * 31 % 97).collect();
            // The processor's products round activations to 8 bits, an error of its own.
            let expected = model.host.evaluate(&KeepAll, &text, 80);
            for chunk in [1, 20, 80] {
                let found = model.evaluate(&KeepAll, &text, chunk);
                let off = off(&found.logits, &expected.logits);
                assert!(off <= 3.0 * BF16, "{folder} {format} in chunks of {chunk}: off by {off}");
            }
            // Steps of one token and of a batch, recorded.
            let mut engine = model.engine(Arc::new(KeepAll), EngineOptions::default());
            let requests: Vec<_> = (0..3).map(|i| greedy(text[i..20 + 2 * i].to_vec(), 8)).collect();
            let together = texts(&mut engine, &requests);
            assert!(together.iter().all(|text| text.len() == 8), "{folder} {format}");
        }
    }
}
