//! The oracle: the same product with f64 sums, element by element.

use super::{Epilogue, PackedMatrix};
use crate::activation::reference::{gelu_erf, gelu_tanh};

/// What `matmul` promises, in f64; `before` is what `out` held.
pub(crate) fn matmul(
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    before: &[f32],
) -> Vec<f64> {
    let mut row = vec![0.0; w.inputs()];
    let mut out = vec![0.0; before.len()];
    for output in 0..w.outputs() {
        w.row(output, &mut row);
        for (i, x) in x.chunks(w.inputs()).enumerate() {
            let sum: f64 = x.iter().zip(&row).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            let sum = sum + bias.map_or(0.0, |bias| f64::from(bias[output]));
            let at = i * w.outputs() + output;
            out[at] = match epilogue {
                Epilogue::Store => sum,
                Epilogue::Add => f64::from(before[at]) + sum,
                Epilogue::GeluTanh => gelu_tanh(sum),
                Epilogue::Gelu => gelu_erf(sum),
            };
        }
    }
    out
}
