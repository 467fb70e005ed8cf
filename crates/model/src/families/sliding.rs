//! Which layers of a Qwen model see only a window.

use crate::config_json::ConfigJson;
use crate::decoder_config::MAX_POSITIONS;
use crate::error::ModelError;

/// Reads `use_sliding_window`, `sliding_window`, `layer_types` and `max_window_layers` as Qwen2 and Qwen3 do: one
/// window, or none, per layer.
pub(super) fn per_layer(json: &ConfigJson, layers: usize) -> Result<Vec<Option<u32>>, ModelError> {
    let window = if json.flag_or("use_sliding_window", false)? { window(json)? } else { None };
    if let Some(types) = json.texts("layer_types")? {
        return by_types(json, &types, layers, window);
    }
    if window.is_none() {
        return Ok(vec![None; layers]);
    }
    // Despite its name, the number of layers at the bottom that see everything; 0 is allowed.
    let full = match json.get("max_window_layers").map(serde_json::Value::as_u64) {
        None => 28,
        Some(Some(full)) => full,
        Some(None) => return Err(json.refuse("max_window_layers", "a whole number")),
    };
    Ok((0..layers as u64).map(|layer| window.filter(|_| layer >= full)).collect())
}

/// The value of `sliding_window`; nothing for `null`, and the default of the families when it is absent.
pub(super) fn window(json: &ConfigJson) -> Result<Option<u32>, ModelError> {
    if json.states("sliding_window") && json.get("sliding_window").is_none() {
        return Ok(None);
    }
    // The limit is far below u32::MAX, so the conversion keeps the value.
    Ok(u32::try_from(json.count_or("sliding_window", MAX_POSITIONS, 4096)?).ok())
}

fn by_types(
    json: &ConfigJson,
    types: &[&str],
    layers: usize,
    window: Option<u32>,
) -> Result<Vec<Option<u32>>, ModelError> {
    if types.len() != layers {
        return Err(json.refuse("layer_types", format!("a list of num_hidden_layers = {layers} texts")));
    }
    let windowed = |kind: &&str| match *kind {
        "full_attention" => Ok(None),
        "sliding_attention" if window.is_some() => Ok(window),
        "sliding_attention" => Err(json
            .refuse("layer_types", "without sliding_attention, because the config sets no sliding_window")),
        _ => {
            Err(json
                .unsupported("layer_types", "the types supported are full_attention and sliding_attention"))
        }
    };
    types.iter().map(windowed).collect()
}
