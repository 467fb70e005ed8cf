//! Where steps run: on the host's threads or on a device.

mod device;
mod host;
mod rows;

use dropcap_cache::{Death, KvCache, PoolUsage};
use dropcap_model::DecoderConfig;
use dropcap_policy::Stage;

pub(crate) use device::Device;
pub(crate) use host::Host;

use crate::demand::PoolSize;
use crate::memory::SequenceMemory;
use crate::prefix::Sharing;
use crate::{EngineError, Sampler, Sampling, TokenLogProb};

/// What runs the steps of an engine.
#[derive(Debug)]
pub(crate) enum Backend {
    Host(Box<Host>),
    Device(Box<Device>),
}

/// One sequence's part of a step.
pub(crate) struct Feed<'a> {
    pub(crate) memory: &'a mut SequenceMemory,
    pub(crate) tokens: &'a [u32],
    pub(crate) stage: Stage,
    /// The text's own budget.
    pub(crate) budget: Option<u32>,
    /// What is to be told of the prompt.
    pub(crate) targets: Targets<'a>,
    /// Present where a token is wanted after the last of `tokens`.
    pub(crate) draw: Option<NextToken<'a>>,
}

/// Prompt tokens whose log-probabilities are wanted, each of which follows a token of the feed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Targets<'a> {
    /// The token of the feed that the first of them follows; the others follow one another.
    pub(crate) row: usize,
    pub(crate) tokens: &'a [u32],
    /// Position of the first of them.
    pub(crate) position: usize,
    /// How many of the likeliest tokens come with each.
    pub(crate) top: usize,
}

/// How a token is chosen.
pub(crate) struct NextToken<'a> {
    pub(crate) sampler: &'a Sampler,
    /// Prompt and generated tokens.
    pub(crate) text: &'a [u32],
    /// A number in [0, 1).
    pub(crate) random: f32,
    /// Where its log-probability is wanted: how many of the likeliest tokens come with it.
    pub(crate) top: Option<usize>,
}

/// What a feed got; an error concerns this sequence alone.
pub(crate) type Answer = Result<Given, EngineError>;

/// What a feed asked for.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// One for each of its targets.
    pub(crate) prompt: Vec<TokenLogProb>,
    /// The new token, if it wanted one.
    pub(crate) token: Option<(u32, Option<TokenLogProb>)>,
}

/// Hears of every death: number of the feed, layer, lane.
pub(crate) type DeathSink<'a> = &'a mut dyn FnMut(usize, usize, usize, Death);

impl Backend {
    pub(crate) fn config(&self) -> &DecoderConfig {
        match self {
            Self::Host(host) => host.config(),
            Self::Device(device) => device.config(),
        }
    }

    pub(crate) fn pool(&self) -> PoolSize {
        match self {
            Self::Host(host) => host.pool(),
            Self::Device(device) => device.pool(),
        }
    }

    /// Refuses budgets of texts' own where the method acts by one for all.
    pub(crate) fn check_budget(&self) -> Result<(), EngineError> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Device(device) => device.check_budget(),
        }
    }

    /// Pages that a step can take now.
    pub(crate) fn free_pages(&self) -> usize {
        match self {
            Self::Host(host) => host.free_pages(),
            Self::Device(device) => device.free_pages(),
        }
    }

    /// What the pages take, all at one moment.
    pub(crate) fn usage(&self) -> PoolUsage {
        match self {
            Self::Host(host) => host.usage(),
            Self::Device(device) => device.usage(),
        }
    }

    /// Memory for a sequence that is about to run; none where all places are taken.
    pub(crate) fn open(
        &mut self,
        sampling: &Sampling,
        text: &[u32],
    ) -> Result<Option<SequenceMemory>, EngineError> {
        match self {
            Self::Host(host) => Ok(Some(host.open())),
            Self::Device(device) => device.open(sampling, text),
        }
    }

    /// How beginnings may be shared; not at all where none.
    pub(crate) fn sharing(&self) -> Option<Sharing> {
        match self {
            Self::Host(host) => Some(host.sharing()),
            Self::Device(_) => None,
        }
    }

    /// Memory for a sequence that begins with a cache of another; none where it must begin with nothing.
    pub(crate) fn hold(&self, cache: KvCache) -> Option<SequenceMemory> {
        match self {
            Self::Host(host) => Some(host.hold(cache)),
            Self::Device(_) => None,
        }
    }

    /// Frees what was dropped since the last call, where that takes a call.
    pub(crate) fn settle(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Host(_) => Ok(()),
            Self::Device(device) => device.settle(),
        }
    }

    /// Live entries of each layer of a sequence; none anywhere while it waits.
    pub(crate) fn live_entries(&self, memory: &SequenceMemory) -> Result<Vec<u64>, EngineError> {
        match (self, memory) {
            (_, SequenceMemory::Waiting) => Ok(vec![0; self.config().layers]),
            (Self::Host(_), SequenceMemory::Host(memory)) => Ok(host::live_entries(&memory.cache)),
            (Self::Device(device), SequenceMemory::Device(memory)) => device.live_entries(memory),
            _ => Err(EngineError::ForeignMemory),
        }
    }

    /// Runs one step and gives an answer for every feed.
    pub(crate) fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: DeathSink<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        match self {
            Self::Host(host) => host.run(feeds, died),
            Self::Device(device) => device.run(feeds, died),
        }
    }
}
