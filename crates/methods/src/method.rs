//! What there is to know about a method before it is built.

use std::sync::Arc;

use dropcap_policy::EvictionPolicy;

use crate::ranked::MakeRecipe;
use crate::{Arguments, MethodError, ModelFacts};

/// How a method becomes a policy for one model.
pub type Build = fn(&Arguments<'_>, &ModelFacts) -> Result<Arc<dyn EvictionPolicy>, MethodError>;

/// One pruning method: its name, its documentation and how to make it.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    /// The name in specs.
    pub name: &'static str,
    /// One sentence: which entries it forgets.
    pub summary: &'static str,
    /// What it is good for, its exact semantics and what it does not do; Markdown paragraphs.
    pub details: &'static str,
    /// Authors, year and arXiv id, or why there are none.
    pub source: &'static str,
    /// What `@amount` means for this method; `None` if it takes none.
    pub amount: Option<&'static str>,
    /// Whether it ranks entries, so that a budget can be put around it.
    pub(crate) ranks: Ranks,
    /// Its parameters, in the order of the documentation.
    pub parameters: &'static [Parameter],
    /// Refuses arguments that contradict each other; every value is already in its range. Needs no model.
    pub check: fn(&Arguments<'_>) -> Result<(), MethodError>,
    /// Makes the policy for one model, from arguments that passed `check`.
    pub build: Build,
}

/// Whether and how a method ranks entries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ranks {
    /// It does not.
    No,
    /// By scores of its own.
    Itself(MakeRecipe),
    /// By those of the method within its parentheses, whose budget it shares out otherwise.
    Around(MakeRecipe),
}

/// One parameter of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameter {
    /// The key in specs.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ParameterKind,
    /// The value when it is not given, as one would write it.
    pub default: &'static str,
    /// One sentence: what it does.
    pub help: &'static str,
}

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParameterKind {
    /// A whole number within bounds, both included; K = 1024, k = 1000.
    Count {
        /// The smallest value allowed.
        least: u32,
        /// The largest value allowed.
        most: u32,
    },
    /// A share in (0, 1].
    Share,
    /// A number in [0, 1].
    Fraction,
    /// A number above 0.
    Number {
        /// The largest value allowed.
        most: u32,
    },
    /// `true` or `false`.
    Flag,
    /// A path; a relative one is looked for in the working directory, then in the model's folder.
    File,
    /// One of these words.
    Choice(&'static [&'static str]),
}
