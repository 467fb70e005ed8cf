use super::Workshop;
use crate::TrainError;

#[test]
fn steps_that_are_not_finite_change_nothing_and_then_stop_the_run() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &["watchdog.skip_steps=2"]);
    let mut trainer = workshop.trainer(&config);
    trainer.step().unwrap();
    let healthy = trainer.values.clone();
    trainer.values[3] = f32::NAN;
    let poisoned = trainer.values.clone();
    for _ in 0..2 {
        assert!(trainer.step().unwrap().skipped);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&trainer.values), bits(&poisoned));
    }
    let error = trainer.step().unwrap_err();
    assert!(matches!(error, TrainError::Diverged { skipped: 3, .. }), "{error}");
    // A step that is finite again ends the count.
    trainer.values = healthy;
    assert!(!trainer.step().unwrap().skipped);
    trainer.values[3] = f32::NAN;
    assert!(trainer.step().unwrap().skipped);
}

#[test]
fn a_batch_without_targets_is_no_nan() {
    let workshop = Workshop::new();
    let mut trainer = workshop.trainer(&workshop.config("run", &[]));
    let mut batch = trainer.batches.batch(0);
    batch.targets.fill(dropcap_kernels::cross_entropy::IGNORE);
    let outcome = trainer.step_on(&batch).unwrap();
    assert!(!outcome.skipped && outcome.loss.targets == 0 && outcome.loss.mean() == 0.0);
}

#[test]
fn budgets_of_another_number_of_layers_are_refused() {
    let workshop = Workshop::new();
    let config = workshop.config("source", &["steps=1"]);
    crate::trainer::run(&config, "test", &mut crate::metrics::Quiet, &crate::signals::Stop::new()).unwrap();
    let model = format!("model={}", workshop.path("source/model").display());
    let changes = [model.as_str(), "init=", "tokenizer=", "sparsity.budgets=[0.1, 0.2, 0.3]"];
    let config = workshop.config("run", &changes);
    let source = crate::trainer::Source::open(&config).unwrap();
    let texts = source.texts(&config, &mut |_| ()).unwrap();
    let error = crate::trainer::Trainer::new(&config, source, texts, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("sparsity.budgets") && error.contains('3') && error.contains('2'), "{error}");
}
