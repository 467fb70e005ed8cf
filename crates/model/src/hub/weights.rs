//! Which files make a model.

use dropcap_weights::{INDEX_FILE, SINGLE_FILE, is_pickle};

use super::HubError;

pub(super) const CONFIG: &str = "config.json";

/// Without these no model runs.
pub(super) const REQUIRED: [&str; 2] = [CONFIG, "tokenizer.json"];
/// Fetched where the repository has them; the last is a file of trained gates.
pub(super) const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer_config.json", "chat_template.jinja", "pruning.safetensors"];

/// How the weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    /// One file.
    Single,
    /// Several files and an index of them.
    Sharded,
}

/// Finds the weights among the names of `model`'s files; one file wins over an index, as in transformers.
pub(super) fn find<'a>(model: &str, names: impl Iterator<Item = &'a str>) -> Result<Weights, HubError> {
    let mut sharded = false;
    let mut other = Vec::new();
    for name in names {
        match name {
            SINGLE_FILE => return Ok(Weights::Single),
            INDEX_FILE => sharded = true,
            _ if is_weights(name) => other.push(name),
            _ => {}
        }
    }
    if sharded {
        return Ok(Weights::Sharded);
    }
    let pickled =
        other.iter().any(|name| is_pickle(name)) && !other.iter().any(|name| name.ends_with(".safetensors"));
    let more = other.len().saturating_sub(4);
    other.truncate(4);
    let mut found = other.join(", ");
    if more > 0 {
        found.push_str(&format!(" and {more} more"));
    }
    let model = model.to_owned();
    Err(if pickled { HubError::PickleOnly { model, found } } else { HubError::NoWeights { model, found } })
}

fn is_weights(name: &str) -> bool {
    let other = [".safetensors", ".gguf", ".h5", ".msgpack", ".onnx"];
    (is_pickle(name) || other.iter().any(|end| name.ends_with(end))) && name != "pruning.safetensors"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickles_are_refused_with_the_way_out_and_never_win() {
        let error = find("a/b", ["config.json", "pytorch_model.bin"].into_iter()).unwrap_err();
        assert!(matches!(&error, HubError::PickleOnly { found, .. } if found == "pytorch_model.bin"));
        assert!(error.to_string().contains("save_pretrained"), "{error}");
        assert_eq!(find("a/b", ["pytorch_model.bin", SINGLE_FILE].into_iter()).unwrap(), Weights::Single);
        assert_eq!(find("a/b", [INDEX_FILE, "pytorch_model.bin"].into_iter()).unwrap(), Weights::Sharded);
        assert_eq!(find("a/b", [INDEX_FILE, SINGLE_FILE].into_iter()).unwrap(), Weights::Single);
        for names in [&["config.json"][..], &["training_args.bin"], &["adapter_model.safetensors", "x.bin"]] {
            let error = find("a/b", names.iter().copied()).unwrap_err();
            assert!(matches!(error, HubError::NoWeights { .. }), "{error}");
        }
    }
}
