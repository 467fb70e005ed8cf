//! What a run will need, before it is begun.

use std::fmt;
use std::time::{Duration, Instant};

use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSlice, Stopwatch};
use dropcap_kernels::matmul::{Sum, TrainMatrix, TrainProducts};
use dropcap_kernels::{DType, Epilogue, KernelError, PackedMatrix, Team, matmul};

use super::Source;
use super::adapter::layout;
use super::start::{check_room, student, threads};
use super::teacher::check_teacher;
use crate::TrainError;
use crate::config::{Config, Trained};
use crate::network::{Group, Network};

/// Memory and time of a run, estimated from shapes and from how fast this machine multiplies.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Parameters of the model.
    pub weights: usize,
    /// Parameters of the gates.
    pub gates: usize,
    /// Parameters that are trained: those of the model or of its factors, and the gates'.
    pub trained: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// Bytes of values, of gradients and both moments of what is trained, of what products read of them, and of a teacher.
    pub parameter_bytes: usize,
    /// Bytes of one micro-batch's activations.
    pub activation_bytes: usize,
    /// Multiply-adds of a step, in floating-point operations.
    pub step_operations: f64,
    /// What this machine or its device does in a second.
    pub operations_per_second: f64,
    /// Steps in all.
    pub steps: u64,
    /// The device that it runs on, and bytes that are free there; none for the processor.
    pub device: Option<(String, usize)>,
}

/// Rows, inputs and outputs of the product that measures the machine.
const TRIAL: (usize, usize, usize) = (512, 512, 1024);
/// How long it is measured.
const TRIAL_TIME: Duration = Duration::from_millis(200);
/// Share of a product's speed that a whole step is taken to reach: a guess, which only the estimate rests on.
const EFFICIENCY: f64 = 0.7;

impl Plan {
    /// The plan of a configuration for a model, on `device` or on the processor.
    ///
    /// # Errors
    /// A configuration that does not fit the model or the device; too little memory even to look at it.
    pub fn of(config: &Config, source: &Source, device: Option<&Device>) -> Result<Self, TrainError> {
        check_teacher(config, source)?;
        let model = source.config();
        let tokens = config.sequence_tokens(model.max_positions)?;
        let form = config.gates.as_ref().map(|gates| gates.form(model.kv_heads));
        let layout = layout(config, source, form)?;
        let (weights, gates) = (layout.group(Group::Weights).len(), layout.group(Group::Gates).len());
        let trained = layout.trained().len();
        let teacher = config.distill > 0.0;
        let (parameter_bytes, activation_bytes, rate) = match device {
            Some(device) => {
                let need = check_room(config, source, device)?;
                (need.parameters, need.activations + need.rest, measure_device(device)?)
            }
            None => {
                let network = student(config, source, form, &[])?;
                let other = source.teacher().filter(|_| teacher);
                let of_other = other
                    .map(|other| Network::new(other.config(), other.plan(), None, &[]))
                    .transpose()?
                    .map(Network::forward_only);
                let taught = match config.train {
                    _ if !teacher => 0,
                    _ if of_other.is_some() => {
                        2 * of_other.as_ref().map_or(0, |network| network.layout().len())
                    }
                    Trained::All => 2 * weights,
                    Trained::Gates => 0,
                    Trained::Lora => weights,
                };
                let copies = 3 * layout.len() + 3 * trained + taught;
                let (micro, recompute) = (config.batch.micro_sequences, config.checkpoint.activations);
                let watching = of_other.as_ref().unwrap_or(&network);
                let watching = if teacher { watching.activations(micro, tokens, true).bytes() } else { 0 };
                let activations = network.activations(micro, tokens, recompute).bytes() + watching;
                (copies * size_of::<f32>(), activations, measure(threads(config))?)
            }
        };
        let step_tokens = config.batch.sequences * tokens;
        // Tables that are only looked up cost nothing; a tied head is counted as the embedding.
        let looked_up = source.plan().positions.as_ref().map_or(0, |table| table.outputs() * table.inputs)
            + if model.tied_embeddings { 0 } else { model.vocabulary * model.hidden };
        let products = 2.0 * (weights - looked_up.min(weights) + gates) as f64;
        // Scores and mixing over half of the square.
        let attention = 2.0 * (model.layers * model.query_width() * tokens) as f64;
        let again = if config.checkpoint.activations { 1.0 } else { 0.0 };
        let back = if config.train == Trained::All { 2.0 } else { 1.0 };
        let passes = 1.0 + back + again + if teacher { 1.0 } else { 0.0 };
        Ok(Self {
            weights,
            gates,
            trained,
            tokens,
            step_tokens,
            parameter_bytes,
            activation_bytes,
            step_operations: passes * (products + attention) * step_tokens as f64,
            operations_per_second: rate,
            steps: config.steps,
            device: match device {
                None => None,
                Some(device) => {
                    Some((device.facts().name.clone(), device.memory().map_err(KernelError::from)?.0))
                }
            },
        })
    }

