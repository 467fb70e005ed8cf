//! What the cache of inference makes of the numbers that it stores.

use dropcap_kernels::DType;
use half::{bf16, f16};

/// Rounds numbers as a page of `dtype` holds them; gradients pass straight through.
///
/// A decision is a sign, so a gate that stands near its threshold decides one way in f32 and the other way in 16 bits:
/// what is trained and measured must read what inference will read.
pub(super) fn round(dtype: DType, numbers: &mut [f32]) {
    match dtype {
        DType::F32 => {}
        DType::F16 => numbers.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        DType::Bf16 => numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropcap_kernels::PageLayout;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rounded_number_is_what_a_page_gives_back(bits in prop::collection::vec(any::<u32>(), 5)) {
            let row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            for dtype in DType::ALL {
                let layout = PageLayout::new(1, 1, vec![5], dtype).unwrap();
                let mut page = layout.zeroed_page().unwrap();
                layout.write_side(&mut page, 7, 0, &row).unwrap();
                let mut rounded = row.clone();
                round(dtype, &mut rounded);
                for (stored, rounded) in layout.read_side(&page, 7, 0).unwrap().iter().zip(&rounded) {
                    prop_assert!(stored.to_bits() == rounded.to_bits() || stored.is_nan() && rounded.is_nan());
                }
            }
        }
    }
}
