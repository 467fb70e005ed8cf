//! What is under test: a model's weights, or random ones of a shape, and the methods to run them with.

use std::sync::Arc;

use anyhow::{Result, bail};
use dropcap_kernels::Team;
use dropcap_kernels::cuda::read_bandwidth;
use dropcap_methods::MethodSpec;
use dropcap_model::device::DeviceWeights;
use dropcap_model::{Decoder, DecoderConfig};
use dropcap_policy::{EvictionPolicy, Needs};
use dropcap_weights::Fingerprint;

use super::device::DeviceBench;
use super::measure::{Bench, Samples, Test};
use super::{Arguments, bandwidth, processor, shapes};
use crate::arguments::{MachineArguments, ModelArguments};
use crate::loading::{self, Compute, Found, device_for, facts_of};

/// Weights in memory, and methods.
pub struct Subject {
    /// As the table names it.
    pub name: String,
    /// Where its weights are.
    pub compute: Compute,
    /// `none` leads if it is there, since the others are compared with it.
    pub methods: Vec<(MethodSpec, Arc<dyn EvictionPolicy>)>,
}

impl Subject {
    /// Opens what the flags name, once it is known that all tests fit.
    pub fn open(arguments: &Arguments, tests: &[Test]) -> Result<Self> {
        match &arguments.shape {
            Some(shape) => Self::of_shape(shape, arguments, tests),
            None => Self::of_model(arguments, tests),
        }
    }

    fn of_model(arguments: &Arguments, tests: &[Test]) -> Result<Self> {
        let name = arguments.model.name();
        let found = Found::open(&arguments.model.source)?;
        let methods = methods(arguments, &|spec| found.policy(spec))?;
        let config = found.checkpoint.config();
        let device =
            device_for(arguments.model.machine.device, config, methods.iter().map(|(_, policy)| policy))?;
        check(
            tests,
            &name,
            config.max_positions,
            if device.is_some() { warm(arguments, &methods) } else { 0 },
        )?;
        Ok(Self { name, compute: found.load(device, &arguments.model)?, methods })
    }

    fn of_shape(shape: &str, arguments: &Arguments, tests: &[Test]) -> Result<Self> {
        let positions = tests.iter().map(Test::positions).max().unwrap_or(0);
        let mut config = shapes::named(shape, positions)?;
        let methods_for = |config: &DecoderConfig| {
            let facts = facts_of(config, Some(Fingerprint::default()), None);
            methods(arguments, &|spec| loading::policy(spec, &facts))
        };
        let warm = warm(arguments, &methods_for(&config)?);
        config.max_positions = config.max_positions.max(positions.saturating_add(warm));
        let methods = methods_for(&config)?;
        let ModelArguments { dtype, machine, .. } = &arguments.model;
        let device = device_for(machine.device, &config, methods.iter().map(|(_, policy)| policy))?;
        let compute = match device {
            Some(device) => Compute::Device(Arc::new(DeviceWeights::random(&device, &config, *dtype, 0)?)),
            None => Compute::Host {
                team: Arc::new(Team::new(machine.threads())?),
                decoder: Arc::new(Decoder::random(&config, *dtype, 0)?),
            },
        };
        Ok(Self { name: shape.to_owned(), compute, methods })
    }

    /// Runs one test.
    pub fn measure(
        &self,
        arguments: &Arguments,
        policy: &dyn EvictionPolicy,
        test: &Test,
    ) -> Result<Samples> {
        let MachineArguments { kv_dtype, kv_limit, .. } = arguments.model.machine;
        let kv_dtype = self.compute.kv_dtype(kv_dtype);
        let (warmup, repeats) = (arguments.warmup, arguments.repeats);
        let chunk = arguments.chunk.unwrap_or(self.compute.chunk());
        match &self.compute {
            Compute::Host { team, decoder } => {
                Bench { decoder, team, policy, kv_dtype, kv_limit, chunk }.run(test, warmup, repeats)
            }
            Compute::Device(weights) => {
                DeviceBench { weights, policy, kv_dtype, kv_limit, chunk }.run(test, warmup, repeats)
            }
        }
    }

