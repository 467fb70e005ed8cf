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
/// The name that other projects use for the share removed.
pub(crate) const COMPRESSION_RATIO: &str = "compression_ratio";
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
#[derive(Debug, Clone)]
pub struct MethodSpec {
    terms: Vec<Term>,
    notes: Vec<String>,
}

/// Equal are those that mean the same, however it was written.
impl PartialEq for MethodSpec {
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms
    }
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

    /// What was understood in another way than it was written, to be said to whoever wrote it.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Reads the grammar alone, which other choices are written in too: names, parameters and ranges are not looked up.
    ///
    /// # Errors
    /// Text that is not of the grammar.
    pub fn parse_grammar(text: &str) -> Result<Self, MethodError> {
        let terms = parser::parse(text)?.into_iter().map(|(term, _)| term).collect();
        Ok(Self { terms, notes: Vec::new() })
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
        let (mut terms, mut notes) = (Vec::new(), Vec::new());
        for (mut term, places) in parser::parse(text)? {
            if let Some((kept, note)) = as_share_kept(&term) {
                term = kept;
                notes.push(note);
            }
            check(&term, &places)?;
            registry::check_budget(&term).map_err(|error| places.locate(error))?;
            terms.push(term);
        }
        registry::check_together(&terms)?;
        Ok(Self { terms, notes })
    }
}

/// A term whose only budget is the share removed, as other projects write it, with the share kept in its place; and what is to
/// be said about that. None where the method takes no share.
fn as_share_kept(term: &Term) -> Option<(Term, String)> {
    let (arguments, removed): (Vec<_>, Vec<_>) =
        term.arguments.iter().cloned().partition(|(key, _)| key != COMPRESSION_RATIO);
    let [(key, removed)] = removed.as_slice() else { return None };
    let share = share_kept(removed).filter(|_| term.amount.is_none())?;
    let kept = Term { arguments, amount: Some(Amount::Share(share)), ..term.clone() };
    registry::check(&kept).ok()?;
    let note =
        format!("{key}={removed} counts what is removed; it is taken for @{share:?}, the share kept: {kept}");
    Some((kept, note))
}

/// What is kept where the share `removed`, in [0, 1), goes.
pub(crate) fn share_kept(removed: &str) -> Option<f64> {
    let removed = removed.parse::<f64>().ok().filter(|removed| (0.0..1.0).contains(removed))?;
    // Rounded for reading: 1 - 0.8 is 0.19999999999999996. What rounding would make nothing stays.
    let rounded = ((1.0 - removed) * 1e9).round() / 1e9;
    Some(if rounded > 0.0 { rounded } else { 1.0 - removed })
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
