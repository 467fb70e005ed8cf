//! Where a sequence's entries are.

use dropcap_cache::{CacheError, KvCache, KvReport, LayerIdx};
use dropcap_kernels::KvFormat;
use dropcap_kernels::lifetimes::CacheOverflow;
use dropcap_model::device::{DeviceDecoder, KeptCache, Slot, SlotState};

/// The cache of one sequence, on the host or on a device.
#[derive(Debug)]
pub(crate) enum SequenceMemory {
    /// None yet, or none any more: the sequence waits.
    Waiting,
    /// In pages of the host.
    Host(HostMemory),
    /// In a slot of a device.
    Device(DeviceMemory),
}

/// What a sequence left in the cache, for others that begin alike.
#[derive(Debug)]
pub(crate) enum KeptMemory {
    /// A fork, which shares its pages until somebody writes there.
    Host(KvCache),
    /// On a device, where nobody else has its pages.
    Device(KeptCache),
}

impl KeptMemory {
    /// Pages that it holds; those that forks share count for each.
    pub(crate) fn pages(&self) -> usize {
        match self {
            Self::Host(cache) => cache.pages(),
            Self::Device(cache) => cache.pages(),
        }
    }
}

/// A cache on the host.
#[derive(Debug)]
pub(crate) struct HostMemory {
    pub(crate) cache: KvCache,
    /// Whether nothing of it is ever freed: then it never writes pages that it shares, but for its last.
    pub(crate) is_dense: bool,
}

/// What the host knows of a slot.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    pub(crate) slot: Slot,
    pub(crate) next_position: u32,
    pub(crate) state: SlotState,
    pub(crate) shape: DeviceShape,
}

/// What a slot's numbers mean.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceShape {
    /// Lanes of a sequence, all layers together.
    pub(crate) lanes: usize,
    pub(crate) page_bytes: usize,
    pub(crate) entry_bytes: usize,
    /// Bytes of one entry's key and value alone.
    pub(crate) key_value_bytes: usize,
    /// The format of the pages.
    pub(crate) dtype: KvFormat,
}

impl SequenceMemory {
    /// Tokens that went through all layers.
    pub(crate) fn next_position(&self) -> u32 {
        match self {
            Self::Waiting => 0,
            Self::Host(memory) => memory.cache.next_position(),
            Self::Device(memory) => memory.next_position,
        }
    }

    /// Pages that a step of `count` tokens takes at most.
    pub(crate) fn pages_wanted(&self, count: usize) -> usize {
        match self {
            Self::Waiting => 0,
            Self::Host(memory) if memory.is_dense => memory.cache.pages_appended(count),
            Self::Host(memory) => memory.cache.pages_wanted(count),
            Self::Device(memory) => memory.pages_wanted(count),
        }
    }

    /// Pages that it holds.
    pub(crate) fn pages_held(&self) -> usize {
        match self {
            Self::Waiting => 0,
            Self::Host(memory) => memory.cache.pages(),
            Self::Device(memory) => memory.state.pages,
        }
    }

    /// Pages that it may have to copy, because others see them, before it can free what is there.
    pub(crate) fn copies_wanted(&self) -> usize {
        match self {
            Self::Host(memory) if !memory.is_dense => memory.cache.pages_wanted(0),
            Self::Host(_) | Self::Waiting | Self::Device(_) => 0,
        }
    }

    /// Whether the cache could hold every number that it was given.
    pub(crate) fn check_range(&self) -> Result<(), CacheError> {
        match self {
            Self::Host(memory) => memory.cache.check_range(),
            Self::Device(memory) => memory.check_range(),
            Self::Waiting => Ok(()),
        }
    }

    /// How much memory the sequence takes and spares.
    pub(crate) fn report(&self) -> KvReport {
        match self {
            Self::Waiting => KvReport::default(),
            Self::Host(memory) => memory.cache.report(),
            Self::Device(memory) => memory.report(),
        }
    }
}

impl DeviceMemory {
    /// An empty slot of a decoder.
    pub(crate) fn new(slot: Slot, decoder: &DeviceDecoder) -> Self {
        let (config, groups) = (decoder.config(), decoder.groups());
        let shape = DeviceShape {
            lanes: config.layers * groups,
            page_bytes: decoder.page_bytes(),
            entry_bytes: decoder.entry_bytes(),
            key_value_bytes: decoder.key_value_bytes(),
            dtype: decoder.options().kv_dtype,
        };
        Self { slot, next_position: 0, state: SlotState::empty(shape.lanes), shape }
    }

    /// As [`SequenceMemory::pages_wanted`].
    pub(crate) fn pages_wanted(&self, count: usize) -> usize {
        self.state.most_pages(self.shape.lanes, count)
    }

    /// As [`SequenceMemory::check_range`].
    pub(crate) fn check_range(&self) -> Result<(), CacheError> {
        let Some(CacheOverflow { what, position, layer, number }) = self.state.overflow else {
            return Ok(());
        };
        Err(CacheError::Range { layer: LayerIdx(layer), what, position, number, dtype: self.shape.dtype })
    }

    /// As [`SequenceMemory::report`].
    pub(crate) fn report(&self) -> KvReport {
        let Self { next_position, state, shape, .. } = self;
        let logical_entries = u64::from(*next_position) * shape.lanes as u64;
        KvReport {
            logical_entries,
            live_entries: state.live as u64,
            live_bytes: (state.live * shape.entry_bytes) as u64,
            held_bytes: (state.pages * shape.page_bytes) as u64,
            dense_bytes: logical_entries * shape.key_value_bytes as u64,
        }
    }
}
