//! The numbers of a text: what llama-perplexity prints, and perplexity by position.

use dropcap_scores::{Sample, bits, mean_nats, perplexity, quantile};

use super::{Measure, Pairs, to_dense};
use crate::record::Window;

/// Parts of a window whose perplexities are told apart.
const PARTS: usize = 4;

/// Loss is the cross-entropy in nats per token; its error is that of the mean over windows.
pub(super) fn measures(pairs: &Pairs<'_, Window>) -> Vec<Measure> {
    let windows = || pairs.iter().map(|(window, _)| *window);
    let nats = |window: &Window| window.nats.iter().map(|&nats| f64::from(nats)).sum::<f64>();
    let loss = |window: &Window| mean_nats(nats(window), window.nats.len() as u64);
    let sum: f64 = windows().map(nats).sum();
    let tokens: u64 = windows().map(|window| window.nats.len() as u64).sum();
    let bytes: u64 = windows().map(|window| window.bytes as u64).sum();
    let error = Sample::of(windows().map(loss)).standard_error;
    let all = perplexity(sum, tokens);
    let difference = to_dense(pairs, loss);
    let mut measures = vec![
        Measure {
            error: Some(all * error),
            // Of windows, as the loss: a perplexity is its exponential, and moves with it.
            to_dense: difference.map(|(_, error)| (all - dense_perplexity(pairs), all * error)),
            ..Measure::new("perplexity", all)
        },
        Measure { error: Some(error), to_dense: difference, ..Measure::new("loss", mean_nats(sum, tokens)) },
        Measure::new("bits per byte", bits(sum, bytes)),
    ];
    let mut divergence: Vec<f32> = windows().flat_map(|window| window.divergence.iter().copied()).collect();
    if !divergence.is_empty() {
        divergence.sort_by(f32::total_cmp);
        let mean = |window: &Window| {
            let sum: f64 = window.divergence.iter().map(|&nats| f64::from(nats)).sum();
            mean_nats(sum, window.divergence.len() as u64)
        };
        let all = divergence.iter().map(|&nats| f64::from(nats)).sum::<f64>() / divergence.len() as f64;
        let error = Sample::of(windows().map(mean)).standard_error;
        measures.push(Measure { error: Some(error), ..Measure::new("KL mean", all) });
        measures.push(Measure::new("KL median", quantile(&divergence, 0.5)));
        measures.push(Measure::new("KL 99 %", quantile(&divergence, 0.99)));
        let same = |window: &Window| window.same_top as f64 / window.nats.len().max(1) as f64;
        let equal: u64 = windows().map(|window| window.same_top as u64).sum();
        let error = Sample::of(windows().map(same)).standard_error;
        let share = equal as f64 / tokens.max(1) as f64;
        measures.push(Measure { error: Some(error), ..Measure::new("same top token", share) });
    }
    measures.extend(by_position(&windows().collect::<Vec<_>>()));
    measures
}

/// The dense run's perplexity on the same windows.
fn dense_perplexity(pairs: &Pairs<'_, Window>) -> f64 {
    let dense = || pairs.iter().filter_map(|(_, dense)| *dense).flat_map(|window| &window.nats);
    perplexity(dense().map(|&nats| f64::from(nats)).sum(), dense().count() as u64)
}

/// Perplexity of each part of the windows, by the position of the token that predicts.
fn by_position(windows: &[&Window]) -> Vec<Measure> {
    let length = windows.iter().map(|window| window.first + window.nats.len()).max().unwrap_or(0);
    let mut parts = [(0.0, 0_u64); PARTS];
    for window in windows {
        for (position, &nats) in (window.first..).zip(&window.nats) {
            let part = &mut parts[(position * PARTS / length.max(1)).min(PARTS - 1)];
            *part = (part.0 + f64::from(nats), part.1 + 1);
        }
    }
    let begin = |part: usize| part * length / PARTS;
    let measure = |(part, (nats, tokens))| {
        let name = format!("perplexity at {} to {}", begin(part), begin(part + 1).saturating_sub(1));
        Measure::new(name, perplexity(nats, tokens))
    };
    parts.into_iter().enumerate().filter(|(_, (_, tokens))| *tokens > 0).map(measure).collect()
}

/// The mean keep ratio of each lane of each layer.
pub(super) fn keep_by_lane(windows: &[&Window]) -> Vec<Vec<f64>> {
    let Some(first) = windows.first() else { return Vec::new() };
    let mut sums: Vec<Vec<f64>> = first.keep_by_lane.iter().map(|lanes| vec![0.0; lanes.len()]).collect();
    for window in windows {
        for (sums, lanes) in sums.iter_mut().zip(&window.keep_by_lane) {
            sums.iter_mut().zip(lanes).for_each(|(sum, keep)| *sum += keep / windows.len() as f64);
        }
    }
    sums
}
