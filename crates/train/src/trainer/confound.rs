//! Which tokens of prompts mislead a student and not its teacher.

use std::ops::Range;
use std::path::Path;

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::Device;
use dropcap_kernels::{DType, Team};
use dropcap_model::Tokenizer;

use super::Source;
use super::run::tell_borders;
use super::start::threads;
use super::teacher::check_teacher;
use crate::TrainError;
use crate::backend::{Backend, Pass, Processor, Room};
use crate::collective::Alone;
use crate::config::{Config, Method};
use crate::data::{Batches, TokenShard, with_counterfactuals};
use crate::device::{self, Cuda};
use crate::metrics::{Confounders, Prompt, Report};
use crate::network::{Layout, Network, Pruning, Pull};
use crate::select::{Leaf, difference, stretches};

/// Compares what every token of the prompts of a configuration's training files means to its model and to its teacher, by the
/// gradients of the answer's mean loss at their embeddings, nothing forgotten. `progress` hears of examples that are done, twice
/// over their number in all.
///
/// # Errors
/// No teacher; files that hold texts or conversations; those of the run before its first step.
pub fn confounders(
    config: &Config,
    source: &Source,
    device: Option<&Device>,
    report: &mut dyn Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Confounders, TrainError> {
    let Some(teacher) = source.teacher() else {
        let problem = "teacher is missing: name the model that the student is compared with".to_owned();
        let origin = "nothing to compare with".to_owned();
        return Err(TrainError::Config { origin, problems: vec![problem] });
    };
    let mut config = config.clone();
    (config.method, config.gates, config.sparsity) = (Method::None, None, None);
    (config.data.select, config.data.scores) = (None, None);
    (config.batch.sequences, config.batch.micro_sequences) = (1, 1);
    config.data.valid.clear();
    check_teacher(&config, source)?;
    tell_borders(source, report);
    let texts = source.texts(&config, true, &mut |prepared| report.prepared(&prepared))?;
    let batches = &texts.train;
    let mut places = Vec::new();
    for (file, shard) in config.data.train.iter().zip(batches.shards()) {
        places.extend(prompts(file, shard, source.tokenizer())?);
    }
    let total = places.len() as u64;
    let mut done = 0;
    let mut tell = || {
        done += 1;
        progress(done, 2 * total);
    };
    // One after the other: only one of the models is in memory.
    let mut measure = |of: &Source| measured(&config, of, device, batches, &places, &mut tell);
    let (students, teachers) = (measure(source)?, measure(teacher)?);
    let prompts =
        places.iter().zip(students.into_iter().zip(teachers)).map(|(place, (student, teacher))| Prompt {
            from: place.start,
            difference: difference(&student.norms, &teacher.norms),
            student_loss: student.loss,
            teacher_loss: teacher.loss,
        });
    let models = [source.identity()?, teacher.identity()?];
    Confounders::of(models, &config.data.train, batches.shards(), prompts.collect())
}

/// Where the prompt of each example lies, counted from the example's first token: between what begins a document and the answer.
fn prompts(file: &Path, shard: &TokenShard, tokenizer: &Tokenizer) -> Result<Vec<Range<u64>>, TrainError> {
    let refused = |what: String| TrainError::Data {
        path: file.to_path_buf(),
        reason: format!("{what}, and confounders are looked for in prompts with completions alone"),
    };
    let answers = shard.answers().ok_or_else(|| refused("holds texts".to_owned()))?;
    let ends = answers.starts.iter().skip(1).copied().chain([shard.len() as u64]);
    let (mut places, mut ids) = (Vec::new(), Vec::new());
    for (number, (&start, end)) in answers.starts.iter().zip(ends).enumerate() {
        let first = answers.spans.partition_point(|span| span.end <= start);
        let own = answers.spans[first..].iter().take_while(|span| span.start < end);
        let own: Vec<&Range<u64>> = own.collect();
        let [answer] = own.as_slice() else {
            return Err(refused(format!("example {number} has {} answers", own.len())));
        };
        ids.clear();
        shard.read(start as usize, (answer.start - start) as usize, &mut ids);
        let from = ids.iter().take_while(|&&id| tokenizer.is_control(id)).count();
        if ids[from..].iter().any(|&id| tokenizer.is_control(id)) {
            let what = format!("example {number} is a conversation, written by a template");
            return Err(refused(what));
        }
        places.push(from as u64..answer.start - start);
    }
    Ok(places)
}

/// What the tokens of one prompt mean to a model.
#[derive(Debug, Default)]
struct Meaning {
    /// Norms of the gradients at their embeddings; none where the window shows no answer.
    norms: Vec<f64>,
    /// Mean loss of the answer.
    loss: f64,
}

fn measured(
    config: &Config,
    source: &Source,
    device: Option<&Device>,
    batches: &Batches,
    places: &[Range<u64>],
    tell: &mut dyn FnMut(),
) -> Result<Vec<Meaning>, TrainError> {
    let tokens = batches.example(0).tokens;
    let mut backend = held(config, source, device, tokens)?;
    let width = source.config().hidden;
    let mut meanings = Vec::with_capacity(places.len());
    for (example, place) in places.iter().enumerate() {
        let batch = batches.example(example as u64);
        let wanted = batch.targets.iter().filter(|&&target| target != IGNORE).count();
        let mut meaning = Meaning::default();
        if wanted > 0 {
            backend.pass(&Pass {
                ids: &batch.ids,
                targets: &batch.targets,
                pruning: &Pruning::Dense,
                pull: Pull::None,
                scale: 1.0 / wanted as f32,
                distill: 0.0,
                part: 0,
                parts: 1,
            })?;
            meaning.loss = backend.gather(&[], &mut Alone)?.loss.mean();
            let gradients = backend.input_gradients()?;
            let norm = |row: u64| {
                let row = &gradients[row as usize * width..][..width];
                row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
            };
            meaning.norms = place.clone().map(norm).collect();
        }
        meanings.push(meaning);
        tell();
    }
    Ok(meanings)
}

/// A model whose parameters are held: gradients go through it and stay nowhere.
fn held(
    config: &Config,
    source: &Source,
    device: Option<&Device>,
    tokens: usize,
) -> Result<Box<dyn Backend>, TrainError> {
    let room = Room { sequences: 1, tokens, recompute: config.checkpoint.activations };
    let layout = Layout::new(source.config(), source.plan(), None).holding_weights();
    let values = source.weights(&layout, config.seed)?;
    let Some(device) = device else {
        let network = Network::new(source.config(), source.plan(), None, &[])?.with_held_weights();
        let team = Team::new(threads(config))?;
        return Ok(Box::new(Processor::new(team, network, None, room, Vec::new(), values)));
    };
    let plan = device::Plan {
        config: source.config(),
        plan: source.plan(),
        gates: None,
        factors: None,
        scales: &[],
        dtype: config.precision.unwrap_or(DType::Bf16),
        cache: DType::F32,
        room,
        layout,
        held: &values,
        still: Vec::new(),
        teacher: device::Teacher::None,
    };
    Ok(Box::new(Cuda::new(device, &plan)?))
}

/// The shards of a run with counterfactual examples beside their own, and what a person should know of them.
///
/// # Errors
/// Confounders of other examples or models.
pub(super) fn counterfactual(
    config: &Config,
    source: &Source,
    shards: &[TokenShard],
    share: f64,
) -> Result<(Vec<TokenShard>, String), TrainError> {
    let path = config.data.scores.as_deref().unwrap_or(Path::new(""));
    let known = Confounders::read(path)?;
    let teacher = source.teacher().map_or_else(|| Ok(String::new()), Source::identity)?;
    known.check(path, [&source.identity()?, &teacher], shards)?;
    let leaf = Leaf { share };
    let mut all = known.prompts.iter();
    let (mut made, mut ids) = (Vec::new(), Vec::new());
    let (mut tokens, mut marked, mut touched, mut examples, mut copies) = (0, 0, 0, 0, 0);
    for (file, shard) in config.data.train.iter().zip(shards) {
        let places = prompts(file, shard, source.tokenizer())?;
        let starts = shard.answers().map_or(&[][..], |answers| &answers.starts);
        let mut cuts = Vec::new();
        for ((place, &start), prompt) in places.iter().zip(starts).zip(all.by_ref()) {
            let length = place.end - place.start;
            tokens += length;
            examples += 1;
            let fits = prompt.from == place.start && prompt.difference.len() as u64 == length;
            if !fits && !prompt.difference.is_empty() {
                let reason = format!("is about other tokens of example {} than it has", cuts.len());
                return Err(TrainError::Data { path: path.to_path_buf(), reason });
            }
            ids.clear();
            shard.read((start + place.start) as usize, length as usize, &mut ids);
            let mut blank = Vec::new();
            for &id in &ids {
                blank.push(source.tokenizer().decode(&[id])?.trim().is_empty());
            }
            let marks = leaf.confounders(&prompt.difference, |at| blank[at]);
            let count = marks.iter().filter(|&&marked| marked).count();
            // Without all that says something a prompt is none.
            let left = marks.iter().zip(&blank).any(|(marked, blank)| !marked && !blank);
            let own = if left { stretches(&marks) } else { Vec::new() };
            if !own.is_empty() {
                (marked, touched) = (marked + count, touched + 1);
            }
            let at = start + place.start;
            copies += own.len();
            cuts.push(own.into_iter().map(|own| at + own.start as u64..at + own.end as u64).collect());
        }
        made.push(with_counterfactuals(file, shard, &cuts)?);
    }
    let sentence = format!(
        "leaf(share={share}) found {marked} confounding tokens ({:.2} % of those of prompts) in {touched} of {examples} examples: {copies} examples without a stretch of them stand beside the {examples}",
        100.0 * marked as f64 / tokens.max(1) as f64
    );
    Ok((made, sentence))
}
