//! L6: a trace as one page that shows what was forgotten, when, and by whom.
//!
//! [`inspect`] turns a trace (`docs/trace.md`) into one self-contained HTML file: the text as a strip coloured by how long
//! each token lived, the fate of a chosen token in every layer, live entries over time, and which kinds of tokens live
//! longest. It needs no network and asks for none.
//!
//! Everything in a trace is untrusted. Texts reach the page as JSON in which no `<` is left, and its script gives them to
//! the browser as text, never as markup; a content security policy allows that script and style alone, by digest.

mod error;
pub mod fuzzing;
mod kinds;
mod lives;
mod page;
mod report;

pub use error::InspectError;
pub use page::{Summary, inspect};

/// Entries (tokens times lanes, of all sequences together) that one page shows at most: a browser holds a few of these, and
/// the page has about two bytes for each.
pub const MAX_ENTRIES: u64 = 64 << 20;
