//! A step on a device takes the pages that are there, or is refused before anything is done. Skips loudly without a GPU.

use std::sync::Arc;

use super::on_device::device;
use super::support::Model;
use dropcap_kernels::DType;
use dropcap_model::ModelError;
use dropcap_model::device::{
    DeviceDecoder, DeviceOptions, DeviceSegment, DeviceWeights, Slot, SlotState, Wanted,
};
use dropcap_policy::{KeepAll, Stage};

/// A decoder over a pool of so many pages, or none where there is no device.
fn decoder(test: &str, pages: usize) -> Option<DeviceDecoder> {
    let device = device(test)?;
    let host = Model::open("llama_kvpress/llama");
    let weights = Arc::new(DeviceWeights::load(&device, &host.team, &host.checkpoint, DType::F32).unwrap());
    let options = |kv_limit| DeviceOptions {
        kv_dtype: DType::F32.into(),
        kv_limit,
        chunk: 64,
        max_batch: 3,
        deaths: false,
        logit_rows: 0,
        kept: 0,
    };
    let page = DeviceDecoder::new(weights.clone(), &KeepAll, options(Some(1 << 20))).unwrap().page_bytes();
    let decoder = DeviceDecoder::new(weights, &KeepAll, options(Some(pages * page))).unwrap();
    assert_eq!(decoder.capacity(), pages);
    Some(decoder)
}

fn layers(decoder: &DeviceDecoder) -> usize {
    decoder.config().layers * decoder.groups()
}

/// One step of `count` tokens for each slot; decoded if it is one.
fn feed(
    decoder: &mut DeviceDecoder,
    slots: &[&Slot],
    first_position: u32,
    count: usize,
) -> Result<Vec<SlotState>, ModelError> {
    let ids: Vec<u32> = (0..count as u32).map(|id| 3 + id % 50).collect();
    let wanted = if count == 1 { Wanted::Token { random: 0.0 } } else { Wanted::Nothing };
    let segment =
        |slot| DeviceSegment { slot, ids: &ids, first_position, stage: Stage::Behind, budget: None, wanted };
    let segments: Vec<_> = slots.iter().map(|slot| segment(slot)).collect();
    Ok(decoder.step(&segments, &mut |_| {})?.states)
}

