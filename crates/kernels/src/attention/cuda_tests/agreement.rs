//! Each kernel, on ragged batches of all kinds.

use super::{Batch, LAYERS, Loaded, NEVER, check, shape, specialisations};
use crate::DType;
use crate::attention::cuda::DeviceAttention;
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, Specialisation, StepSize};
use crate::testing::Random;

#[test]
fn cuda_decode_agrees_with_the_reference() {
    let Some(device) = device("cuda_decode_agrees_with_the_reference") else { return };
    let random = &mut Random(11);
    let one = |entries| Some((entries, 1));
    for specialisation in specialisations() {
        // One kernel for all batches, so that what one leaves behind would show in the next.
        let attention = DeviceAttention::new(&device, &specialisation, 48).unwrap();
        let many: Vec<_> = (0..40).map(|i| if i % 7 == 5 { None } else { one(random.below(150)) }).collect();
        for sequences in [
            vec![one(1)],
            vec![one(33)],
            vec![one(3000)],
            vec![None, one(0), one(1), one(31), one(32), one(33), one(64), one(1100), one(0), None, None],
            vec![one(0), None],
            vec![one(700), one(1), one(2000)],
            many,
        ] {
            let batch = Batch::random(random, &specialisation, &sequences);
            check(&device, &batch, &attention, Loaded::decode);
        }
    }
}

#[test]
fn cuda_prefill_agrees_with_the_reference() {
    let Some(device) = device("cuda_prefill_agrees_with_the_reference") else { return };
    let random = &mut Random(12);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 80).unwrap();
        let many: Vec<_> = (0..70)
            .map(|i| if i % 9 == 4 { None } else { Some((1 + random.below(40), random.below(6))) })
            .collect();
        for sequences in [
            vec![Some((1, 1))],
            vec![Some((200, 130))],
            vec![Some((0, 3)), None, Some((33, 33)), Some((700, 20)), Some((31, 0)), Some((64, 1))],
            // More pages than a block lists at once.
            vec![Some((9000, 2))],
            many,
        ] {
            let batch = Batch::random(random, &specialisation, &sequences);
            check(&device, &batch, &attention, Loaded::prefill);
        }
    }
}

/// A prompt in order and without deaths, as most are: full, mixed and skipped pages side by side.
#[test]
fn cuda_prefill_is_causal() {
    let Some(device) = device("cuda_prefill_is_causal") else { return };
    let random = &mut Random(13);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 4).unwrap();
        let mut batch = Batch::random(random, &specialisation, &[Some((390, 300)), Some((45, 45))]);
        for (lanes, span) in &mut batch.sequences {
            for lane in lanes.iter_mut() {
                let entries = lane.positions.len() as u32;
                lane.positions = (0..entries).collect();
                lane.expires_at = vec![NEVER; entries as usize];
            }
            span.first_position = lanes[0].positions.len() as u32 - span.queries;
        }
        check(&device, &batch, &attention, Loaded::prefill);
    }
}

#[test]
fn cuda_queries_that_see_nothing_get_zeros() {
    let Some(device) = device("cuda_queries_that_see_nothing_get_zeros") else { return };
    let random = &mut Random(14);
    for specialisation in specialisations() {
        let attention = DeviceAttention::new(&device, &specialisation, 4).unwrap();
        let mut batch = Batch::random(random, &specialisation, &[Some((500, 1)), Some((70, 1))]);
        for (lanes, span) in &mut batch.sequences {
            lanes.iter_mut().for_each(|lane| lane.expires_at.fill(span.first_position));
        }
        for run in [Loaded::decode, Loaded::prefill] {
            let loaded = Loaded::new(&device, &batch);
            loaded.poison();
            run(&loaded, &attention);
            let out = loaded.mixed();
            assert!(out[..batch.query.len()].iter().all(|x| x.to_bits() == 0), "{specialisation:?}");
        }
    }
}

#[test]
fn cuda_attention_refuses_what_does_not_fit() {
    let Some(device) = device("cuda_attention_refuses_what_does_not_fit") else { return };
    let specialisation = shape(DType::F32, DType::F16, (8, 2), 1, 64);
    let attention = DeviceAttention::new(&device, &specialisation, 2).unwrap();
    let loaded = Loaded::empty(&device, &specialisation, 4, 4, 1);
    let call = |size: StepSize, layer, mixed: &DeviceBuffer<u8>| {
        let lanes = &loaded.lanes;
        attention.decode(lanes, &loaded.step, size, layer, 1.0, &loaded.qkv, mixed, None).is_err()
    };
    let size = StepSize { rows: 2, spans: 2 };
    let short = DeviceBuffer::uninitialized(&device, "a test", 100).unwrap();
    assert!(!call(size, 1, &loaded.mixed));
    assert!(call(StepSize { rows: 3, spans: 3 }, 1, &loaded.mixed), "more spans than it was made for");
    assert!(call(StepSize { rows: 1, spans: 2 }, 1, &loaded.mixed), "fewer rows than spans");
    assert!(call(size, LAYERS, &loaded.mixed), "a layer too far");
    assert!(call(size, 1, &short), "no room for the result");
    for odd in [
        Specialisation { query_heads: 7, ..specialisation },
        Specialisation { groups: 3, ..specialisation },
        Specialisation { head_dim: 257, ..specialisation },
    ] {
        assert!(DeviceAttention::new(&device, &odd, 2).is_err(), "{odd:?}");
    }
    device.synchronize().unwrap();
}

#[test]
fn cuda_one_sequence_may_have_any_number_of_pages() {
    let Some(device) = device("cuda_one_sequence_may_have_any_number_of_pages") else { return };
    let random = &mut Random(16);
    for specialisation in [
        shape(DType::F32, DType::F16, (8, 2), 1, 64),
        shape(DType::Bf16, DType::Bf16, (32, 8), 1, 128),
        shape(DType::F16, DType::Bf16, (4, 4), 4, 80),
    ] {
        let attention = DeviceAttention::new(&device, &specialisation, 1).unwrap();
        for pages in 1..=40 {
            let entries = 32 * pages - random.below(32);
            let batch = Batch::random(random, &specialisation, &[Some((entries, 1))]);
            check(&device, &batch, &attention, Loaded::decode);
        }
    }
}
