//! Everything that can keep a model from becoming a directory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dropcap_files::FileError;
use dropcap_weights::WeightsError;

use super::options::OfflineCause;

/// Why a model could not be resolved; no variant ever holds a token or a signed address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is neither a directory nor a well-formed hub id.
    #[error(
        "`{given}` is neither an existing directory nor a hub id: {reason}; give a directory, or an id such as \
         openai-community/gpt2"
    )]
    BadModel {
        /// What was given.
        given: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The path exists and is a file.
    #[error("`{}` is a file, and no GGUF file; give the directory that holds it and config.json", path.display())]
    NotADirectory {
        /// What was given.
        path: PathBuf,
    },
    /// The revision could not be a branch, a tag or a commit.
    #[error("revision `{given}` is not a branch, tag or commit: {reason}")]
    BadRevision {
        /// What was given.
        given: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The endpoint is not an address; it is not repeated, because it may hold a password.
    #[error(
        "the hub endpoint (HF_ENDPOINT) cannot be used: {reason}; give one such as https://huggingface.co"
    )]
    BadEndpoint {
        /// The rule it breaks.
        reason: String,
    },
    /// The token cannot stand in a header; it is not repeated.
    #[error(
        "the hub token (HF_TOKEN) is empty or holds a space, a line break or a character that is not ASCII"
    )]
    BadToken,
    /// The proxy address cannot be used; it is not repeated, because it may hold a password.
    #[error("the proxy address cannot be used; give one such as http://proxy.example:3128")]
    BadProxy,
    /// Nothing says where the cache lies.
    #[error(
        "there is no directory for downloads: neither HF_HUB_CACHE, HF_HOME nor HOME is set; set HF_HOME"
    )]
    NoCacheDirectory,
    /// The network is off and the cache lacks a file.
    #[error(
        "{model} at {revision}: {missing} is not in the cache (looked in {}) and {cause} turned the network off; \
         run once without it, or give a local directory", looked_in.display()
    )]
    Offline {
        /// The hub id.
        model: String,
        /// The revision asked for.
        revision: String,
        /// The file, or what else is missing.
        missing: String,
        /// The directory that was searched.
        looked_in: PathBuf,
        /// What turned the network off.
        cause: OfflineCause,
    },
    /// The hub knows no such repository, or hides it.
    #[error(
        "{endpoint} has no model {model}, or it is private; check the spelling, or set HF_TOKEN to a token that may \
         read it"
    )]
    RepoNotFound {
        /// The hub id.
        model: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{model} has no revision `{revision}` on {endpoint}; check --revision")]
    RevisionNotFound {
        /// The hub id.
        model: String,
        /// The revision asked for.
        revision: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// 404, and the hub did not say whether for the repository or for the revision.
    #[error(
        "{endpoint} has no model {model} with a revision `{revision}` (404); check the id and --revision"
    )]
    RepoOrRevisionNotFound {
        /// The hub id.
        model: String,
        /// The revision asked for.
        revision: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// A listed file answered 404.
    #[error("{model} at {revision} lists {file}, but {endpoint} does not serve it (404); try again later")]
    FileNotFound {
        /// The hub id.
        model: String,
        /// The revision or commit.
        revision: String,
        /// The file.
        file: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// 401.
    #[error("{endpoint} refused access to {model} (401): {}", unauthorized_hint(*token_sent))]
    Unauthorized {
        /// The hub id.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether a token went with the request.
        token_sent: bool,
    },
    /// 403.
    #[error(
        "{endpoint} forbids access to {model} (403): if it is gated, accept its terms at {endpoint}/{model} with \
         {}", forbidden_hint(*token_sent)
    )]
    Forbidden {
        /// The hub id.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// Whether a token went with the request.
        token_sent: bool,
    },
    /// 408, 429 or 5xx on every attempt.
    #[error("{url} answered {status} {attempts} times; {}", busy_hint(*status))]
    Busy {
        /// The address asked.
        url: String,
        /// The last status.
        status: u16,
        /// How often it was asked.
        attempts: u32,
    },
    /// A status that the protocol does not have here.
    #[error("{url} answered with status {status}, which is not expected here; check HF_ENDPOINT")]
    UnexpectedStatus {
        /// The address asked.
        url: String,
        /// The status.
        status: u16,
    },
    /// No answer on any attempt.
    #[error(
        "{url} cannot be reached ({reason}; {attempts} attempts); check the network, or pass --offline to use only \
         what is cached"
    )]
    Unreachable {
        /// The address asked.
        url: String,
        /// What the last attempt met.
        reason: String,
        /// How often it was asked.
        attempts: u32,
    },
    /// The answer is not what a hub sends.
    #[error("{url} sent a reply that is not a hub's: {reason}; check HF_ENDPOINT")]
    BadReply {
        /// The address asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The body broke off on every attempt; nothing was published.
    #[error(
        "{file} broke off: expected {expected} bytes, got {got} ({reason}; {attempts} attempts in a row); nothing was \
         published, run again to go on"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Its size in bytes.
        expected: u64,
        /// How many bytes are there.
        got: u64,
        /// What the last attempt met.
        reason: String,
        /// Attempts in a row that brought little.
        attempts: u32,
    },
    /// The size that the server sends is not the size that the repository lists; nothing was published.
    #[error(
        "{file} has the wrong size: expected {expected} bytes as the repository lists, got {got}; try again later"
    )]
    WrongSize {
        /// The file.
        file: String,
        /// Size in bytes as listed.
        expected: u64,
        /// Size in bytes as declared or received.
        got: u64,
    },
    /// The bytes are not those the repository lists; nothing was published.
    #[error("{file} is damaged: expected SHA-256 {expected}, got {got}; nothing was kept, try again")]
    WrongHash {
        /// The file.
        file: String,
        /// As listed.
        expected: String,
        /// As received.
        got: String,
    },
    /// There are weights, but only in formats that can run code when they are read.
    #[error(
        "{model} holds no safetensors weights, only {found}, and pickle files are never read because reading one can \
         run code; convert it once in Python: AutoModelForCausalLM.from_pretrained(\"{model}\").save_pretrained(\"dir\", \
         safe_serialization=True), also save its tokenizer there, and give the directory"
    )]
    PickleOnly {
        /// The hub id or directory.
        model: String,
        /// The weight files that are there.
        found: String,
    },
    /// There are no weights that this engine reads.
    #[error(
        "{model} holds neither model.safetensors nor model.safetensors.index.json{}",
        found_instead(found)
    )]
    NoWeights {
        /// The hub id.
        model: String,
        /// Other weight files, comma-separated; empty if none.
        found: String,
    },
    /// The repository lacks a file without which a model cannot run.
    #[error("{model} at {revision} has no {file}; {}", missing_hint(file))]
    MissingFile {
        /// The hub id.
        model: String,
        /// The revision asked for.
        revision: String,
        /// The file.
        file: String,
    },
    /// The shard index is none, or names a file outside the model's directory.
    #[error(transparent)]
    Index(#[from] WeightsError),
    /// Another process holds the file's lock and makes no progress.
    #[error(
        "another process has been downloading {file} for {} s without progress (lock {}); end it and try again",
        waited.as_secs(), lock.display()
    )]
    Locked {
        /// The file.
        file: String,
        /// The lock.
        lock: PathBuf,
        /// How long nothing arrived.
        waited: Duration,
    },
    /// A file of the cache cannot be written.
    #[error("{0}; HF_HUB_CACHE can name another cache")]
    File(#[from] FileError),
    /// The cache cannot be read or written.
    #[error("cannot {action} {}: {source}; HF_HUB_CACHE can name another cache", path.display())]
    Cache {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl HubError {
    pub(super) fn cache(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Cache { action, path: path.to_owned(), source }
    }

    /// Whether the hub could simply not be asked, so that a cached answer is better than none.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

fn found_instead(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!(", only {found}") }
}

/// The hub answers 401 also for what does not exist, to everybody without a token.
fn unauthorized_hint(token_sent: bool) -> &'static str {
    if token_sent {
        "the token is not valid or may not read it; check HF_TOKEN, and accept the model's terms on its page if \
         it is gated"
    } else {
        "it does not exist, is private or is gated; check the spelling, or set HF_TOKEN to a token that may read it"
    }
}

fn forbidden_hint(token_sent: bool) -> &'static str {
    if token_sent {
        "the account of this HF_TOKEN, and check that the token may read gated models"
    } else {
        "an account and set HF_TOKEN to a token of it"
    }
}

fn busy_hint(status: u16) -> &'static str {
    if status == 429 {
        "too many requests: wait some minutes, or set HF_TOKEN for a higher limit"
    } else {
        "the hub is unwell: try again later"
    }
}

fn missing_hint(file: &str) -> &'static str {
    if file == "tokenizer.json" {
        "save the fast tokenizer in Python (AutoTokenizer.from_pretrained(..).save_pretrained(\"dir\")) next to the \
         weights and give that directory"
    } else if file == "config.json" {
        "it is not a transformers model"
    } else {
        "the repository is incomplete"
    }
}