    /// About how long a step takes.
    #[must_use]
    pub fn step_time(&self) -> Duration {
        Duration::from_secs_f64(self.step_operations / (self.operations_per_second * EFFICIENCY))
    }
}

/// Side of the square product that measures a device.
const DEVICE_TRIAL: usize = 4096;

/// Floating-point operations in a second on a device, in bf16.
fn measure_device(device: &Device) -> Result<f64, TrainError> {
    let side = DEVICE_TRIAL;
    let zeros = || DeviceBuffer::<u8>::zeroed(device, "a product's trial", 2 * side * side);
    let [a, b, out] = [zeros(), zeros(), zeros()];
    let (a, b, out) =
        (a.map_err(KernelError::from)?, b.map_err(KernelError::from)?, out.map_err(KernelError::from)?);
    let matrix = |of| TrainMatrix::new(DeviceSlice::from(of), DType::Bf16, side, side, side);
    let products = TrainProducts::new(device)?;
    let watch = Stopwatch::new(device).map_err(KernelError::from)?;
    let mut seconds = f32::INFINITY;
    // The first one also starts the library.
    for _ in 0..4 {
        watch.start().map_err(KernelError::from)?;
        products.multiply(matrix(&a)?, matrix(&b)?, Sum::Store, None, matrix(&out)?)?;
        seconds = seconds.min(watch.stop().map_err(KernelError::from)?);
    }
    Ok(2.0 * (side as f64).powi(3) / f64::from(seconds))
}

/// Floating-point operations in a second, in a product of about the size of a layer's.
fn measure(threads: usize) -> Result<f64, TrainError> {
    let team = Team::new(threads)?;
    let (rows, inputs, outputs) = TRIAL;
    let weights = PackedMatrix::random(outputs, inputs, DType::F32, 0.1, 1)?;
    let (x, mut out) = (vec![0.5; rows * inputs], vec![0.0; rows * outputs]);
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < TRIAL_TIME {
        matmul(&team, &x, &weights, None, Epilogue::Store, &mut out)?;
        rounds += 1;
    }
    Ok(f64::from(rounds) * 2.0 * (rows * inputs * outputs) as f64 / begun.elapsed().as_secs_f64())
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let millions = |count: usize| count as f64 / 1e6;
        let step = self.step_time();
        writeln!(
            f,
            "parameters   {:.2} M, and {:.2} M of gates; {:.2} M are trained",
            millions(self.weights),
            millions(self.gates),
            millions(self.trained)
        )?;
        writeln!(f, "batch        {} tokens in sequences of {}", self.step_tokens, self.tokens)?;
        if let Some((device, free)) = &self.device {
            writeln!(f, "device       {device}, {:.0} MiB free", mib(*free))?;
        }
        writeln!(
            f,
            "memory       {:.0} MiB: {:.0} of parameters, gradients and moments, {:.0} of activations",
            mib(self.parameter_bytes + self.activation_bytes),
            mib(self.parameter_bytes),
            mib(self.activation_bytes)
        )?;
        write!(
            f,
            "time         about {:.1} s a step at {:.0} GFLOP/s, {:.0} minutes for {} steps",
            step.as_secs_f64(),
            self.operations_per_second / 1e9,
            step.as_secs_f64() * self.steps as f64 / 60.0,
            self.steps
        )
    }
}
