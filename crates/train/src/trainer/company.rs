//! A training that several processes take part in.
//!
//! All of them hold the same parameters and take the same steps. The first one's state is given to the others when they
//! join, so only it has to read a saved one, and processors that round differently start alike.

use super::{Pressure, Trainer};
use crate::TrainError;
use crate::backend::Parameters;
use crate::collective::Collective;
use crate::signals::Stop;

impl Trainer {
    /// The same training together with others: from the state of the first process on, each runs its share of every
    /// step's passes.
    ///
    /// # Errors
    /// More processes than a step has passes; a process that is lost.
    pub fn among(mut self, others: Box<dyn Collective>) -> Result<Self, TrainError> {
        let passes = self.config.batch.sequences.div_ceil(self.config.batch.micro_sequences.max(1));
        let size = others.world().size;
        if size > passes {
            let batch = &self.config.batch;
            let problem = format!(
                "a step of {} sequences, {} at a time, has {passes} passes, and there are {size} processes: lower batch.micro_sequences, raise batch.sequences, or start fewer",
                batch.sequences, batch.micro_sequences
            );
            let origin = "the configuration does not fit the job".to_owned();
            return Err(TrainError::Config { origin, problems: vec![problem] });
        }
        self.others = others;
        if size > 1 {
            self.share_parameters()?;
            self.share_scales()?;
            self.share_pressure()?;
            let mut counts = [self.step, self.updates, self.skipped];
            self.share_bytes(bytemuck::cast_slice_mut(&mut counts))?;
            [self.step, self.updates, self.skipped] = counts;
        }
        Ok(self)
    }

    /// Lets the devices of several processes find each other; says what a person should know of it.
    ///
    /// # Errors
    /// A process that is lost.
    pub(super) fn connect(&mut self) -> Result<Option<String>, TrainError> {
        if self.others.world().size == 1 { Ok(None) } else { self.backend.connect(&mut *self.others) }
    }

    /// Brings together what each process has moved, before the first one saves it.
    ///
    /// # Errors
    /// A process that is lost.
    pub(super) fn complete(&mut self) -> Result<(), TrainError> {
        self.backend.complete(&mut *self.others)
    }

    /// Whether any process was asked to stop: they stop after the same step.
    ///
    /// # Errors
    /// A process that is lost.
    pub(super) fn is_asked_to_stop(&mut self, stop: &Stop) -> Result<bool, TrainError> {
        let mut asked = [f64::from(u8::from(stop.is_asked()))];
        self.others.sum_exact(&mut asked)?;
        Ok(asked[0] > 0.0)
    }

    /// Takes the first process's controller.
    pub(super) fn share_pressure(&mut self) -> Result<(), TrainError> {
        let mut numbers = self.pressure.numbers();
        self.share_bytes(bytemuck::cast_slice_mut(&mut numbers))?;
        let refused = |what| TrainError::Internal { what };
        if self.pressure != Pressure::None {
            self.pressure.restore(&numbers).map_err(refused)
        } else {
            Ok(())
        }
    }

    fn share_parameters(&mut self) -> Result<(), TrainError> {
        let Parameters { values, moments: [first, second] } = self.backend.export()?;
        let mut arrays = [values.into_owned(), first.into_owned(), second.into_owned()];
        for array in &mut arrays {
            self.share_bytes(bytemuck::cast_slice_mut(array))?;
        }
        let [values, first, second] = &arrays;
        self.backend.load(values, Some([first, second]))
    }

    fn share_scales(&mut self) -> Result<(), TrainError> {
        let mut scales = std::mem::take(&mut self.scales);
        for scale in &mut scales {
            self.share_bytes(bytemuck::cast_slice_mut(scale))?;
        }
        self.scales = scales;
        if self.scales.is_empty() { Ok(()) } else { self.backend.rescale(&self.scales) }
    }

    /// Overwrites bytes by the first process's.
    fn share_bytes(&mut self, bytes: &mut [u8]) -> Result<(), TrainError> {
        let mut shared = if self.others.world().is_first() { bytes.to_vec() } else { Vec::new() };
        self.others.share(&mut shared)?;
        if shared.len() != bytes.len() {
            let what = format!("{} bytes of another process where {} belong", shared.len(), bytes.len());
            return Err(TrainError::Internal { what });
        }
        bytes.copy_from_slice(&shared);
        Ok(())
    }
}
