//! How much is kept: a number of tokens, or a share.

use std::fmt;

use super::parse_count;
use crate::MethodError;

/// The largest count that any parameter or budget may have: 2^31 - 1, so that the sum of two fits a position.
pub const MAX_COUNT: u32 = i32::MAX as u32;

/// What follows the `@` of a method: how much it may keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// A budget in tokens, `1 ..= MAX_COUNT`; written without a point: `@2048`, `@2K`.
    Tokens(u32),
    /// The share of the prompt that is KEPT, in `(0, 1]`; written with a point: `@0.5`, `@1.0`.
    Share(f64),
}

impl Amount {
    /// Reads what stands after the `@`. The point decides: `1` is one token, `1.0` is everything; a unit makes it a
    /// count again.
    ///
    /// # Errors
    /// Anything that is neither a count nor a share in its range.
    pub(crate) fn parse(text: &str) -> Result<Self, MethodError> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) || parse_count(text).is_some() {
            return count_within("@", text, 1, MAX_COUNT).map(Self::Tokens);
        }
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Share(share)),
            _ => Err(MethodError::OutOfRange {
                key: "@".into(),
                given: text.into(),
                allowed: format!(
                    "a number of tokens from 1 to {MAX_COUNT}, or the share kept, above 0 and up to 1.0"
                ),
            }),
        }
    }
}

/// As behind the `@` of a method.
impl std::str::FromStr for Amount {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        Self::parse(text)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => write!(out, "{tokens}"),
            // Debug writes the point that tells a share from a count: 1.0, not 1.
            Self::Share(share) => write!(out, "{share:?}"),
        }
    }
}

/// Reads a count (K = 1024, k = 1000, and so on) in `least ..= most`.
///
/// # Errors
/// What [`super::parse_count`] refuses, or a value out of the range.
pub(crate) fn count_within(key: &str, text: &str, least: u32, most: u32) -> Result<u32, MethodError> {
    let count = parse_count(text).and_then(|count| u32::try_from(count).ok());
    count.filter(|count| (least..=most).contains(count)).ok_or_else(|| MethodError::OutOfRange {
        key: key.into(),
        given: text.into(),
        allowed: format!("a whole number from {least} to {most} (K = 1024, k = 1000, and so M, m, G, g)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Amount {
        Amount::parse(text).unwrap()
    }

    #[test]
    fn human_sizes_are_binary_in_capitals_and_decimal_in_small_letters() {
        assert_eq!(tokens("2048"), Amount::Tokens(2048));
        assert_eq!(tokens("2K"), Amount::Tokens(2048));
        assert_eq!(tokens("2k"), Amount::Tokens(2000));
        assert_eq!(tokens("1M"), Amount::Tokens(1 << 20));
        assert_eq!(tokens("1G"), Amount::Tokens(1 << 30));
        assert_eq!(tokens("1.5K"), Amount::Tokens(1536));
    }

    #[test]
    fn the_point_tells_a_share_from_a_count() {
        assert_eq!(tokens("1"), Amount::Tokens(1));
        assert_eq!(tokens("1.0"), Amount::Share(1.0));
        assert_eq!(tokens("1e-3"), Amount::Share(1e-3));
        assert_eq!(tokens(".5"), Amount::Share(0.5));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_value_and_range() {
        for text in [
            "0",
            "0.0",
            "1.5",
            "-0.1",
            "-1",
            "NaN",
            "nan",
            "inf",
            "50%",
            "2147483648",
            "2G",
            "99999999999999999999",
            "18446744073709551615G",
            "",
            "K",
            "1e3",
            "+5",
            "0x10",
            "1_000",
            "٣",
        ] {
            let message = Amount::parse(text).unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")), "{text}: {message}");
            assert!(message.contains("2147483647"), "{text}: {message}");
        }
    }
}
