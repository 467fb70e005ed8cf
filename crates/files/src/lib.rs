//! Files that appear whole or not at all, and names that stay inside their directory.
//!
//! Whatever the project writes for its user goes through [`publish`], so that a full disk, a kill or a power cut never
//! leaves half a file under a name that somebody reads, and so that nothing but a regular file is ever replaced.

mod confine;
mod disk;
mod error;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
mod partial;
mod publish;
mod target;

pub use confine::{confine, stays_inside};
pub use disk::{Disk, DiskFile, LocalDisk};
pub use error::FileError;
pub use partial::{PARTIAL, folder_of, partial_path};
pub use publish::{publish, publish_from, publish_on};
pub use target::{Existing, check};
