//! A whole run: from the directory's lock to the result.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use dropcap_kernels::cuda::Device;
use serde_json::{Map, Value, json};

use super::replace::recover;
use super::result::{Finished, folder_name};
use super::vitals::Vitals;
use super::watchdog::Watchdog;
use super::{Evaluation, Outcome, Pressure, Settled, Source, Texts, Trainer};
use crate::TrainError;
use crate::checkpoint::{CONFIG_FILE, RunDirectory, begun_with};
use crate::collective::Collective;
use crate::config::{Config, Method};
use crate::disk::LocalDisk;
use crate::metrics::{Evaluated, EventFile, MetricsLog, Report, Saved, Stepped};
use crate::recipe::keep_ratio;
use crate::select::Account;
use crate::signals::Stop;

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Finish {
    /// All steps were taken.
    Done {
        /// The result's directory: a model, or an adapter.
        folder: PathBuf,
        /// What was measured on it.
        evaluation: Evaluation,
    },
    /// Somebody asked it to stop; the state is saved.
    Stopped {
        /// Steps taken.
        step: u64,
    },
}

/// Runs a training of `source`, the model that the configuration names, to its end or until it is asked to stop; in a
/// directory that holds a state of the same run it goes on from there. It computes on `device`, or on the processor without
/// one. `command` goes into the model card.
///
/// # Errors
/// A directory in use, of another run or without room; inputs that are refused; a loss that stays infinite. States that
/// were saved before stay.
pub fn run(
    config: &Config,
    source: Source,
    device: Option<&Device>,
    command: &str,
    mut others: Box<dyn Collective>,
    report: &mut dyn Report,
    stop: &Stop,
) -> Result<Finish, TrainError> {
    let first = others.world().is_first();
    let directory = if first { Some(claim(config)?) } else { None };
    tell_borders(&source, report);
    if !first {
        // The first process makes the shards, and the others find them.
        others.share(&mut Vec::new())?;
    }
    let texts = source.texts(config, first, &mut |prepared| report.prepared(&prepared))?;
    if first {
        others.share(&mut Vec::new())?;
    }
    tell_learned(&texts, config.sequence_tokens(source.config().max_positions)?, report);
    let mut trainer = Trainer::new(config, source, texts, device, &mut |what| report.told(what))?;
    if let Some(directory) = &directory {
        directory.check_room(trainer.state_bytes())?;
        if let Some(state) = directory.resume(&mut |warning| report.warned(&warning))? {
            trainer.restore(&state)?;
            report.told(&format!("going on from step {}", trainer.step));
        }
    }
    let mut trainer = trainer.among(others)?;
    if let Some(warning) = trainer.connect()? {
        report.warned(&warning);
    }
    let resumed = (trainer.step > 0).then_some(trainer.step);
    let mut journal =
        Journal(directory.as_ref().map(|directory| Pages::open(directory, resumed)).transpose()?);
    let model = trainer.source.config();
    let mut watchdog = Watchdog::new(&config.watchdog, model.layers, trainer.floor_keep());
    let mut vitals = Vitals::new(config, model.vocabulary);
    if resumed.is_none() {
        trainer.measure(&mut journal, report)?;
    }
    while trainer.step < config.steps {
        let begun = Instant::now();
        let number = trainer.step;
        let outcome = trainer.step()?;
        trainer.tell(&outcome, begun, &mut journal, report)?;
        if outcome.skipped {
            report
                .warned(&format!("step {number}: the loss or a gradient is not finite; nothing was changed"));
        }
        let targets = match &trainer.pressure {
            Pressure::Controlled(controller) => Some(controller.targets(trainer.progress())),
            _ => None,
        };
        let layers = watchdog.look(&outcome.keep, targets.as_deref());
        for warning in vitals.look(number, &outcome).iter().chain(&layers) {
            report.warned(warning);
        }
        let last = trainer.step == config.steps;
        if trainer.step.is_multiple_of(config.evaluate.every.max(1)) && !last {
            trainer.measure(&mut journal, report)?;
        }
        let due = trainer.step.is_multiple_of(config.checkpoint.every.max(1));
        let asked = trainer.is_asked_to_stop(stop)?;
        if due || last || asked {
            trainer.complete()?;
        }
        if let Some(directory) = directory.as_ref().filter(|_| due || last || asked) {
            let folder = trainer.save(directory)?;
            report.saved(&Saved { step: trainer.step, folder });
        }
        if asked && !last {
            return Ok(Finish::Stopped { step: trainer.step });
        }
    }
    trainer.chosen_lines().iter().for_each(|line| report.told(line));
    report.told("measuring and writing the result");
    let Finished { folder, evaluation, settled } = trainer.finish(&config.output, command)?;
    journal.evaluation(trainer.step, &evaluation)?;
    trainer.report_evaluation(&evaluation, report);
    if let Some(settled) = &settled {
        journal.settled(trainer.step, settled)?;
        settled.out_of_reach().iter().for_each(|warning| report.warned(warning));
    }
    Ok(Finish::Done { folder, evaluation })
}

