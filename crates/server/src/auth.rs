//! Who may ask.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::ApiError;

/// Digests of the keys that open the server.
///
/// A key is compared by its digest, with all of them, whatever is found: how long that takes tells nothing of any key,
/// not even its length.
#[derive(Debug)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Refuses a request without one of the keys, as a bearer token.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        let key = given.and_then(|given| {
            let (scheme, key) = given.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        let given = digest(key.unwrap_or_default());
        let found = self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        if key.is_some() && bool::from(found) {
            return Ok(());
        }
        let message = match key {
            Some(_) => "the API key is not one of this server's",
            None => "this server wants an API key: send it as `Authorization: Bearer KEY`",
        };
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        Err(ApiError { code: Some("invalid_api_key"), ..error })
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_opens() {
        let keys = Keys::new(&["alpha".to_owned(), "beta".to_owned()]);
        let check = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            keys.check(&headers).is_ok()
        };
        assert!(check(Some("Bearer alpha")) && check(Some("bearer beta")));
        for wrong in
            ["Bearer alph", "Bearer alphaa", "Bearer ", "Bearer", "alpha", "Basic alpha", "Bearer  beta"]
        {
            assert!(!check(Some(wrong)), "{wrong}");
        }
        assert!(!check(None));
        assert!(Keys::new(&[]).check(&HeaderMap::new()).is_ok());
    }
}
