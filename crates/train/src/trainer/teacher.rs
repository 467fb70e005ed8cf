//! Whose predictions a student imitates.

use dropcap_kernels::Team;

use super::Source;
use crate::TrainError;
use crate::backend::{DenseTeacher, Room};
use crate::config::{Config, Trained};
use crate::device;
use crate::network::{Layout, Network};

impl Source {
    /// The same source with another model for its teacher, which must have its tokens.
    ///
    /// # Errors
    /// A teacher with another vocabulary.
    pub fn taught_by(mut self, teacher: Source) -> Result<Self, TrainError> {
        let (own, other) = (self.config().vocabulary, teacher.config().vocabulary);
        let differs = (0..own as u32).find(|&id| self.tokenizer().token(id) != teacher.tokenizer().token(id));
        let problem = match differs {
            _ if own != other => format!(
                "the teacher has {other} tokens and the student {own}: predictions are compared token by token, so both must have the same"
            ),
            Some(id) => format!(
                "token {id} is {:?} to the student and {:?} to the teacher: predictions are compared token by token, so take a teacher with the same tokenizer",
                self.tokenizer().token(id).unwrap_or_default(),
                teacher.tokenizer().token(id).unwrap_or_default()
            ),
            None => {
                self.teacher = Some(Box::new(teacher));
                return Ok(self);
            }
        };
        let origin = "teacher does not fit the model".to_owned();
        Err(TrainError::Config { origin, problems: vec![problem] })
    }

    /// The teacher, where that is another model.
    #[must_use]
    pub fn teacher(&self) -> Option<&Source> {
        self.teacher.as_deref()
    }

    /// What a saved state must have started from and learned from.
    ///
    /// # Errors
    /// A file that became unreadable.
    pub fn lineage(&self) -> Result<String, TrainError> {
        Ok(match &self.teacher {
            None => self.identity()?,
            Some(teacher) => format!("{}, taught by {}", self.identity()?, teacher.identity()?),
        })
    }
}

/// Refuses a teacher that cannot read what the student reads, where its predictions are imitated.
pub(super) fn check_teacher(config: &Config, source: &Source) -> Result<(), TrainError> {
    let Some(teacher) = source.teacher().filter(|_| config.distill > 0.0) else { return Ok(()) };
    let tokens = config.sequence_tokens(source.config().max_positions)?;
    let positions = teacher.config().max_positions;
    if positions >= tokens {
        return Ok(());
    }
    let problem = format!("batch.tokens is {tokens}, and the teacher has {positions} positions");
    let origin = "the configuration does not fit the teacher".to_owned();
    Err(TrainError::Config { origin, problems: vec![problem] })
}

/// Who teaches on a device; a teacher that does not share its student's weights has these `values`.
pub(super) fn device_teacher<'a>(
    config: &Config,
    source: &'a Source,
    values: &'a [f32],
) -> device::Teacher<'a> {
    match source.teacher() {
        _ if config.distill == 0.0 => device::Teacher::None,
        Some(other) => {
            device::Teacher::Other(device::OtherModel { config: other.config(), plan: other.plan(), values })
        }
        None if config.train == Trained::All => device::Teacher::Apart(values),
        None => device::Teacher::Student,
    }
}

/// The weights of a teacher that does not share its student's; nothing where there is none.
///
/// # Errors
/// A file that became unreadable.
pub(super) fn apart(config: &Config, source: &Source) -> Result<Vec<f32>, TrainError> {
    let model = match source.teacher() {
        _ if config.distill == 0.0 => return Ok(Vec::new()),
        Some(other) => other,
        None if config.train == Trained::All => source,
        None => return Ok(Vec::new()),
    };
    model.weights(&Layout::new(model.config(), model.plan(), None), config.seed)
}

/// The teacher of a configuration on the processor, if it has one: another model, or the student's own without forgetting.
pub(super) fn teacher(
    config: &Config,
    source: &Source,
    team: &Team,
    student: &Network,
    held: &[f32],
    room: Room,
) -> Result<Option<DenseTeacher>, TrainError> {
    let dense =
        |source: &Source| Network::new(source.config(), source.plan(), None, &[]).map(Network::forward_only);
    let apart = |source: &Source| {
        let dense = dense(source)?;
        let values = source.weights(dense.layout(), config.seed)?;
        DenseTeacher::apart(team, dense, values, room)
    };
    Ok(match (source.teacher(), config.train) {
        _ if config.distill == 0.0 => None,
        (Some(other), _) => Some(apart(other)?),
        (None, Trained::All) => Some(apart(source)?),
        (None, Trained::Gates) => Some(DenseTeacher::student(student, room)),
        (None, Trained::Lora) => Some(DenseTeacher::beneath(team, dense(source)?, held, room)?),
    })
}
