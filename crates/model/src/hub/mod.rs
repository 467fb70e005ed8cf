//! From `--model M` to a directory on this machine.
//!
//! `M` is an existing directory, as `save_pretrained` writes it, a GGUF file, or a hub id `org/name`. A hub id is fetched
//! into the cache that Python's `huggingface_hub` uses (`blobs/`, `snapshots/<commit>/` with links, `refs/`,
//! `.locks/`), so that neither side downloads what the other has.
//!
//! The protocol is written here on a small blocking HTTP client and not taken from the `hf-hub` crate. Its
//! 1.0.0 pulls 236 crates (`xet`, a database, a C build of `aws-lc`) where this needs 51, and does less: it
//! neither resumes nor retries a body that breaks off, compares no size and no hash, stores the body of a
//! failed GET as if it were the file, and gives up after ten seconds when another process is downloading. The
//! hub serves every file, `xet` ones too, over plain HTTP with ranges.
//!
//! # Invariants
//!
//! - A name appears under `snapshots/` only after its blob is whole: the size agrees, and the SHA-256 where the
//!   hub knows it.
//! - All files of one call come from one commit.
//! - The token goes to the endpoint's own scheme, host and port, never along a redirect to elsewhere and never
//!   into a log line or an error.

mod cached;
mod client;
mod download;
mod error;
mod fetch;
mod id;
mod layout;
mod listing;
mod lock;
mod options;
mod partial;
mod progress;
mod publish;
mod redirect;
mod resolve;
mod retry;
mod revision;
mod status;
mod token;
mod variables;
mod weights;

pub use error::HubError;
pub use id::RepoId;
pub use options::{HubOptions, HubProxy, OfflineCause, Patience};
pub use progress::{HubEvent, HubProgress};
pub use resolve::{Freshness, Origin, ResolvedModel, resolve};
pub use token::HubToken;

/// Where the public hub answers; `HF_ENDPOINT` names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// The revision that is used when none is asked for.
pub const DEFAULT_REVISION: &str = "main";