fn refused(result: Result<Vec<SlotState>, ModelError>) -> (usize, usize) {
    match result {
        Err(ModelError::DevicePages { wanted, free, .. }) => (wanted, free),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cuda_a_step_that_the_pool_cannot_hold_is_refused_before_anything_is_done() {
    let test = "cuda_a_step_that_the_pool_cannot_hold_is_refused_before_anything_is_done";
    let Some(layers) = decoder(test, 100).as_ref().map(layers) else { return };
    // Room for two pages of every layer, and one page beside.
    let mut decoder = decoder(test, 2 * layers + 1).unwrap();
    let slots: Vec<Slot> = (0..3).map(|_| decoder.open().unwrap().unwrap()).collect();
    let (first, second) = (&slots[0], &slots[1]);
    let free = decoder.free_pages().unwrap();
    // A fresh sequence takes a page in every layer with its first token.
    assert_eq!(refused(feed(&mut decoder, &[first, second, &slots[2]], 0, 1)), (3 * layers, free));
    assert_eq!(refused(feed(&mut decoder, &[first], 0, 65)), (3 * layers, free));
    assert_eq!(decoder.live_entries(first).unwrap(), vec![0; decoder.config().layers]);
    // What fits to the last page runs, whole prompts and single tokens.
    let states = feed(&mut decoder, &[first], 0, 31).unwrap();
    assert_eq!(states, [SlotState { wanted: 0, pages: layers, live: 31 * layers, overflow: None }]);
    feed(&mut decoder, &[second], 0, 1).unwrap();
    assert_eq!(decoder.free_pages().unwrap(), 1);
    let states = feed(&mut decoder, &[first, second], 31, 1).unwrap();
    assert_eq!(states[0], SlotState { wanted: layers, pages: layers, live: 32 * layers, overflow: None });
    // Now every lane of the first is at the end of a page.
    let before: Vec<_> = [first, second].map(|slot| decoder.lifetimes(slot).unwrap()).into();
    for count in [1, 5] {
        assert_eq!(refused(feed(&mut decoder, &[first], 32, count)), (layers, 1));
        assert_eq!(refused(feed(&mut decoder, &[first, second], 32, count)), (layers, 1));
    }
    assert_eq!([first, second].map(|slot| decoder.lifetimes(slot).unwrap()).to_vec(), before);
    // Many tokens that the other still has room for are no more than they are: only the lengths themselves say so.
    feed(&mut decoder, &[second], 32, 29).unwrap();
    assert_eq!(decoder.free_pages().unwrap(), 1);
    drop(slots);
    assert_eq!(decoder.free_pages().unwrap(), 2 * layers + 1);
}

#[test]
fn cuda_filling_is_refused_as_a_step_is() {
    let test = "cuda_filling_is_refused_as_a_step_is";
    let Some(layers) = decoder(test, 100).as_ref().map(layers) else { return };
    let mut decoder = decoder(test, 3 * layers - 1).unwrap();
    let slots: Vec<Slot> = (0..2).map(|_| decoder.open().unwrap().unwrap()).collect();
    let error = decoder.fill(&[&slots[0]], 0, 65).unwrap_err();
    assert!(matches!(error, ModelError::DevicePages { wanted, .. } if wanted == 3 * layers), "{error}");
    let states = decoder.fill(&[&slots[0]], 0, 33).unwrap();
    assert_eq!(states, [SlotState { wanted: 0, pages: 2 * layers, live: 33 * layers, overflow: None }]);
    // A fresh slot takes a page in every layer with its first token.
    let error = decoder.fill(&[&slots[1]], 0, 1).unwrap_err();
    assert!(error.to_string().contains(&format!("{layers} pages")), "{error}");
    assert!(error.to_string().contains(&format!("{} of {} are free", layers - 1, 3 * layers - 1)), "{error}");
}

#[test]
fn cuda_a_step_takes_each_of_its_own_slots_once() {
    let test = "cuda_a_step_takes_each_of_its_own_slots_once";
    let Some(mut decoder_of) = decoder(test, 100) else { return };
    let mut other = decoder(test, 100).unwrap();
    let (own, foreign) = (decoder_of.open().unwrap().unwrap(), other.open().unwrap().unwrap());
    let error = feed(&mut decoder_of, &[&own, &own], 0, 1).unwrap_err();
    assert!(error.to_string().contains("slot 0 stands twice in one step"), "{error}");
    let error = feed(&mut decoder_of, &[&foreign], 0, 1).unwrap_err();
    assert!(error.to_string().contains("slot 0 belongs to another decoder"), "{error}");
    assert!(decoder_of.fill(&[&foreign], 0, 1).is_err());
    assert!(decoder_of.lifetimes(&foreign).is_err() && decoder_of.live_entries(&foreign).is_err());
    feed(&mut decoder_of, &[&own], 0, 1).unwrap();
}

#[test]
fn cuda_the_device_says_what_the_host_does_not_count() {
    let test = "cuda_the_device_says_what_the_host_does_not_count";
    let Some(layers) = decoder(test, 100).as_ref().map(layers) else { return };
    let mut decoder = decoder(test, 90 * layers).unwrap();
    let slot = decoder.open().unwrap().unwrap();
    // Positions that come again and again make lanes longer than a text can be.
    let limit = decoder.config().max_positions;
    let most = limit.next_multiple_of(32);
    let mut fed = 0;
    while fed + 64 <= most {
        feed(&mut decoder, &[&slot], 0, 64).unwrap();
        fed += 64;
    }
    let error = feed(&mut decoder, &[&slot], 0, 64).unwrap_err();
    assert!(matches!(error, ModelError::LanesRefused { lanes } if lanes == layers), "{error}");
    drop(slot);
    let slot = decoder.open().unwrap().unwrap();
    assert_eq!(decoder.free_pages().unwrap(), 90 * layers);
    feed(&mut decoder, &[&slot], 0, 1).unwrap();
}
