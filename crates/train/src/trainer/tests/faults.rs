use super::{Workshop, begin, values};
use crate::TrainError;

#[test]
fn steps_that_are_not_finite_change_nothing_and_then_stop_the_run() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &["watchdog.skip_steps=2"]);
    let mut trainer = workshop.trainer(&config);
    trainer.step().unwrap();
    let healthy = values(&mut trainer);
    let mut poisoned = healthy.clone();
    poisoned[3] = f32::NAN;
    trainer.backend.load(&poisoned, None).unwrap();
    for _ in 0..2 {
        assert!(trainer.step().unwrap().skipped);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values(&mut trainer)), bits(&poisoned));
    }
    let error = trainer.step().unwrap_err();
    assert!(matches!(error, TrainError::Diverged { skipped: 3, .. }), "{error}");
    // A step that is finite again ends the count.
    trainer.backend.load(&healthy, None).unwrap();
    assert!(!trainer.step().unwrap().skipped);
    trainer.backend.load(&poisoned, None).unwrap();
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
fn more_pressure_keeps_less_in_either_form_of_the_sparsity_term() {
    let workshop = Workshop::new();
    for form in ["published", "paper"] {
        let survival = |gamma: f64| {
            let sparsity = format!("sparsity={{gamma: {gamma}, form: {form}}}");
            // Votes are then at their steepest, so that a few steps show.
            let changes = [
                "gates.rule=soft",
                "gates.alpha=linear_1.5_1.5_1",
                "gates.bias=1.7",
                "gates.sinks=0",
                "gates.recent=1",
                "steps=30",
                "optimizer.gate_learning_rate=1e-2",
                &sparsity,
            ];
            let config = workshop.config("run", &changes);
            let mut trainer = workshop.trainer(&config);
            // Everything above the diagonal counts 1, which is half of the square.
            (0..30).map(|_| trainer.step().unwrap().survival - 0.5).last().unwrap()
        };
        let (free, pressed) = (survival(0.0), survival(100.0));
        assert!(pressed < 0.9 * free, "{form}: {pressed} against {free}");
    }
}

#[test]
fn budgets_of_another_number_of_layers_are_refused() {
    let workshop = Workshop::new();
    let config = workshop.config("source", &["steps=1"]);
    begin(&config, "test", &mut crate::metrics::Quiet, &crate::signals::Stop::new()).unwrap();
    let model = format!("model={}", workshop.path("source/model").display());
    let changes = [model.as_str(), "init=", "tokenizer=", "sparsity.budgets=[0.1, 0.2, 0.3]"];
    let config = workshop.config("run", &changes);
    let source = crate::trainer::Source::open(&config).unwrap();
    let texts = source.texts(&config, false, &mut |_| ()).unwrap();
    let error =
        crate::trainer::Trainer::new(&config, source, texts, None, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("sparsity.budgets") && error.contains('3') && error.contains('2'), "{error}");
}

#[test]
fn a_learning_rate_that_ends_all_learning_is_named() {
    let workshop = Workshop::new();
    let changes = [
        "method=none",
        "gates=",
        "sparsity=",
        "steps=60",
        "init.family=llama",
        "optimizer.learning_rate=1e6",
    ];
    let mut heard = super::Warnings::default();
    begin(&workshop.config("run", &changes), "test", &mut heard, &crate::signals::Stop::new()).unwrap();
    let named = |warning: &String| warning.contains("optimizer.learning_rate, 1e6");
    assert!(heard.0.iter().any(named), "{:?}", heard.0);
}

#[test]
fn a_learning_rate_that_moves_nothing_is_named() {
    let workshop = Workshop::new();
    let changes = ["method=none", "gates=", "sparsity=", "steps=40", "optimizer.learning_rate=1e-30"];
    let mut heard = super::Warnings::default();
    begin(&workshop.config("run", &changes), "test", &mut heard, &crate::signals::Stop::new()).unwrap();
    assert!(heard.0.iter().any(|warning| warning.contains("no parameter moves")), "{:?}", heard.0);
}
