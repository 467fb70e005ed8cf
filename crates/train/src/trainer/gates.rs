//! The gates of a training at its first step.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::{Pressure, Source, Texts};
use crate::TrainError;
use crate::backend::Backend;
use crate::config::{self, BudgetWord, Budgets, Config, GateRule, Gates, Scale};
use crate::network::{Group, Layout};
use crate::recipe::{Controller, Probe, share_out};

/// Texts that the model is probed on.
const PROBE_TEXTS: usize = 4;
/// Standard deviation of published gates at their start; the public code means another and overwrites it with this.
const PUBLISHED_DEVIATION: f32 = 0.02;
/// A step that batches never reach, so that probes see other windows than training does.
const PROBE_STEP: u64 = u64::MAX;
/// Weight of the sparsity term where a controller moves it (the published one).
const FIRST_GAMMA: f64 = 0.3;

/// What a training begins with.
pub(super) struct Fitted {
    /// Of the gates' input, per layer.
    pub(super) scales: Vec<Vec<f32>>,
    pub(super) pressure: Pressure,
}

/// Draws gates into `values` `[layout.len()]`, after a look at what the model that `backend` holds does without.
pub(super) fn fit(
    config: &Config,
    gates: &Gates,
    source: &Source,
    backend: &mut dyn Backend,
    values: &mut [f32],
    texts: &Texts,
    told: &mut dyn FnMut(&str),
) -> Result<Fitted, TrainError> {
    let model = source.config();
    check_budgets(config, model.layers)?;
    let sparsity = config.sparsity.clone().unwrap_or_default().pressure();
    let probed = matches!(
        &sparsity,
        config::Pressure::Target { budgets: Budgets::Word(BudgetWord::Probe), .. } if gates.rule != GateRule::Soft
    );
    let (mut scales, mut sensitivities) = (Vec::new(), Vec::new());
    if gates.scale == Scale::Rms || probed {
        told("looking at the dense model: channels and layers");
        let texts = probe_texts(texts);
        let mut probe = Probe { backend: &mut *backend, config: model, texts: &texts };
        if gates.scale == Scale::Rms {
            scales = probe.input_scales()?;
        }
        if probed {
            sensitivities = probe.sensitivities()?;
        }
    }
    draw(backend.layout(), model.hidden, gates, config.seed, values)?;
    let pressure = match sparsity {
        config::Pressure::Gamma { gamma, .. } => Pressure::Gamma(gamma),
        config::Pressure::Target { .. } if gates.rule == GateRule::Soft => Pressure::Gamma(FIRST_GAMMA),
        config::Pressure::Target { keep, trained, ramp, budgets } => {
            let (shares, trades) = match budgets {
                Budgets::Prior(shares) => (shares, false),
                Budgets::Word(BudgetWord::Uniform) => (vec![1.0; model.layers], true),
                // Windows are a poor stand-in for learned lifetimes: they overrate the layers that they hurt most. The
                // root is the better place to start from (LOG.md).
                Budgets::Word(BudgetWord::Probe) => {
                    (share_out(&sensitivities, keep).into_iter().map(f64::sqrt).collect(), true)
                }
            };
            Pressure::Controlled(Controller::new(trained, ramp, &shares, trades).settled_at(keep))
        }
    };
    Ok(Fitted { scales, pressure })
}

/// Refuses shares of another number of layers.
pub(super) fn check_budgets(config: &Config, layers: usize) -> Result<(), TrainError> {
    let budgets = config.sparsity.as_ref().and_then(|sparsity| sparsity.budgets.as_ref());
    if let Some(Budgets::Prior(shares)) = budgets
        && shares.len() != layers
    {
        let problem =
            format!("sparsity.budgets has {} shares, and the model has {layers} layers", shares.len());
        let origin = "the configuration does not fit the model".to_owned();
        return Err(TrainError::Config { origin, problems: vec![problem] });
    }
    Ok(())
}

fn probe_texts(texts: &Texts) -> Vec<Vec<u32>> {
    let batch = texts.train.batch(PROBE_STEP);
    batch.ids.chunks_exact(batch.tokens).take(PROBE_TEXTS).map(<[u32]>::to_vec).collect()
}

/// Draws the gates' maps and sets their biases.
///
/// Hard gates start with a zero query map, and gates that decide at birth with the zero map of their only one: every score
/// is the bias, and which way a score should go is the first thing that is learned.
fn draw(
    layout: &Layout,
    hidden: usize,
    gates: &Gates,
    seed: u64,
    values: &mut [f32],
) -> Result<(), TrainError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Apart from what draws the weights of a model from scratch.
    random.set_stream(1);
    let (query, key) = match gates.rule {
        GateRule::Soft => (PUBLISHED_DEVIATION, PUBLISHED_DEVIATION),
        GateRule::Hard => (0.0, 1.0 / (hidden as f32).sqrt()),
        GateRule::Birth => (0.0, 0.0),
    };
    let normal = |deviation| {
        Normal::new(0.0, deviation).map_err(|error| TrainError::Internal { what: error.to_string() })
    };
    let (query, key) = (normal(query)?, normal(key)?);
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Gates) {
        let values = &mut values[slot.range.clone()];
        if slot.name.ends_with("query.weight") {
            values.fill_with(|| query.sample(&mut random));
        } else if slot.name.ends_with("key.weight") {
            values.fill_with(|| key.sample(&mut random));
        } else {
            values.fill(gates.bias as f32);
        }
    }
    Ok(())
}
