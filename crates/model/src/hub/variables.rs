//! The hub's documented environment variables, read in one place.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::DEFAULT_ENDPOINT;
use super::options::{HubOptions, HubProxy, OfflineCause};
use super::token::HubToken;

impl HubOptions {
    /// Reads the variables that `huggingface_hub` documents.
    ///
    /// | variable | meaning | without it |
    /// |---|---|---|
    /// | `HF_HOME` | directory of `hub/` and `token` | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
    /// | `HF_HUB_CACHE` | the cache | `$HF_HOME/hub` |
    /// | `HF_TOKEN` | the token | the file `HF_TOKEN_PATH` |
    /// | `HF_TOKEN_PATH` | a file with the token; one that cannot be read is no token | `$HF_HOME/token` |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | on: neither of the two is used | off |
    /// | `HF_ENDPOINT` | address of the hub | the public hub |
    /// | `HF_HUB_OFFLINE`, then `TRANSFORMERS_OFFLINE` | on: no network | off |
    ///
    /// On is `1`, `true`, `yes` or `on` in any case. The proxy is taken from `ALL_PROXY`, `HTTPS_PROXY`,
    /// `HTTP_PROXY` and `NO_PROXY`.
    pub fn from_env() -> Self {
        let proxy = ureq::Proxy::try_from_env().map(|inner| HubProxy { inner });
        Self { proxy, ..Self::from_variables(&|name| std::env::var_os(name)) }
    }

    /// [`HubOptions::from_env`] on an environment that the caller invents, and without a proxy.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let on = |name: &str| {
            text(name).is_some_and(|value| matches!(&*value.to_lowercase(), "1" | "true" | "yes" | "on"))
        };
        let user = set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| set(name).map(|value| from_tilde(PathBuf::from(value), user.as_deref()));

        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user.as_ref().map(|user| user.join(".cache/huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.as_ref().map(|home| home.join("token")));
        let stated = set("HF_TOKEN").map(|token| token.to_string_lossy().into_owned());
        let saved = || fs::read_to_string(token_file?).ok();
        let token = stated.filter(|token| !token.trim().is_empty()).or_else(saved);
        let token = token.filter(|token| !token.trim().is_empty() && !on("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| on(name));
        Self {
            token: token.as_deref().map(HubToken::new),
            endpoint: text("HF_ENDPOINT").filter(|endpoint| endpoint != DEFAULT_ENDPOINT),
            cache_dir: path("HF_HUB_CACHE").or_else(|| home.map(|home| home.join("hub"))),
            offline: offline.map(OfflineCause::Variable),
            ..Self::default()
        }
    }
}

fn from_tilde(path: PathBuf, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        HubOptions::from_variables(&|name| variables.get(name).map(OsString::from))
    }

    #[test]
    fn the_cache_is_where_python_looks() {
        let cache =
            |variables: &[(&str, &str)]| options(variables).cache_dir.map(|path| path.display().to_string());
        assert_eq!(cache(&[]), None);
        assert_eq!(cache(&[("HOME", "/h")]).unwrap(), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).unwrap(), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/f")]).unwrap(), "/h/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]).unwrap(), "/c");
        assert_eq!(cache(&[("HF_HOME", ""), ("HOME", "/h")]).unwrap(), "/h/.cache/huggingface/hub");
    }

    #[test]
    fn a_token_comes_from_the_variable_then_from_the_file() {
        let home = tempfile::tempdir().unwrap();
        let home_text = home.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home_text)]).token, None);
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let file = HubToken::new("hf_file");
        assert_eq!(options(&[("HF_HOME", home_text)]).token, Some(file.clone()));
        let path = home.path().join("token");
        assert_eq!(options(&[("HF_TOKEN_PATH", path.to_str().unwrap())]).token, Some(file));
        let both = [("HF_HOME", home_text), ("HF_TOKEN", "hf_variable")];
        assert_eq!(options(&both).token, Some(HubToken::new("hf_variable")));
        let off =
            [("HF_HOME", home_text), ("HF_TOKEN", "hf_variable"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(options(&off).token, None);
        let blank = [("HF_HOME", home_text), ("HF_TOKEN", " ")];
        assert_eq!(options(&blank).token, Some(HubToken::new("hf_file")));
    }

    #[test]
    fn offline_is_on_for_one_true_yes_and_on_only() {
        for value in ["1", "true", "YES", "On"] {
            let cause = options(&[("HF_HUB_OFFLINE", value)]).offline;
            assert_eq!(cause, Some(OfflineCause::Variable("HF_HUB_OFFLINE")), "{value}");
        }
        for value in ["0", "false", "no", "off", "", "2"] {
            assert_eq!(options(&[("HF_HUB_OFFLINE", value)]).offline, None, "{value}");
        }
        let other = options(&[("TRANSFORMERS_OFFLINE", "1")]).offline;
        assert_eq!(other, Some(OfflineCause::Variable("TRANSFORMERS_OFFLINE")));
    }
}
