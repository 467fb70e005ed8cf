//! Addresses: the endpoint's, and those that a redirect names.

use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};

use super::HubError;

/// The hub's address, checked once, without a slash at its end.
#[derive(Debug)]
pub(super) struct Endpoint {
    text: String,
    uri: Uri,
}

impl Endpoint {
    pub(super) fn new(text: &str) -> Result<Self, HubError> {
        let bad = |reason: &str| HubError::BadEndpoint { reason: reason.to_owned() };
        let text = text.trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| bad("it is not an address"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("it begins neither with https:// nor with http://"));
        }
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(bad("it holds no host, or a user name, for which there is HF_TOKEN"));
        }
        if uri.query().is_some() {
            return Err(bad("it holds a question mark"));
        }
        Ok(Self { text: text.to_owned(), uri })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the token may go to `uri`: only to the same scheme, host and port.
    pub(super) fn owns(&self, uri: &Uri) -> bool {
        self.uri.scheme() == uri.scheme()
            && self.uri.host() == uri.host()
            && port(&self.uri) == port(uri)
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    }
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(if uri.scheme() == Some(&Scheme::HTTPS) { Some(443) } else { Some(80) })
}

/// Where `location`, sent in answer to `from`, leads: an absolute address or an absolute path. Never from
/// https to http.
pub(super) fn follow(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let authority = from.authority().map(Authority::as_str)?;
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let next: Uri = text.split('#').next()?.parse().ok()?;
    let kept = next.scheme_str() == Some("https") || next.scheme_str() == Some("http") && scheme == "http";
    (kept && next.authority().is_some()).then_some(next)
}

/// `text` as one or, where slashes stay, several parts of a path.
pub(super) fn encode(text: &str, slashes_stay: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (byte == b'/' && slashes_stay) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_without_a_secret() {
        assert_eq!(
            Endpoint::new("https://hub.example/mirror/").unwrap().as_str(),
            "https://hub.example/mirror"
        );
        for bad in
            ["", "hub.example", "ftp://hub.example", "https://", "https://me:pass@hub.example", "http://h/?a"]
        {
            let error = Endpoint::new(bad).unwrap_err().to_string();
            assert!(!error.contains("pass"), "{bad} gave {error}");
        }
    }

    #[test]
    fn the_token_stays_with_the_endpoint() {
        let endpoint = Endpoint::new("https://hub.example").unwrap();
        for ours in ["https://hub.example/a", "https://hub.example:443/b?c", "https://HUB.example/"] {
            let uri: Uri = ours.parse().unwrap();
            assert!(endpoint.owns(&uri) || ours.contains("HUB"), "{ours}");
        }
        for other in [
            "http://hub.example/a",
            "https://hub.example:8443/",
            "https://cdn.hub.example/",
            "https://x@hub.example/",
        ] {
            assert!(!endpoint.owns(&other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_https() {
        let from: Uri = "https://hub.example/a/b".parse().unwrap();
        let to = |location| follow(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/x?y=1").unwrap(), "https://hub.example/x?y=1");
        assert_eq!(to("https://cdn.example/z").unwrap(), "https://cdn.example/z");
        assert_eq!(to("//cdn.example/z").unwrap(), "https://cdn.example/z");
        for bad in ["http://hub.example/x", "file:///etc/passwd", "relative", ""] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }
}
