//! The decoder on a GPU: the same models, policies and lifetimes, decided and freed without leaving the device.
//!
//! Pages, page tables, lane lengths, lifetimes and key gates live on the device. What a policy does comes as data
//! ([`dropcap_policy::Rule`]), because nothing calls back from a kernel. A decode step is one CUDA graph per batch
//! size; the host sends rows and random numbers, and gets tokens and the state of the pool back.

mod changes;
mod decoder;
mod fill;
mod graph;
mod kept;
mod launch;
mod outcome;
mod places;
mod pool;
mod ranker;
mod rules;
mod scratch;
mod slots;
mod sources;
mod step;
mod turns;
mod weights;

pub use decoder::{DeviceDecoder, DeviceOptions};
pub use kept::KeptCache;
pub use outcome::{DeviceOutcome, SlotState};
pub use rules::check_method;
pub use slots::Slot;
pub use step::{DeviceRows, DeviceSegment, RowSink, Wanted};
pub use weights::DeviceWeights;
