//! Whole trainings on a device.

use dropcap_kernels::cuda::Device;

use super::{BIRTH, Workshop, read};
use crate::collective::Alone;
use crate::config::Config;
use crate::device::tests::device;
use crate::metrics::{Quiet, Report, Saved};
use crate::signals::Stop;
use crate::trainer::{Finish, Outcome, Source, Trainer, run};

const HARD: &[&str] = &["sparsity.ramp={from: 0.0, until: 0.2}", "sparsity.budgets=uniform"];

fn trainer(config: &Config, device: Option<&Device>) -> Trainer {
    let source = Source::open(config).unwrap();
    let texts = source.texts(config, true, &mut |_| ()).unwrap();
    Trainer::new(config, source, texts, device, &mut |_| ()).unwrap()
}

fn outcomes(workshop: &Workshop, changes: &[&str], device: Option<&Device>, steps: usize) -> Vec<Outcome> {
    let config = workshop.config("run", &[HARD, changes].concat());
    let mut trainer = trainer(&config, device);
    (0..steps).map(|_| trainer.step().unwrap()).collect()
}

#[test]
fn twenty_steps_on_the_device_are_those_of_the_processor() {
    let Some(device) = device("twenty steps of a training") else { return };
    let workshop = Workshop::new();
    let kinds =
        [&["init.family=gpt2"][..], &["init.family=llama"], &["init.family=llama", BIRTH[0], BIRTH[1]]];
    for kind in kinds {
        let changes = [kind, &["steps=100", "precision=f32"]].concat();
        let on_device = outcomes(&workshop, &changes, Some(&*device), 20);
        let on_processor = outcomes(&workshop, &changes, None, 20);
        for (step, (got, expected)) in on_device.iter().zip(&on_processor).enumerate() {
            // A vote within rounding of zero may fall on the other side, and then two trainings drift apart.
            let loss = (got.loss.mean() / expected.loss.mean() - 1.0).abs();
            assert!(loss < 1e-4, "{kind:?}, step {step}: {got:?} {expected:?}");
            for (got, expected) in got.keep.iter().zip(&expected.keep) {
                assert!((got - expected).abs() < 0.02, "{kind:?}, step {step}: {got} {expected}");
            }
        }
    }
}

#[test]
fn factors_on_the_device_take_the_processors_steps_and_a_rounded_base_stays_near() {
    let Some(device) = device("factors beside a held model") else { return };
    let workshop = Workshop::new();
    let base = workshop.base();
    let common = [
        "train=lora",
        "init=",
        "tokenizer=",
        "distill=0.5",
        "optimizer.warmup=0",
        "optimizer.learning_rate=1e-2",
    ];
    let curve = |device: Option<&Device>, precision: &str| -> Vec<(f64, f64)> {
        let changes = [&[&*base, "steps=100", precision], &common[..]].concat();
        let outcomes = outcomes(&workshop, &changes, device, 20);
        outcomes.iter().map(|outcome| (outcome.loss.mean(), outcome.loss.mean_divergence())).collect()
    };
    let on_processor = curve(None, "precision=f32");
    for (precision, tolerance) in [("precision=f32", 1e-4), ("precision=bf16", 0.01)] {
        let on_device = curve(Some(&*device), precision);
        for (step, (got, expected)) in on_device.iter().zip(&on_processor).enumerate() {
            assert!(
                (got.0 / expected.0 - 1.0).abs() < tolerance,
                "{precision}, step {step}: {got:?} {expected:?}"
            );
        }
        // The teacher is the model without its factors, and they move away from it.
        assert!(on_device[19].1 > 1e-6, "{on_device:?}");
    }
}

#[test]
fn sixteen_bits_learn_as_f32_does() {
    let Some(device) = device("bf16 against f32") else { return };
    let workshop = Workshop::new();
    let curve = |precision: &str| -> Vec<f64> {
        let outcomes = outcomes(&workshop, &["steps=300", precision], Some(&*device), 300);
        outcomes.iter().map(|outcome| outcome.loss.mean()).collect()
    };
    let (narrow, wide) = (curve("precision=bf16"), curve("precision=f32"));
    let mean = |curve: &[f64]| curve.iter().sum::<f64>() / curve.len() as f64;
    for (part, (narrow, wide)) in narrow.chunks(50).zip(wide.chunks(50)).enumerate() {
        let (narrow, wide) = (mean(narrow), mean(wide));
        assert!((narrow / wide - 1.0).abs() < 0.01, "steps from {}: {narrow} {wide}", 50 * part);
    }
}

/// Asks a run to stop when it has saved a state.
struct Interrupt(Stop);

impl Report for Interrupt {
    fn saved(&mut self, _: &Saved) {
        self.0.ask();
    }
}

#[test]
fn a_repeated_run_and_a_resumed_one_leave_the_same_bits() {
    let Some(device) = device("repeated and resumed runs") else { return };
    let workshop = Workshop::new();
    let weights = |output: &str, interrupted: bool| {
        let config = workshop.config(output, HARD);
        let go = |report: &mut dyn Report, stop: &Stop| {
            run(
                &config,
                Source::open(&config).unwrap(),
                Some(&*device),
                "test",
                Box::new(Alone),
                report,
                stop,
            )
            .unwrap()
        };
        if interrupted {
            let stop = Stop::new();
            let finish = go(&mut Interrupt(stop.clone()), &stop);
            assert!(matches!(finish, Finish::Stopped { .. }), "{finish:?}");
        }
        assert!(matches!(go(&mut Quiet, &Stop::new()), Finish::Done { .. }));
        let model = workshop.path(output).join("model");
        (read(&model.join("model.safetensors")), read(&model.join("pruning.safetensors")))
    };
    let once = weights("once", false);
    assert!(once == weights("again", false), "a repeated run");
    assert!(once == weights("resumed", true), "a resumed run");
}
