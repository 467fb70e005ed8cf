//! The arguments of one method in a spec, checked and typed.

use crate::method::Ranks;
use crate::spec::{COMPRESSION_RATIO, count_within, share_kept};
use crate::{Amount, Method, MethodError, ParameterKind, Term, nearest::nearest};

/// What was said about one method; every key is known and every value is in its range.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a> {
    method: &'static Method,
    term: &'a Term,
}

impl<'a> Arguments<'a> {
    /// Checks the keys and values of `term` against the parameters of `method`, but not against each other.
    ///
    /// # Errors
    /// An unknown key, a value outside its range, or an amount for a method that takes none.
    pub fn new(method: &'static Method, term: &'a Term) -> Result<Self, MethodError> {
        let arguments = Self { method, term };
        if term.inner().is_some() && !matches!(method.ranks, Ranks::Around(_)) {
            return Err(MethodError::TakesNoInner { method: method.name });
        }
        for (key, value) in term.arguments() {
            let Some(parameter) = method.parameters.iter().find(|parameter| parameter.name == key) else {
                return Err(arguments.unknown(key, value));
            };
            match parameter.kind {
                ParameterKind::Count { least, most } => drop(count_within(key, value, least, most)?),
                ParameterKind::Share => drop(parse_share(key, value)?),
                ParameterKind::Fraction => drop(parse_fraction(key, value)?),
                ParameterKind::Number { most } => drop(parse_number(key, value, f64::from(most))?),
                ParameterKind::Flag => drop(parse_word(key, value, &["true", "false"])?),
                ParameterKind::Choice(words) => drop(parse_word(key, value, words)?),
                ParameterKind::File if value.is_empty() => {
                    return Err(out_of_range(key, value, "the path of a file"));
                }
                ParameterKind::File => {}
            }
        }
        match (method.amount, term.amount()) {
            (None, Some(given)) => Err(MethodError::NoAmount { method: method.name, given }),
            _ => Ok(arguments),
        }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.method
    }

    /// What stands within the parentheses before the parameters.
    #[must_use]
    pub fn inner(&self) -> Option<&'a Term> {
        self.term.inner()
    }

    /// What follows the `@`.
    #[must_use]
    pub fn amount(&self) -> Option<Amount> {
        self.term.amount()
    }

    /// Whether the key was written, rather than left to its default.
    #[must_use]
    pub fn is_given(&self, key: &str) -> bool {
        self.term.arguments().iter().any(|(name, _)| name == key)
    }

    /// A value as text: what was written, or the parameter's default.
    ///
    /// # Errors
    /// A key that the method does not declare, which is a mistake in the method.
    pub fn text(&self, key: &str) -> Result<&'a str, MethodError> {
        if let Some((_, value)) = self.term.arguments().iter().find(|(name, _)| name == key) {
            return Ok(value);
        }
        let declared = self.method.parameters.iter().find(|parameter| parameter.name == key);
        declared.map(|parameter| parameter.default).ok_or_else(|| self.unknown(key, ""))
    }

    /// The value of a [`ParameterKind::Count`].
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn count(&self, key: &str) -> Result<u32, MethodError> {
        count_within(key, self.text(key)?, 0, u32::MAX)
    }

    /// The value of a [`ParameterKind::Share`].
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn share(&self, key: &str) -> Result<f64, MethodError> {
        parse_share(key, self.text(key)?)
    }

    /// The value of a [`ParameterKind::Fraction`].
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn fraction(&self, key: &str) -> Result<f64, MethodError> {
        parse_fraction(key, self.text(key)?)
    }

    /// The value of a [`ParameterKind::Number`].
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn number(&self, key: &str) -> Result<f64, MethodError> {
        parse_number(key, self.text(key)?, f64::INFINITY)
    }

    /// The value of a [`ParameterKind::Flag`].
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn flag(&self, key: &str) -> Result<bool, MethodError> {
        Ok(self.text(key)? == "true")
    }

    fn unknown(&self, key: &str, value: &str) -> MethodError {
        if key == COMPRESSION_RATIO {
            let instead = share_kept(value)
                .map_or_else(|| "@0.25 where others write 0.75".into(), |share| format!("@{share:?}"));
            return MethodError::CompressionRatio { given: value.into(), instead };
        }
        let known = || self.method.parameters.iter().map(|parameter| parameter.name);
        MethodError::UnknownParameter {
            method: self.method.name,
            key: key.into(),
            known: known().collect(),
            nearest: nearest(key, known()),
        }
    }
}

fn parse_share(key: &str, value: &str) -> Result<f64, MethodError> {
    match value.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(out_of_range(key, value, "a share above 0 and up to 1")),
    }
}

fn parse_fraction(key: &str, value: &str) -> Result<f64, MethodError> {
    match value.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(out_of_range(key, value, "a number from 0 to 1")),
    }
}

fn parse_number(key: &str, value: &str, most: f64) -> Result<f64, MethodError> {
    match value.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= most => Ok(number),
        _ => Err(out_of_range(key, value, &format!("a number above 0 and up to {most}"))),
    }
}

fn parse_word<'a>(key: &str, value: &'a str, words: &[&str]) -> Result<&'a str, MethodError> {
    if words.contains(&value) { Ok(value) } else { Err(out_of_range(key, value, &words.join(" or "))) }
}

fn out_of_range(key: &str, value: &str, allowed: &str) -> MethodError {
    MethodError::OutOfRange { key: key.into(), given: value.into(), allowed: allowed.into() }
}
