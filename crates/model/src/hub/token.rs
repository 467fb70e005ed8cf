//! The hub token, which only the Authorization header ever shows.

use std::fmt;

use super::HubError;

/// A hub token that cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken {
    secret: String,
}

impl HubToken {
    /// Takes a token; white space around it is dropped.
    ///
    /// Whether it can stand in a header is found out on use: who resolves a local directory is not kept from it
    /// by a bad token in the environment.
    pub fn new(text: &str) -> Self {
        Self { secret: text.trim().to_owned() }
    }

    /// The value of an Authorization header, or [`HubError::BadToken`].
    pub(super) fn bearer(&self) -> Result<String, HubError> {
        if self.secret.is_empty() || !self.secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HubError::BadToken);
        }
        Ok(format!("Bearer {}", self.secret))
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_prints() {
        let token = HubToken::new(" hf_secret\n");
        assert_eq!(token.bearer().unwrap(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        for bad in ["", " \n", "hf\r\nX-Evil: 1", "hf_ä", "two words"] {
            let error = HubToken::new(bad).bearer().unwrap_err();
            assert!(bad.trim().is_empty() || !format!("{error} {error:?}").contains(bad));
        }
    }
}