/// The run's directory, for this process alone.
fn claim(config: &Config) -> Result<RunDirectory, TrainError> {
    let directory = RunDirectory::open(&config.output)?;
    recover(&LocalDisk, &config.output.join(folder_name(config)))?;
    check_claim(directory.path(), config)?;
    directory.save_config(&config.to_yaml()?)?;
    Ok(directory)
}

/// Refuses a directory whose run has another configuration.
pub(super) fn check_claim(directory: &Path, config: &Config) -> Result<(), TrainError> {
    if let Some(yaml) = begun_with(directory)? {
        let begun = Config::parse(&directory.join(CONFIG_FILE).display().to_string(), &yaml, &[])?;
        let differences = begun.differences(config);
        if !differences.is_empty() {
            return Err(TrainError::AnotherRun { path: directory.to_path_buf(), differences });
        }
    }
    Ok(())
}

/// Says how documents are told apart.
pub(super) fn tell_borders(source: &Source, report: &mut dyn Report) {
    match source.about_borders() {
        (text, true) => report.warned(&text),
        (text, false) => report.told(&text),
    }
}

/// Says what is learned of examples, and warns of what is not.
pub(super) fn tell_learned(texts: &Texts, window: usize, report: &mut dyn Report) {
    let valid = texts.valid.iter().map(|batches| ("held-out", batches));
    for (split, batches) in std::iter::once(("training", &texts.train)).chain(valid) {
        let Some(learned) = batches.learned() else { continue };
        let sentence = format!("{split} data: {}", learned.sentence(window));
        if learned.cut > 0 || learned.unplaced > 0 {
            report.warned(&sentence)
        } else {
            report.told(&sentence)
        }
    }
    if let Some(sentence) = &texts.subset {
        report.told(sentence);
    }
}

/// Where a run's numbers go: nowhere in a process that does not write.
struct Journal(Option<Pages>);

struct Pages {
    log: MetricsLog,
    events: EventFile,
}

impl Pages {
    fn open(directory: &RunDirectory, resumed: Option<u64>) -> Result<Self, TrainError> {
        Ok(Self {
            log: MetricsLog::open(&directory.path().join(MetricsLog::FILE), resumed)?,
            events: EventFile::create(&directory.path().join("tensorboard"), resumed.unwrap_or(0), now())?,
        })
    }
}

impl Journal {
    fn write(&mut self, step: u64, kind: &str, values: Map<String, Value>) -> Result<(), TrainError> {
        let Some(Pages { log, events }) = &mut self.0 else { return Ok(()) };
        log.append(step, kind, &values)?;
        let mut scalars: Vec<(String, f64)> = Vec::new();
        for (name, value) in &values {
            match value {
                Value::Number(number) => {
                    scalars.extend(number.as_f64().map(|x| (format!("{kind}/{name}"), x)))
                }
                Value::Array(all) => scalars.extend(
                    all.iter()
                        .enumerate()
                        .filter_map(|(at, x)| Some((format!("{kind}/{name}/{at:02}"), x.as_f64()?))),
                ),
                _ => {}
            }
        }
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        events.scalars(step, now(), &scalars)
    }

    fn evaluation(&mut self, step: u64, evaluation: &Evaluation) -> Result<(), TrainError> {
        if evaluation.files.is_empty() {
            return Ok(());
        }
        let (pruned, dense) = evaluation.perplexities();
        let per_file = |of: &dyn Fn(&super::evaluate::FileEvaluation) -> f64| -> Vec<f64> {
            evaluation.files.iter().map(of).collect()
        };
        let values = json!({
            "perplexity": pruned,
            "dense_perplexity": dense,
            "keep": evaluation.keep(),
            "file_perplexity": per_file(&|file| file.pruned.perplexity()),
            "file_dense_perplexity": per_file(&|file| file.dense.perplexity()),
            "file_keep": per_file(&|file| file.mean_keep()),
        });
        let Value::Object(values) = values else { return Ok(()) };
        self.write(step, "evaluation", values)
    }

