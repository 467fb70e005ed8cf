//! `key=value` on the command line.

use serde_json::{Map, Value};

/// Lays one override over a configuration.
pub(super) fn apply(config: &mut Value, given: &str) -> Result<(), String> {
    let Some((path, text)) = given.split_once('=') else {
        return Err(format!("`{given}` is no key=value, such as optimizer.learning_rate=1e-3"));
    };
    let (path, text) = (path.trim(), text.trim());
    let value = if text.is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(text)
            .map_err(|error| format!("`{given}` has a value that is no YAML: {error}"))?
    };
    let mut names = path.split('.').peekable();
    let mut place = config;
    while let Some(name) = names.next() {
        if name.is_empty() {
            return Err(format!("`{given}` names no key"));
        }
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let Value::Object(section) = place else {
            return Err(format!("`{given}` goes into a key that is no section"));
        };
        if names.peek().is_none() {
            section.insert(name.to_owned(), value);
            return Ok(());
        }
        place = section.entry(name).or_insert(Value::Null);
    }
    Ok(())
}
