//! What a user writes to name a method: `dcp(gates=run7.safetensors) & streaming_llm@2048`.

mod amount;
mod number;
mod parser;

pub use amount::Amount;
pub(crate) use amount::{MAX_COUNT, count_within};
pub use number::{parse_count, parse_scaled};

use std::fmt;
use std::str::FromStr;

use crate::{MethodError, registry};

/// The longest spec that is read, in bytes.
const MAX_SPEC_BYTES: usize = 4096;
/// The most methods that one spec may combine.
const MAX_TERMS: usize = 8;

/// A checked method specification: one method, or several of which an entry must satisfy all.
///
/// ```text
/// spec   = term { "&" term }                       an entry lives as long as every term lets it
/// term   = name [ "(" [ item { "," item } ] ")" ] [ "@" amount ]
/// item   = term (the first only: what a budget such as ada shares out)  |  name "=" value
/// value  = bare | '"' { character | '\"' | '\\' } '"'
/// amount = tokens (2048, 2K = 2048, 2k = 2000, 1.5K = 1536)  |  share kept (0.5)
/// ```
/// A spec that parses names known methods and known parameters, with values in their ranges that do not
/// contradict each other. [`fmt::Display`] writes the canonical form, which parses to the same spec.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodSpec {
    terms: Vec<Term>,
}

/// One method of a spec, with what was said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    pub(crate) name: String,
    pub(crate) inner: Option<Box<Term>>,
    pub(crate) arguments: Vec<(String, String)>,
    pub(crate) amount: Option<Amount>,
}

impl MethodSpec {
    /// The methods combined, at least one, in the order written.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Reads the grammar alone: names, parameters and ranges are not looked up.
    pub(crate) fn parse_grammar(text: &str) -> Result<Self, MethodError> {
        parser::parse(text).map(|terms| Self { terms: terms.into_iter().map(|(term, _)| term).collect() })
    }
}

impl Term {
    /// The method's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The method within the parentheses, as in `ada(snapkv)`.
    #[must_use]
    pub fn inner(&self) -> Option<&Term> {
        self.inner.as_deref()
    }

    /// Keys and values as written, unquoted, in the order written.
    #[must_use]
    pub fn arguments(&self) -> &[(String, String)] {
        &self.arguments
    }

    /// What follows the `@`.
    #[must_use]
    pub fn amount(&self) -> Option<Amount> {
        self.amount
    }
}

impl FromStr for MethodSpec {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let mut terms = Vec::new();
        for (term, places) in parser::parse(text)? {
            check(&term, &places)?;
            registry::check_budget(&term).map_err(|error| places.locate(error))?;
            terms.push(term);
        }
        Ok(Self { terms })
    }
}

/// Checks a term, what stands within its parentheses first, and says where an error is.
fn check(term: &Term, places: &parser::Places) -> Result<(), MethodError> {
    if let (Some(inner), Some(places)) = (&term.inner, &places.inner) {
        check(inner, places)?;
    }
    registry::check(term).map_err(|error| places.locate(error))
}

impl fmt::Display for MethodSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                out.write_str(" & ")?;
            }
            term.fmt(out)?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.name)?;
        if self.inner.is_some() || !self.arguments.is_empty() {
            out.write_str("(")?;
            if let Some(inner) = &self.inner {
                inner.fmt(out)?;
            }
            for (index, (key, value)) in self.arguments.iter().enumerate() {
                let comma = if index > 0 || self.inner.is_some() { ", " } else { "" };
                write!(out, "{comma}{key}={}", parser::quoted_if_needed(value))?;
            }
            out.write_str(")")?;
        }
        match self.amount {
            Some(amount) => write!(out, "@{amount}"),
            None => Ok(()),
        }
    }
}
