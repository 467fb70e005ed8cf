//! Which kernels a decoder is compiled from.

use dropcap_kernels::cuda::{SOURCES, Source, Specialisation};
use dropcap_policy::{Needs, Ranking, Score};

use super::DeviceWeights;
use super::rules::DeviceRules;

/// The kernel files that a decoder loads, each with what it is compiled for.
pub(super) fn needed(
    specialisation: &Specialisation,
    rules: &DeviceRules,
    ranking: Option<&Ranking>,
    needs: Needs,
    weights: &DeviceWeights,
) -> Vec<(Source, Specialisation)> {
    let score = ranking.map(|ranking| ranking.score);
    let unused = |file: &str| match file {
        "ranking/mass.cu" => !score.is_some_and(Score::attends),
        "ranking/columns.cu" => !score.is_some_and(Score::hears),
        "ranking/keys.cu" => {
            !matches!(score, Some(Score::KeyNorm | Score::KeyDifference | Score::Noise { .. }))
        }
        "ranking/compactor.cu" => !matches!(score, Some(Score::Compact { .. })),
        "ranking/expected.cu" => !matches!(score, Some(Score::Expected { .. })),
        "ranking/lag.cu" => !matches!(score, Some(Score::Lag { .. })),
        "ranking/pool.cu" => !matches!(score, Some(Score::Window { .. })),
        "ranking/select.cu" => score.is_none(),
        "ranking/told.cu" => !matches!(score, Some(Score::Attention { .. } | Score::Softened { .. })),
        "rope/anchor.cu" => needs.anchored.is_none(),
        "rope/renumber.cu" => !needs.renumbers,
        "similarity/similarity.cu" => !needs.layers,
        "matmul/blocks.cu" => weights.largest_in_blocks().is_none(),
        "vote/vote.cu" => rules.gates.as_ref().is_none_or(|gates| gates.voting.is_none()),
        "lifetimes/inherit.cu" => rules.inherits.is_none(),
        _ => matches!(file, "matmul/random.cu" | "cuda/bandwidth.cu"),
    };
    let compiled_for = |source: &Source| match source.file {
        "sampling/sample.cu" => Specialisation::NEUTRAL,
        _ => *specialisation,
    };
    let files = SOURCES.iter().filter(|source| !unused(source.file));
    files.map(|source| (*source, compiled_for(source))).collect()
}
