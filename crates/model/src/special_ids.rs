//! The tokens that begin and end a text, as a config names them.

use crate::config_json::ConfigJson;
use crate::error::ModelError;

/// Reads `bos_token_id` and `eos_token_id`: absent takes the family's default, `null` means none.
///
/// Ids outside the vocabulary are left out: small models often keep the defaults of the large one that they were
/// derived from, and such tokens can never be generated.
pub(crate) fn special_ids(
    json: &ConfigJson,
    default_bos: Option<u32>,
    default_eos: Option<u32>,
    vocabulary: usize,
) -> Result<(Option<u32>, Vec<u32>), ModelError> {
    let read = |key: &str, absent: Option<u32>| {
        let stated = json.token_ids(key)?;
        let mut ids =
            if json.states(key) { stated.unwrap_or_default() } else { absent.into_iter().collect() };
        ids.retain(|&id| (id as usize) < vocabulary);
        Ok::<_, ModelError>(ids)
    };
    Ok((read("bos_token_id", default_bos)?.first().copied(), read("eos_token_id", default_eos)?))
}
