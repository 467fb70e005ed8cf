//! Where steps run: on the host's threads or on a device.

mod device;
mod host;
mod rows;

use dropcap_cache::{Death, PoolUsage};
use dropcap_model::DecoderConfig;
use dropcap_policy::Stage;

pub(crate) use device::Device;
pub(crate) use host::Host;

use crate::demand::PoolSize;
use crate::memory::{KeptMemory, SequenceMemory};
use crate::prefix::{Places, Sharing};
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

    /// How beginnings may be shared.
    pub(crate) fn sharing(&self) -> Sharing {
        match self {
            Self::Host(host) => host.sharing(),
            Self::Device(device) => device.sharing(),
        }
    }

    /// After how many tokens beginnings are kept, and how many there may be.
    pub(crate) fn keeps(&self) -> (Places, usize) {
        match self {
            Self::Host(_) => (Places::Often, host::KEPT),
            Self::Device(device) => (Places::Doubling, device.kept()),
        }
    }

    /// Keeps what a sequence that goes on has in the cache; none where there is no room.
    pub(crate) fn keep(&mut self, memory: &SequenceMemory) -> Result<Option<KeptMemory>, EngineError> {
        match (self, memory) {
            (Self::Host(_), SequenceMemory::Host(memory)) => Ok(Some(KeptMemory::Host(memory.cache.fork()))),
            (Self::Device(device), SequenceMemory::Device(memory)) => device.keep(memory, false),
            _ => Ok(None),
        }
    }

    /// The same for one that is over: on a device its pages change hands.
    pub(crate) fn keep_last(&mut self, memory: &SequenceMemory) -> Result<Option<KeptMemory>, EngineError> {
        match (self, memory) {
            (Self::Device(device), SequenceMemory::Device(memory)) => device.keep(memory, true),
            (backend, memory) => backend.keep(memory),
        }
    }

    /// Empty memory with what is kept of the first `tokens` tokens; as it was where there is no room.
    pub(crate) fn begin_with(
        &mut self,
        memory: SequenceMemory,
        kept: &KeptMemory,
        tokens: usize,
    ) -> Result<SequenceMemory, EngineError> {
        match (self, memory, kept) {
            (Self::Host(host), _, KeptMemory::Host(cache)) => {
                let mut cache = cache.fork();
                // Found by its tokens, so it is long enough.
                cache.rewind(u32::try_from(tokens).unwrap_or(u32::MAX))?;
                Ok(host.hold(cache))
            }
            (Self::Device(device), SequenceMemory::Device(memory), KeptMemory::Device(cache)) => {
                device.begin_with(memory, cache, tokens)
            }
            _ => Err(EngineError::ForeignMemory),
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
