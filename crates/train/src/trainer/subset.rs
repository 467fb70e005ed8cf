//! Examples that are chosen once, before the first step.

use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Source;
use super::confound::counterfactual;
use crate::TrainError;
use crate::config::{Config, Select};
use crate::data::TokenShard;
use crate::metrics::Scores;
use crate::select::{Coverage, coverage, overall};

/// A stream of the seed that batches, which are numbered by their step, do not reach.
const STREAM: u64 = u64::MAX - (1 << 32);

/// The shards of the examples that a configuration chooses among those of its files, and what a person should know of it; all of
/// them where it chooses batch by batch or not at all.
///
/// # Errors
/// Texts, among which nothing can be chosen; scores of other examples.
pub(super) fn subset(
    config: &Config,
    source: &Source,
    shards: Vec<TokenShard>,
) -> Result<(Vec<TokenShard>, Option<String>), TrainError> {
    let Some(select) = config.data.select else { return Ok((shards, None)) };
    let files: &[PathBuf] = &config.data.train;
    let mut counts = Vec::new();
    for (file, shard) in files.iter().zip(&shards) {
        counts.push(shard.answers().ok_or_else(|| no_examples(file))?.starts.len());
    }
    let total: usize = counts.iter().sum();
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    random.set_stream(STREAM);
    let draws: Vec<u64> = (0..total).map(|_| random.next_u64()).collect();
    let wanted = |share: f64| ((share * total as f64).floor() as usize).max(1);
    let chosen = match select {
        Select::QTuning { .. } => return Ok((shards, None)),
        Select::Leaf { share } => {
            let (shards, sentence) = counterfactual(config, source, &shards, share)?;
            return Ok((shards, Some(sentence)));
        }
        Select::Random { share } => {
            let mut order: Vec<usize> = (0..total).collect();
            order.sort_by_key(|&index| (draws[index], index));
            order.truncate(wanted(share));
            order
        }
        Select::Coreset { share, strata, hardest, lambda } => {
            let path = config.data.scores.as_deref().unwrap_or(Path::new(""));
            let scores = Scores::read(path)?;
            scores.check(path, &source.identity()?, &shards)?;
            let overall = overall(&scores.influence, &scores.effort, lambda);
            coverage(&Coverage { strata, hardest }, &overall, &draws, wanted(share))
        }
    };
    let mut kept = vec![false; total];
    chosen.iter().for_each(|&index| kept[index] = true);
    let mut rest = &kept[..];
    let chosen_shards = shards.iter().zip(&counts).map(|(shard, &count)| {
        let (own, others) = rest.split_at(count);
        rest = others;
        shard.only(own)
    });
    let mut sentence = format!(
        "{select} learns from {} of {total} examples ({:.2} %), the same ones throughout the run",
        chosen.len(),
        100.0 * chosen.len() as f64 / total.max(1) as f64
    );
    let chosen_shards: Vec<TokenShard> = chosen_shards.collect();
    if files.len() > 1 {
        let of_file = |((file, shard), count): ((&PathBuf, &TokenShard), &usize)| {
            let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
            let kept = shard.answers().map_or(0, |answers| answers.starts.len());
            format!("{:.2} % of {name}", 100.0 * kept as f64 / (*count).max(1) as f64)
        };
        let parts: Vec<String> = files.iter().zip(&chosen_shards).zip(&counts).map(of_file).collect();
        sentence.push_str(&format!(" ({})", parts.join(", ")));
    }
    Ok((chosen_shards, Some(sentence)))
}

fn no_examples(file: &Path) -> TrainError {
    let problem = format!(
        "data.select chooses among examples, and {} holds texts: write prompts with completions or conversations, or leave data.select out",
        file.display()
    );
    TrainError::Config {
        origin: "the configuration does not fit the data".to_owned(),
        problems: vec![problem],
    }
}
