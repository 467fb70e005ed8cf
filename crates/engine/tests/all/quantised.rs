//! Weights in blocks, beside the same weights as numbers. The files were written by the `gguf` package.

use crate::support::{Model, distance};
use dropcap_kernels::DType;
use dropcap_model::WeightFormat;

const FILES: [(&str, &str); 2] = [("gguf/llama.gguf", "Q4_1"), ("gguf/mistral_sw24.gguf", "Q8_0")];

fn prompt(model: &Model) -> Vec<u32> {
    let vocabulary = model.checkpoint.config().vocabulary as u32;
    (0..48).map(|at| (at * 37 + 5) % vocabulary).collect()
}

fn logits(model: &Model, chunk: usize) -> Vec<f32> {
    let policy = model.method("none");
    model.evaluate(policy.as_ref(), &prompt(model), chunk).logits
}

fn root_mean_square(numbers: &[f32]) -> f32 {
    (numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32).sqrt()
}

#[test]
fn blocks_of_a_file_stay_as_they_are_and_compute_what_their_numbers_compute() {
    for (file, format) in FILES {
        let [blocks, numbers] =
            [WeightFormat::Auto, DType::F32.into()].map(|format: WeightFormat| Model::open_as(file, format));
        assert_eq!((blocks.decoder.formats().as_str(), numbers.decoder.formats().as_str()), (format, "f32"));
        // A number of 4 bits takes 5 with its scale and least value, one of 8 takes 8.5.
        assert!(blocks.decoder.streamed_bytes() * 3 < numbers.decoder.streamed_bytes());
        let (blocks, numbers) = (logits(&blocks, 16), logits(&numbers, 16));
        let size = root_mean_square(&numbers);
        let apart: Vec<f32> = blocks.iter().zip(&numbers).map(|(a, b)| a - b).collect();
        // Activations have 8 bits: each is off by a half percent of what is usual in its 32, a few times in each layer.
        let far = root_mean_square(&apart);
        assert!(far > 0.0 && far < 0.05 * size, "{file}: {far} of logits around {size}");
    }
}

#[test]
fn chunks_of_a_prompt_do_not_change_a_bit() {
    for format in [WeightFormat::Auto, WeightFormat::Q8] {
        let model = Model::open_as("gguf/llama.gguf", format);
        let whole = logits(&model, 48);
        for chunk in [1, 7, 32] {
            assert!(logits(&model, chunk) == whole, "{format}: chunks of {chunk}");
        }
    }
}

#[test]
fn a_model_is_quantised_while_it_is_loaded() {
    let sizes = [DType::F32.into(), WeightFormat::Q8, WeightFormat::Q4].map(|format: WeightFormat| {
        let model = Model::open_as("llama_kvpress/llama", format);
        (model.decoder.formats(), model.decoder.streamed_bytes(), logits(&model, 48))
    });
    let [(_, whole, numbers), (eight, bytes, near), (four, fewer, far)] = sizes;
    assert_eq!((eight.as_str(), four.as_str()), ("Q8_0", "Q4_1+Q8_0"));
    assert!(bytes * 3 < whole && fewer < bytes);
    let (near, far) = (distance(&near, &numbers), distance(&far, &numbers));
    assert!(near < far, "8 bits are off by {near}, 4 bits by {far}");
}