    /// What a plain read loop over the same memory reads.
    pub fn read_bytes_per_second(&self) -> Result<f64> {
        match &self.compute {
            Compute::Host { team, .. } => Ok(bandwidth::read_bytes_per_second(team)),
            Compute::Device(weights) => Ok(read_bandwidth(weights.device())?),
        }
    }

    /// Bytes of weights that a decode step reads.
    pub fn streamed_bytes(&self) -> usize {
        match &self.compute {
            Compute::Host { decoder, .. } => decoder.streamed_bytes(),
            Compute::Device(weights) => weights.streamed_bytes(),
        }
    }

    /// The name of what computes.
    pub fn processor(&self) -> String {
        match &self.compute {
            Compute::Host { .. } => processor(),
            Compute::Device(weights) => weights.device().facts().name.clone(),
        }
    }

    /// Threads, or multiprocessors.
    pub fn threads(&self) -> usize {
        match &self.compute {
            Compute::Host { team, .. } => team.threads(),
            Compute::Device(weights) => weights.device().facts().multiprocessors as usize,
        }
    }
}

/// Refuses what does not fit into `limit` positions before minutes are spent on what does; generating takes `warm` more.
fn check(tests: &[Test], name: &str, limit: usize, warm: usize) -> Result<()> {
    for test in tests {
        let warm = if test.generation > 0 { warm } else { 0 };
        let positions = test.positions().saturating_add(warm);
        if positions > limit {
            let (test, depth) = (test.name(), test.depth);
            bail!(
                "{test} at depth {depth} takes {positions} positions, and {name} has {limit}: ask for fewer"
            );
        }
    }
    Ok(())
}

/// Positions that generating on a device takes before time is taken, under any of the methods.
fn warm(arguments: &Arguments, methods: &[(MethodSpec, Arc<dyn EvictionPolicy>)]) -> usize {
    let step = arguments.chunk.unwrap_or(Compute::DEVICE_CHUNK);
    methods.iter().map(|(_, policy)| warm_under(policy.needs(), step)).max().unwrap_or(0)
}

/// What a method wants together at a prompt's end, a step of so many tokens at most, and one token behind it.
fn warm_under(needs: Needs, step: usize) -> usize {
    needs.together(step).max(1).saturating_add(1)
}

fn methods(
    arguments: &Arguments,
    build: &dyn Fn(&MethodSpec) -> Result<Arc<dyn EvictionPolicy>>,
) -> Result<Vec<(MethodSpec, Arc<dyn EvictionPolicy>)>> {
    let mut specs = arguments.methods.clone();
    if specs.is_empty() {
        specs.push("none".parse()?);
    }
    for keep in &arguments.keep {
        specs.push(format!("simulate(keep={keep})").parse()?);
    }
    specs.sort_by_key(|spec| spec.to_string() != "none");
    specs.into_iter().map(|spec| build(&spec).map(|policy| (spec, policy))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generating_on_a_device_takes_the_positions_of_its_warm_steps_too() {
        let wants = |together| Needs { together, ..Needs::default() };
        assert_eq!([0, 1, 32, 4096].map(|together| warm_under(wants(together), 2048)), [2, 2, 33, 2049]);

        let test = |prompt, generation| Test { prompt, generation, depth: 990, batch: 1 };
        let fits = |tests: &[Test], warm| check(tests, "gpt2", 1024, warm);
        assert!(fits(&[test(0, 32)], 2).is_ok() && fits(&[test(34, 0)], 33).is_ok());
        let refused = fits(&[test(0, 16), test(0, 32)], 3).unwrap_err().to_string();
        assert_eq!(refused, "tg32 at depth 990 takes 1025 positions, and gpt2 has 1024: ask for fewer");
    }
}
