//! What pruning costs, measured against the dense run of the same model: perplexity and divergence of texts
//! ([`TextTask`]), tasks by log-likelihood ([`LikelihoodTask`]), and contexts that are pruned before they are asked about
//! ([`RecallTask`]); and what the heads of a model do for its memory ([`retrieval_heads`], [`duo_scores`], [`mask_heads`]).
//!
//! [`evaluate`] runs tasks under methods and hands every example to [`Results`] as a [`Record`]; all numbers are computed
//! from those ([`summarize`]), so a run that was stopped goes on where it was, and anybody can compute others.

mod error;
mod evaluate;
mod likelihood;
mod profile;
mod recall;
mod record;
pub mod report;
mod results;
mod subject;
mod summary;
mod text;

pub use error::EvalError;
pub use evaluate::{Progress, Task, evaluate};
pub use likelihood::{Kind, LikelihoodTask};
pub use profile::{Mask, Masked, Masking, Retrieved, duo_scores, mask_heads, ranking, retrieval_heads};
pub use recall::{AnsweredText, Recall, RecallKind, RecallTask};
pub use record::{Answer, Answers, Likelihood, Memory, Outcome, Record, Window};
pub use results::Results;
pub use subject::{Compute, Method, Subject, Template};
pub use summary::{LeftOut, Line, Measure, summarize};
pub use text::{Span, TextTask, rolling};
