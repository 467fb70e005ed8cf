//! Where two configurations would give different results.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Config;
use crate::digest::Digest;

/// Keys that change when or where something is done, and what comes out by rounding at most.
const HARMLESS: &[&str] =
    &["version", "output", "device", "threads", "data.cache", "checkpoint.every", "checkpoint.keep"];

/// One line per key that differs.
pub(super) fn between(run: &Config, now: &Config) -> Vec<String> {
    let (run, now) = (flat(run), flat(now));
    let mut keys: Vec<&String> = run.keys().chain(now.keys()).collect();
    keys.sort();
    keys.dedup();
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    keys.into_iter()
        .filter(|key| run.get(*key) != now.get(*key))
        .map(|key| {
            format!("{key}: the run has {}, now {} is given", shown(run.get(key)), shown(now.get(key)))
        })
        .collect()
}

/// The digest of all keys that matter.
pub(super) fn digest(config: &Config) -> Digest {
    let lines: Vec<String> = flat(config).iter().map(|(key, value)| format!("{key}={value}")).collect();
    Digest::of_parts(lines.iter().map(|line| line.as_bytes()))
}

/// All keys that matter, by their paths.
pub(super) fn flat(config: &Config) -> BTreeMap<String, Value> {
    let mut keys = BTreeMap::new();
    // Paths that are not UTF-8 are the only ones that cannot be written, and such a configuration cannot be read.
    gather(serde_json::to_value(config).unwrap_or(Value::Null), String::new(), &mut keys);
    keys.retain(|key, _| !HARMLESS.contains(&key.as_str()));
    keys
}

fn gather(value: Value, path: String, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(section) => section.into_iter().for_each(|(name, value)| {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            gather(value, path, keys);
        }),
        value => {
            keys.insert(path, value);
        }
    }
}
