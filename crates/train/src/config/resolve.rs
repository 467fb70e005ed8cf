//! From a text and overrides to a configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::choices::{GateRule, Method, Trained};
use super::keys::{is_key, is_section, meant};
use super::{CONFIG_VERSION, Config, check, overrides};
use crate::TrainError;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the text of a file.
pub(super) fn read(path: &Path) -> Result<String, TrainError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| TrainError::io("open", path, e))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| TrainError::io("read", path, e))?;
    let refused =
        |problem: String| TrainError::Config { origin: path.display().to_string(), problems: vec![problem] };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(refused(format!("is longer than {MAX_BYTES} bytes, so it is no configuration")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("is not UTF-8".to_owned()))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
}

/// The configuration, or everything that is wrong.
pub(super) fn resolve(text: &str, given: &[String]) -> Result<Config, Vec<String>> {
    let mut value = match text.trim() {
        "" => Value::Null,
        _ => serde_saphyr::from_str(text).map_err(|error| vec![format!("is no YAML: {error}")])?,
    };
    let mut problems: Vec<String> =
        given.iter().filter_map(|given| overrides::apply(&mut value, given).err()).collect();
    drop_nulls(&mut value);
    if value.is_null() {
        value = json!({});
    }
    let Value::Object(root) = &mut value else {
        problems.push("holds no keys: write `key: value` lines".to_owned());
        return Err(problems);
    };
    // First: what a later version knows would else be called a misspelt key of this one.
    version(root)?;
    unknown(root, "", &mut problems);
    check::presence(root, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    defaults(root);
    let mut config: Config = serde_path_to_error::deserialize(value)
        .map_err(|error| vec![format!("{}: {}", error.path(), error.inner())])?;
    fill(&mut config);
    let problems = check::values(&config);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// An empty value stands for the default, as if the key were not there.
fn drop_nulls(value: &mut Value) {
    if let Value::Object(section) = value {
        section.values_mut().for_each(drop_nulls);
        section.retain(|_, value| !value.is_null());
    }
}

/// Refuses a file of a later version.
fn version(root: &Map<String, Value>) -> Result<(), Vec<String>> {
    let problem = match root.get("version").map(|given| (given, given.as_u64())) {
        None | Some((_, Some(1..=CONFIG_VERSION))) => return Ok(()),
        Some((_, Some(found @ 1..))) => format!(
            "it has the format version {found}, and this program reads up to {CONFIG_VERSION}: use the newer program that wrote it"
        ),
        Some((given, _)) => format!("version is {given}; a number from 1 to {CONFIG_VERSION} is needed"),
    };
    Err(vec![problem])
}

fn unknown(section: &Map<String, Value>, prefix: &str, problems: &mut Vec<String>) {
    for (name, value) in section {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            _ if is_key(&path) => {}
            Value::Object(inner) if is_section(&path) => unknown(inner, &path, problems),
            _ if is_section(&path) => problems.push(format!("{path} is a section: write the keys inside it")),
            _ => {
                let hint = meant(&path).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"));
                let shown: String = path.chars().take(80).flat_map(char::escape_debug).collect();
                problems.push(format!("there is no key `{shown}`{hint}"));
            }
        }
    }
}

/// Fills in what every configuration has.
fn defaults(root: &mut Map<String, Value>) {
    let has = |name: &str| root.contains_key(name);
    let from_model = has("model");
    let method = match () {
        () if has("window") => "window",
        () if from_model || has("gates") || has("sparsity") => "dcp",
        () => "none",
    };
    let lora = root.get("train").and_then(Value::as_str) == Some("lora");
    let steps = root.get("steps").and_then(Value::as_u64).unwrap_or(1000);
    let optimizer = json!({
        "learning_rate": if lora { 2e-4 } else if from_model { 1e-4 } else { 1e-3 },
        "gate_learning_rate": 1e-3,
        "betas": [0.9, 0.99],
        "epsilon": 1e-8,
        "weight_decay": 0.0,
        "clip": 1.0,
        "warmup": (steps / 10).min(50),
        "schedule": "cosine",
        "floor": 0.02,
    });
    let top = json!({
        "version": CONFIG_VERSION, "kv_dtype": "f32", "seed": 0, "steps": 1000, "train": "all", "method": method, "distill": 0.0,
        "batch": {}, "checkpoint": {}, "evaluate": {}, "watchdog": {}, "optimizer": optimizer,
    });
    lay_under(root, top);
}

/// Puts in what is not there, section by section.
fn lay_under(section: &mut Map<String, Value>, defaults: Value) {
    let Value::Object(defaults) = defaults else { return };
    for (name, default) in defaults {
        match section.get_mut(&name) {
            Some(Value::Object(inner)) => lay_under(inner, default),
            Some(_) => {}
            None => {
                section.insert(name, default);
            }
        }
    }
}

/// Fills in the sections that apply.
fn fill(config: &mut Config) {
    if config.train == Trained::Lora {
        config.lora.get_or_insert_default();
    }
    match config.method {
        Method::None => {}
        Method::Window => {
            config.window.get_or_insert_default();
        }
        Method::Dcp => {
            let steps = config.steps;
            let gates = config.gates.get_or_insert_default();
            if gates.rule != GateRule::Birth {
                gates.width = Some(gates.width());
            }
            match gates.rule {
                GateRule::Soft if gates.alpha.is_none() => {
                    gates.alpha = format!("cosine_1.5_8_{}", steps.max(1)).parse().ok();
                }
                GateRule::Hard | GateRule::Birth => {
                    gates.noise.get_or_insert_default();
                }
                GateRule::Soft => {}
            }
            config.sparsity.get_or_insert_default().fill();
        }
    }
}
