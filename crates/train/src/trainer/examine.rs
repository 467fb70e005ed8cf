//! Everything that a run looks at before its first step, without a trace on the disk.

use dropcap_kernels::cuda::Device;

use super::gates::check_budgets;
use super::run::{check_claim, tell_borders, tell_learned};
use super::state::{check_model, state_bytes};
use super::{Plan, Source};
use crate::TrainError;
use crate::checkpoint;
use crate::config::Config;
use crate::metrics::{MetricsLog, Report};

/// What a run would do.
#[derive(Debug, Clone, PartialEq)]
pub struct Examined {
    /// Memory and time.
    pub plan: Plan,
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens of each held-out file.
    pub valid_tokens: Vec<u64>,
    /// Steps of the saved state that it would go on from; 0 at the beginning.
    pub from_step: u64,
}

/// Refuses what [`super::run`] would refuse before its first step, with the same error: the directory, the texts to
/// their last line, the model. All text is tokenized, so it takes as long as the run does before it begins.
///
/// # Errors
/// Those of the run.
pub fn examine(
    config: &Config,
    source: &Source,
    device: Option<&Device>,
    report: &mut dyn Report,
) -> Result<Examined, TrainError> {
    check_claim(&config.output, config)?;
    check_budgets(config, source.config().layers)?;
    let plan = Plan::of(config, source, device)?;
    let state = checkpoint::examine(&config.output, state_bytes(plan.trained))?;
    if let Some(state) = &state {
        check_model(source, state)?;
    }
    MetricsLog::check(&config.output.join(MetricsLog::FILE))?;
    tell_borders(source, report);
    let texts = source.texts(config, false, &mut |prepared| report.prepared(&prepared))?;
    tell_learned(&texts, plan.tokens, report);
    Ok(Examined {
        plan,
        train_tokens: texts.train.total(),
        valid_tokens: texts.valid.iter().map(crate::data::Batches::total).collect(),
        from_step: state.map_or(0, |state| state.step()),
    })
}
