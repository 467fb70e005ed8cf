//! The way from what `--model` says to a directory.

use std::path::{Path, PathBuf};

use dropcap_weights::{INDEX_FILE, SINGLE_FILE, ShardIndex, is_gguf};

use super::cached::{is_settled, lacks, names};
use super::client::Client;
use super::fetch::fetch;
use super::id::RepoId;
use super::layout::RepoCache;
use super::options::{HubOptions, OfflineCause};
use super::weights::{OPTIONAL, REQUIRED, Weights, find};
use super::{HubError, revision};

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// Holds `config.json`, the tokenizer and the weights; or is a GGUF file.
    pub directory: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A directory or a GGUF file that the caller named.
    Local,
    /// The hub.
    Hub {
        /// The id.
        id: RepoId,
        /// The revision asked for.
        revision: String,
        /// The commit it meant, 40 hexadecimal digits.
        commit: String,
        /// How sure it is that the revision still means that commit.
        freshness: Freshness,
    },
}

/// How sure it is that a revision still means the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Freshness {
    /// The hub said so now, or the revision is a commit.
    Current,
    /// The network was turned off; the cache was not compared.
    Offline,
    /// The hub could not be asked, for this reason, and the cache held a whole model: worth a warning.
    Stale(String),
}

/// Finds `model`, which is an existing directory, a GGUF file or a hub id, and downloads what the cache lacks.
///
/// Fetched are `config.json`, `tokenizer.json` and the safetensors weights, one file or an index with its
/// shards, and where the repository has them `generation_config.json`, `tokenizer_config.json`,
/// `chat_template.jinja` and `pruning.safetensors`. A model that lacks one of the first is refused before any
/// byte of weights is fetched. A local directory is checked only for holding nothing but pickle weights;
/// loading it checks the rest.
///
/// # Errors
/// Every variant of [`HubError`]; none leaves an unfinished file under `snapshots/`.
pub fn resolve(model: &str, options: &HubOptions) -> Result<ResolvedModel, HubError> {
    let path = Path::new(model);
    if !model.is_empty() && path.is_dir() {
        if let Err(error @ HubError::PickleOnly { .. }) = find(model, names(path)?.iter().map(String::as_str))
        {
            return Err(error);
        }
        return Ok(ResolvedModel { directory: path.to_owned(), origin: Origin::Local });
    }
    if is_gguf(path) {
        return Ok(ResolvedModel { directory: path.to_owned(), origin: Origin::Local });
    }
    if path.is_file() {
        return Err(HubError::NotADirectory { path: path.to_owned() });
    }
    let id: RepoId = model.parse()?;
    let revision = options.revision();
    revision::check(revision)?;
    let repo = RepoCache::new(options.cache_dir.as_deref().ok_or(HubError::NoCacheDirectory)?, &id);
    let (commit, freshness) = match options.offline {
        Some(cause) => (from_cache(&repo, &id, revision, cause)?, Freshness::Offline),
        None => online(&repo, &id, options)?,
    };
    let directory = repo.snapshot(&commit);
    Ok(ResolvedModel {
        directory,
        origin: Origin::Hub { id, revision: revision.to_owned(), commit, freshness },
    })
}

fn online(repo: &RepoCache, id: &RepoId, options: &HubOptions) -> Result<(String, Freshness), HubError> {
    let revision = options.revision();
    if revision::is_commit(revision) && is_settled(repo, id.as_str(), revision) {
        return Ok((revision.to_owned(), Freshness::Current));
    }
    let client = Client::new(options, id)?;
    let cached = repo
        .commit_of(revision)
        .filter(|commit| matches!(lacks(id.as_str(), &repo.snapshot(commit)), Ok(None)));
    // Whoever has the model already should not wait long for an answer that only might change it.
    let attempts =
        if cached.is_some() { options.patience.attempts.min(2) } else { options.patience.attempts };
    let listing = match (client.listing(attempts), cached) {
        (Err(outage), Some(commit)) if outage.is_outage() => {
            return Ok((commit, Freshness::Stale(outage.to_string())));
        }
        (listing, _) => listing?,
    };

    let weights = find(id.as_str(), listing.files.keys().map(String::as_str))?;
    let mut wanted: Vec<String> = REQUIRED.iter().map(|name| (*name).to_owned()).collect();
    for name in OPTIONAL {
        if listing.files.contains_key(name) {
            wanted.push(name.to_owned());
        } else {
            repo.remember_absent(&listing.commit, name);
        }
    }
    wanted.push(if weights == Weights::Single { SINGLE_FILE } else { INDEX_FILE }.to_owned());
    fetch(&client, repo, &listing, &wanted)?;
    if weights == Weights::Sharded {
        let index = ShardIndex::open(&repo.snapshot(&listing.commit).join(INDEX_FILE))?;
        let shards: Vec<String> = index.shards().into_iter().map(str::to_owned).collect();
        fetch(&client, repo, &listing, &shards)?;
    }
    if !revision::is_commit(revision) {
        repo.refer(revision, &listing.commit)?;
    }
    Ok((listing.commit, Freshness::Current))
}

fn from_cache(
    repo: &RepoCache,
    id: &RepoId,
    revision: &str,
    cause: OfflineCause,
) -> Result<String, HubError> {
    let missing = |missing: String, looked_in: PathBuf| HubError::Offline {
        model: id.to_string(),
        revision: revision.to_owned(),
        missing,
        looked_in,
        cause,
    };
    let Some(commit) = repo.commit_of(revision) else {
        return Err(missing("the model".to_owned(), repo.root()));
    };
    let folder = repo.snapshot(&commit);
    match lacks(id.as_str(), &folder)? {
        None => Ok(commit),
        Some(file) => Err(missing(file, folder)),
    }
}
