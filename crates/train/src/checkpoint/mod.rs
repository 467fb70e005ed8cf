//! The directory of a run: its lock, its configuration, and its saved states.
//!
//! ```text
//! lock            held while a process works here; holds its number
//! run.yaml        the resolved configuration
//! step-000100/    a state: state.json, safetensors files, and whatever else belongs to it
//! latest          the name of the newest state, written last
//! .partial-*      not finished; removed when the directory is next opened
//! ```
//!
//! A state is written into a `.partial-` folder, synced, renamed, and only then named in `latest`; older states are
//! removed after that. A process that is killed at any point leaves the last published state in place.

mod lock;
mod manifest;
mod run;
mod saved;
mod writer;

pub use manifest::{MANIFEST, STATE_VERSION};
pub use run::{CONFIG_FILE, RunDirectory};
pub(crate) use run::{begun_with, examine};
pub use saved::SavedState;
pub use writer::{StateFacts, StateWriter};

#[cfg(test)]
mod tests;
