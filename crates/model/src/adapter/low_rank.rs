//! The product of two thin matrices, added to some rows of a weight.

use std::borrow::Cow;
use std::ops::Range;

use dropcap_kernels::Orientation;

/// What an adapter adds to one weight: `scale B A` (Hu et al. 2021, arXiv 2106.09685, section 4.1).
#[derive(Debug, Clone)]
pub struct LowRank<'a> {
    /// `[r, inputs]`.
    pub a: Cow<'a, [f32]>,
    /// `[outputs, r]`.
    pub b: Cow<'a, [f32]>,
    /// r, at least 1.
    pub rank: usize,
    /// Inputs of the weight.
    pub inputs: usize,
    /// How the weight is stored.
    pub orientation: Orientation,
    /// What the product is multiplied by.
    pub scale: f32,
}

impl LowRank<'_> {
    /// Adds its part to rows `rows` of the stored weight, whose numbers `values` are, row by row.
    ///
    /// The product is summed on its own, in f32 and ascending r, and rounded into the weight once.
    pub fn add_to_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        if rows.is_empty() {
            return;
        }
        let width = values.len() / rows.len();
        let (mut sum, mut column) = (vec![0.0; width], vec![0.0; self.rank]);
        for (row, values) in rows.zip(values.chunks_exact_mut(width)) {
            match self.orientation {
                Orientation::OutputsByInputs => {
                    sum.fill(0.0);
                    let factors = &self.b[row * self.rank..][..self.rank];
                    for (&factor, a) in factors.iter().zip(self.a.chunks_exact(self.inputs)) {
                        sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
                    }
                }
                Orientation::InputsByOutputs => {
                    let a = self.a[row..].iter().step_by(self.inputs);
                    column.iter_mut().zip(a).for_each(|(to, a)| *to = *a);
                    for (sum, b) in sum.iter_mut().zip(self.b.chunks_exact(self.rank)) {
                        *sum = b.iter().zip(&column).fold(0.0, |sum, (b, a)| sum + b * a);
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
                let product = LowRank { a: (&a[..]).into(), b: (&b[..]).into(), rank, inputs, orientation, scale };
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
