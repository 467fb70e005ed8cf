//! Several processes (threads, with a connection between them) come to what one comes to.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::{Workshop, begin, values};
use crate::collective::{Meeting, Star, World};
use crate::config::Config;
use crate::metrics::Quiet;
use crate::signals::Stop;
use crate::trainer::{Finish, Source, Trainer, run};
use crate::{TrainError, trainer};

/// Gradients are the same sums in another order, and AdamW's first steps divide by their size: parameters differ by
/// less than this after a few steps at a rate of 1e-3.
const TOLERANCE: f32 = 2e-4;
const SOON: Duration = Duration::from_secs(60);

/// Runs `each` as every process of a world.
fn world<R: Send>(size: usize, each: impl Fn(Star) -> R + Sync) -> Vec<R> {
    // A port that was free a moment ago: the first process listens at it again.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let meet = |rank| {
        let meeting =
            Meeting { world: World { rank, size }, local_rank: rank, address: format!("127.0.0.1:{port}") };
        each(Star::meet(&meeting, [0; 32], SOON).unwrap())
    };
    thread::scope(|scope| {
        let processes: Vec<_> = (0..size).map(|rank| scope.spawn(move || meet(rank))).collect();
        processes.into_iter().map(|process| process.join().unwrap()).collect()
    })
}

fn changes<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["batch.sequences=6", "batch.micro_sequences=1", "threads=1", "gates.noise.start=0.5"], more].concat()
}

#[test]
fn two_and_three_processes_take_the_steps_of_one() {
    let workshop = Workshop::new();
    let config = workshop.config("alone", &changes(&[]));
    let steps = |mut trainer: Trainer| {
        let outcomes: Vec<_> = (0..4).map(|_| trainer.step().unwrap()).collect();
        let measured = trainer.evaluate().unwrap();
        (outcomes, values(&mut trainer), measured)
    };
    let (alone, parameters, measured) = steps(workshop.trainer(&config));
    for size in [2, 3] {
        let all = world(size, |star| steps(workshop.trainer(&config).among(Box::new(star)).unwrap()));
        for (together, others_parameters, others_measured) in &all {
            assert_eq!((together, others_parameters), (&all[0].0, &all[0].1), "equal in every process");
            for (one, other) in alone.iter().zip(together) {
                assert_eq!(one.loss.targets, other.loss.targets);
                assert!((one.loss.mean() - other.loss.mean()).abs() < 1e-5, "{one:?} {other:?}");
                assert!((one.gradient_norm / other.gradient_norm - 1.0).abs() < 1e-3, "{one:?} {other:?}");
                let pairs = one.keep.iter().zip(&other.keep);
                assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-2), "{one:?} {other:?}");
            }
            let difference =
                parameters.iter().zip(others_parameters).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < TOLERANCE, "{difference}");
            assert!((measured.perplexities().1 / others_measured.perplexities().1 - 1.0).abs() < 1e-3);
        }
    }
}

/// A whole run by `size` processes.
fn together(
    size: usize,
    config: &Config,
    stop: impl Fn(usize) -> Stop + Sync,
) -> Vec<Result<Finish, TrainError>> {
    world(size, |star| {
        let stop = stop(crate::collective::Collective::world(&star).rank);
        run(config, Source::open(config)?, None, "a command", Box::new(star), &mut Quiet, &stop)
    })
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let workshop = Workshop::new();
    let config = workshop.config("changing", &changes(&[]));
    // One process is asked, and all stop after the same step.
    let asked_second = |rank| {
        let stop = Stop::new();
        if rank == 1 {
            stop.ask();
        }
        stop
    };
    for finish in together(3, &config, asked_second) {
        assert_eq!(finish.unwrap(), Finish::Stopped { step: 1 });
    }
    let asked = Stop::new();
    asked.ask();
    assert_eq!(begin(&config, "", &mut Quiet, &asked).unwrap(), Finish::Stopped { step: 2 });
    let finishes = together(2, &config, |_| Stop::new());
    for finish in finishes {
        let Finish::Done { folder, evaluation } = finish.unwrap() else { panic!("it was not stopped") };
        assert!(folder.join("model.safetensors").exists());
        assert!(evaluation.perplexities().0.is_finite());
    }
    let log = std::fs::read_to_string(workshop.path("changing").join("metrics.jsonl")).unwrap();
    let steps = log.lines().filter(|line| line.contains("\"train\"")).count();
    assert_eq!(steps as u64, config.steps, "each step is noted once");
}

#[test]
fn more_processes_than_passes_are_refused() {
    let workshop = Workshop::new();
    let config = workshop.config("many", &["batch.sequences=2", "batch.micro_sequences=2", "threads=1"]);
    for refused in world(2, |star| workshop.trainer(&config).among(Box::new(star)).map(|_| ())) {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("has 1 passes") && said.contains("2 processes"), "{said}");
    }
}

#[test]
fn a_lost_process_ends_the_run_and_the_saved_state_goes_on() {
    let workshop = Workshop::new();
    let config = workshop.config("lost", &changes(&["checkpoint.every=1"]));
    let ends = world(2, |star| {
        use crate::collective::Collective;
        if star.world().is_first() {
            return run(&config, Source::open(&config)?, None, "", Box::new(star), &mut Quiet, &Stop::new())
                .map(|_| ());
        }
        // It joins, takes two steps, and is gone.
        let mut star: Box<dyn Collective> = Box::new(star);
        star.share(&mut Vec::new())?;
        let mut trainer = workshop.trainer(&config).among(star)?;
        trainer.evaluate()?;
        for _ in 0..2 {
            trainer.step()?;
            trainer.is_asked_to_stop(&Stop::new())?;
        }
        Ok(())
    });
    let said = ends[0].as_ref().unwrap_err().to_string();
    assert!(said.contains("process 1 of 2 is lost"), "{said}");
    let finish = trainer::run(
        &config,
        Source::open(&config).unwrap(),
        None,
        "",
        Box::new(crate::collective::Alone),
        &mut Quiet,
        &Stop::new(),
    );
    assert!(matches!(finish.unwrap(), Finish::Done { .. }));
}
