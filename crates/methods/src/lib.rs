//! L4: the pruning methods, one file each, and the grammar that names them.
//!
//! [`METHODS`] is the single source of truth: what a user may write, what `--help` says, the table in
//! `docs/methods.md` and the matrix of the tests all come from it. A new method is its file, one line there and
//! its tests.
//!
//! Most methods rank: a `Scorer` says what entries are worth, a `Budget` how many stay, and `Ranked` is the policy of both.

mod a2sf;
mod ada;
mod arguments;
mod budgets;
mod citrus;
mod compactor;
mod dcp;
pub mod docs;
mod duo_attention;
mod error;
mod expected_attention;
mod facts;
pub mod fuzzing;
mod gates;
#[cfg(test)]
mod golden;
mod h2o;
mod headkv;
mod key_rerotation;
mod keydiff;
mod keyformer;
mod knorm;
mod lagkv;
mod method;
mod nacl;
mod nearest;
mod none;
mod observed_attention;
#[cfg(test)]
mod played;
mod profile;
mod pyramid;
mod random;
mod ranked;
mod registry;
mod scorers;
mod simulate;
mod snapkv;
mod spec;
mod squeeze;
mod streaming_llm;
mod tova;

pub use arguments::Arguments;
pub use dcp::dcp;
pub use error::MethodError;
pub use facts::ModelFacts;
pub use gates::{GATES_FILE, GateKind, GateLayout, Gates, LayerGates, MAX_GATE_WIDTH};
pub use method::{Build, Method, Parameter, ParameterKind};
pub use nearest::nearest;
pub use profile::{HeadProfile, MeasuredHeads, PROFILE_VERSION, ProfileKind};
pub use registry::{METHODS, build};
pub(crate) use spec::MAX_COUNT;
pub use spec::{Amount, MethodSpec, Term, parse_count, parse_scaled};