    fn settled(&mut self, step: u64, settled: &Settled) -> Result<(), TrainError> {
        let values = json!({ "layer_keep": settled.keep, "layer_target": settled.targets });
        let Value::Object(values) = values else { return Ok(()) };
        self.write(step, "settled", values)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl Trainer {
    /// Evaluates, notes it, and lets what follows a held-out target follow it.
    fn measure(&mut self, journal: &mut Journal, report: &mut dyn Report) -> Result<(), TrainError> {
        if self.valid.is_empty() {
            return Ok(());
        }
        let evaluation = self.evaluate()?;
        journal.evaluation(self.step, &evaluation)?;
        self.report_evaluation(&evaluation, report);
        self.follow_target(&evaluation);
        Ok(())
    }

    fn report_evaluation(&self, evaluation: &Evaluation, report: &mut dyn Report) {
        if evaluation.files.is_empty() {
            return;
        }
        let (perplexity, dense) = evaluation.perplexities();
        let prunes = self.config.method != Method::None;
        report.evaluated(&Evaluated {
            step: self.step,
            perplexity,
            dense_perplexity: prunes.then_some(dense),
            keep: if prunes { evaluation.keep() } else { Vec::new() },
        });
    }

    fn tell(
        &self,
        outcome: &Outcome,
        begun: Instant,
        journal: &mut Journal,
        report: &mut dyn Report,
    ) -> Result<(), TrainError> {
        let took = begun.elapsed();
        let tokens = (self.config.batch.sequences * self.tokens) as u64;
        let keep =
            (!outcome.keep.is_empty()).then(|| outcome.keep.iter().sum::<f64>() / outcome.keep.len() as f64);
        let mut values = Map::new();
        let mut put = |name: &str, value: Value| values.insert(name.to_owned(), value);
        put("loss", json!(outcome.loss.mean()));
        put("learning_rate", json!(outcome.learning_rate));
        put("gradient_norm", json!(outcome.gradient_norm));
        put("tokens_per_second", json!(tokens as f64 / took.as_secs_f64()));
        if self.batches.learned().is_some() {
            put("targets", json!(outcome.loss.targets));
        }
        if let Some(chosen) = &outcome.chosen {
            let count = |of: fn(&Account) -> u64| json!(chosen.iter().map(of).sum::<u64>());
            put("examples", count(|account| account.examples));
            put("examples_learned", count(Account::kept));
            put("examples_noise", count(|account| account.noise));
            put("examples_known", count(|account| account.known));
            put("choosing_seconds", json!(self.choosing.as_secs_f64()));
            if chosen.len() > 1 {
                put(
                    "file_examples",
                    json!(chosen.iter().map(|account| account.examples).collect::<Vec<_>>()),
                );
                put("file_examples_learned", json!(chosen.iter().map(Account::kept).collect::<Vec<_>>()));
            }
        }
        if self.config.distill > 0.0 {
            put("divergence", json!(outcome.loss.mean_divergence()));
        }
        if let Some(keep) = keep {
            put("keep", json!(keep));
            put("layer_keep", json!(outcome.keep));
        }
        match &self.pressure {
            Pressure::None => {}
            Pressure::Gamma(gamma) => {
                put("gamma", json!(gamma));
                put("survival", json!(outcome.survival));
            }
            Pressure::Controlled(controller) => {
                put("layer_target", json!(controller.targets(self.progress())));
                put("layer_shift", json!(controller.shifts()));
                put("layer_worth", json!(controller.centring()));
            }
        }
        journal.write(self.step, "train", values)?;
        report.stepped(&Stepped {
            step: self.step,
            steps: self.config.steps,
            loss: outcome.loss.mean(),
            keep,
            learning_rate: outcome.learning_rate,
            gradient_norm: outcome.gradient_norm,
            tokens,
            took,
        });
        Ok(())
    }

    /// What the floors alone keep.
    fn floor_keep(&self) -> f64 {
        let tokens = self.tokens;
        let floors = match self.forgetting(None).map(|forgetting| (forgetting.floors, forgetting.method)) {
            Ok((floors, Method::Dcp)) => floors,
            _ => return 0.0,
        };
        let ends: Vec<u32> = (0..tokens as u32).map(|position| floors.of(position)).collect();
        keep_ratio(&ends, tokens)
    }
}
