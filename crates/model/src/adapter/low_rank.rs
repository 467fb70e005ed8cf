//! The product of two thin matrices, added to some rows of a weight.

use std::ops::Range;

use dropcap_kernels::Orientation;

/// What an adapter adds to one weight: `scale * B A`.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// `[r, inputs]`.
    pub(super) a: Vec<f32>,
    /// `[outputs, r]`.
    pub(super) b: Vec<f32>,
    /// r.
    pub(super) rank: usize,
    pub(super) inputs: usize,
    /// How the weight is stored.
    pub(super) orientation: Orientation,
    pub(super) scale: f32,
}

impl LowRank {
    /// Adds its part to rows `rows` of the stored weight, whose numbers `values` are, row by row.
    ///
    /// The product is summed on its own, in f32 and ascending r, and rounded into the weight once.
    pub(crate) fn add_to_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        if rows.is_empty() {
            return;
        }
        let width = values.len() / rows.len();
        let mut sum = vec![0.0; width];
        for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
            sum.fill(0.0);
            match self.orientation {
                Orientation::OutputsByInputs => {
                    let factors = &self.b[row * self.rank..][..self.rank];
                    for (&factor, a) in factors.iter().zip(self.a.chunks_exact(self.inputs)) {
                        sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
                    }
                }
                Orientation::InputsByOutputs => {
                    for (output, sum) in sum.iter_mut().enumerate() {
                        let b = &self.b[output * self.rank..][..self.rank];
                        let a = self.a[row..].iter().step_by(self.inputs);
                        *sum = b.iter().zip(a).map(|(b, a)| a * b).sum();
                    }
                }
            }
            values.iter_mut().zip(&sum).for_each(|(value, sum)| *value += self.scale * sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_orientations_add_the_product_of_the_factors(
            (outputs, inputs, rank) in (1..7usize, 1..7usize, 1..4usize),
            first in 0..6usize,
            numbers in prop::collection::vec(-2.0f32..2.0, 100),
            scale in -3.0f32..3.0,
        ) {
            let a = numbers[..rank * inputs].to_vec();
            let b = numbers[50..][..outputs * rank].to_vec();
            let expected = |output: usize, input: usize| {
                let sum: f64 = (0..rank)
                    .map(|k| f64::from(b[output * rank + k]) * f64::from(a[k * inputs + input]))
                    .sum();
                1.0 + f64::from(scale) * sum
            };
            for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
                let by_outputs = orientation == Orientation::OutputsByInputs;
                let (rows, width) = if by_outputs { (outputs, inputs) } else { (inputs, outputs) };
                let first = first.min(rows - 1);
                let product = LowRank { a: a.clone(), b: b.clone(), rank, inputs, orientation, scale };
                let mut values = vec![1.0; (rows - first) * width];
                product.add_to_rows(first..rows, &mut values);
                for (at, &value) in values.iter().enumerate() {
                    let (row, column) = (first + at / width, at % width);
                    let expected = if by_outputs { expected(row, column) } else { expected(column, row) };
                    prop_assert!((f64::from(value) - expected).abs() < 1e-4, "{value} {expected}");
                }
            }
        }
    }
}
