use dropcap_kernels::DType;

use super::result::infer;
use super::{BIRTH, Warnings, Workshop, begin};
use crate::network::Group;
use crate::signals::Stop;
use crate::trainer::{Pressure, Trainer};

const CHANGES: [&str; 4] =
    ["init.layers=4", "sparsity.budgets=uniform", "sparsity.target_keep=0.4", "gates.scale=none"];

/// A trainer whose layers' gates are spread over a wide range and whose attention moves the residual stream so much that
/// what a layer keeps depends on what those below it forget.
fn entangled(workshop: &Workshop, changes: &[&str]) -> Trainer {
    let mut trainer = workshop.trainer(&workshop.config("run", &[&CHANGES[..], changes].concat()));
    let mut state = 9_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let mut all = super::values(&mut trainer);
    for slot in trainer.backend.layout().slots() {
        let values = &mut all[slot.range.clone()];
        if slot.group == Group::Gates && slot.name.ends_with("weight") {
            values.fill_with(&mut uniform);
        } else if slot.name.contains("attn") {
            values.iter_mut().for_each(|value| *value *= 12.0);
        }
    }
    trainer.backend.load(&all, None).unwrap();
    trainer
}

fn set_shifts(trainer: &mut Trainer, shifts: &[f32]) {
    let Pressure::Controlled(controller) = &mut trainer.pressure else { panic!("no controller") };
    controller.set_shifts(shifts);
}

fn settle(trainer: &mut Trainer) -> super::super::Settled {
    trainer.settle().unwrap().unwrap()
}

#[test]
fn layers_that_depend_on_each_other_keep_at_most_their_targets_together() {
    let workshop = Workshop::new();
    for changes in [&[][..], &BIRTH] {
        for trained in [[0.0; 4], [-9.0, 7.0, 0.5, 60.0], [20.0, -20.0, 20.0, -20.0]] {
            let mut trainer = entangled(&workshop, changes);
            set_shifts(&mut trainer, &trained);
            let settled = settle(&mut trainer);
            for (keep, target) in settled.keep.iter().zip(&settled.targets) {
                assert!(keep <= target && *keep > target - 0.05, "{changes:?}, {trained:?}: {settled:?}");
            }
        }
    }
}

#[test]
fn weights_that_learn_with_less_are_settled_for_what_they_will_have() {
    let workshop = Workshop::new();
    let mut trainer = entangled(&workshop, &["sparsity.trained_keep=0.2"]);
    let Pressure::Controlled(controller) = &trainer.pressure else { panic!("no controller") };
    let learned = controller.targets(1.0);
    let settled = settle(&mut trainer);
    for ((keep, target), learned) in settled.keep.iter().zip(&settled.targets).zip(learned) {
        assert!((learned - 0.2).abs() < 1e-6 && (target - 0.4).abs() < 1e-6, "{settled:?}");
        assert!(keep <= target && *keep > target - 0.05, "{settled:?}");
    }
}

#[test]
fn what_a_layer_keeps_does_depend_on_the_layers_below() {
    // Else the test above would say nothing.
    let workshop = Workshop::new();
    let mut trainer = entangled(&workshop, &[]);
    let Pressure::Controlled(controller) = &trainer.pressure else { panic!("no controller") };
    let (mut shifts, targets) = (controller.shifts(), controller.targets(1.0));
    let settled = settle(&mut trainer);
    let Pressure::Controlled(controller) = &trainer.pressure else { panic!("no controller") };
    shifts.clone_from(&controller.shifts());
    shifts[0] -= 100.0;
    set_shifts(&mut trainer, &shifts);
    let keep = trainer.keep_on_settling_texts(&shifts).unwrap();
    let moved = (1..4).map(|layer| (keep[layer] - settled.keep[layer]).abs()).fold(0.0, f64::max);
    assert!(moved > 0.01, "{keep:?} {settled:?} {targets:?}");
}

#[test]
fn the_biases_that_are_written_keep_at_most_the_target_in_the_cache_that_they_are_meant_for() {
    let workshop = Workshop::new();
    for (kv_dtype, rule) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, &[][..]), (dtype, &BIRTH)]) {
        let format = format!("kv_dtype={kv_dtype}");
        let mut trainer = entangled(&workshop, &[&[&*format], rule].concat());
        let finished = trainer.finish(&workshop.path(&format), "test").unwrap();
        let settled = finished.settled.unwrap();
        let texts = trainer.settling_texts();
        let texts: Vec<(&[u32], &[u32])> = texts.iter().map(|text| (&text[..], &[][..])).collect();
        let kept = infer(&finished.folder, kv_dtype, &texts).keep;
        for ((kept, measured), target) in kept.iter().zip(&settled.keep).zip(&settled.targets) {
            assert!(measured <= target, "{settled:?}");
            assert!((kept - measured).abs() < 2e-3, "{kv_dtype}: {kept:?} {settled:?}");
        }
    }
}

#[test]
fn a_target_that_is_out_of_reach_is_said() {
    let workshop = Workshop::new();
    // Of 48 tokens the floors alone keep 6.
    let changes = ["sparsity.target_keep=0.02", "sparsity.budgets=uniform", "steps=6"];
    let mut heard = Warnings::default();
    begin(&workshop.config("run", &changes), "test", &mut heard, &Stop::new()).unwrap();
    for layer in 0..2 {
        let name = format!("layer {layer} keeps 0.");
        assert!(
            heard.0.iter().any(|warning| warning.contains(&name) && warning.contains("at most 0.0")),
            "{:?}",
            heard.0
        );
    }
}
