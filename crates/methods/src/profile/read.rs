//! All formats, read strictly: what is odd is refused with its place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use dropcap_weights::Fingerprint;

use super::heads::{Heads, Object, shown};
use crate::MethodError;

/// More than any profile: 600 trials of 10,000 heads are below it.
const MOST_BYTES: u64 = 128 << 20;

/// The scores `[L][heads]` of a file, and the model that it says it was measured on; at least one layer and one head, all
/// layers alike.
pub(super) fn layers(path: &Path) -> Result<(Vec<Vec<f64>>, Option<Fingerprint>), MethodError> {
    let refused = |place: String, what: String| MethodError::Profile { path: path.to_owned(), place, what };
    let unreadable = |error| MethodError::ProfileUnreadable { path: path.to_owned(), error };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut text)).map_err(unreadable)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(refused("the end".into(), format!("more than {MOST_BYTES} bytes, which no profile has")));
    }
    let text = std::str::from_utf8(&text).map_err(|error| {
        let line = 1 + text[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        refused(format!("line {line}"), "bytes that are not text (UTF-8)".into())
    })?;
    let json = text.trim_start().starts_with('{');
    let read = if json { objects(text) } else { full_attention_heads(text).map(|layers| (layers, None)) };
    read.map_err(|(place, what)| refused(place, what))
}

/// Where a file is wrong, and how.
type Wrong = (String, String);

/// DuoAttention's table.
fn full_attention_heads(text: &str) -> Result<Vec<Vec<f64>>, Wrong> {
    let mut layers: Vec<Vec<f64>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = || format!("line {}", index + 1);
        let number = |(column, field): (usize, &str)| match field.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => {
                Err((place(), format!("column {} is {}; expected a finite number", column + 1, shown(field))))
            }
        };
        let heads = line.split('\t').enumerate().map(number).collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = layers.first()
            && first.len() != heads.len()
        {
            let what =
                format!("{} numbers; expected {} as in line 1: one per KV head", heads.len(), first.len());
            return Err((place(), what));
        }
        layers.push(heads);
    }
    if layers.is_empty() {
        let what = "nothing; expected a line of numbers per layer, or a JSON object of heads";
        return Err(("line 1".into(), what.into()));
    }
    Ok(layers)
}

/// Retrieval Head's object, or ours.
fn objects(text: &str) -> Result<(Vec<Vec<f64>>, Option<Fingerprint>), Wrong> {
    let Object { heads, model } = serde_json::from_str(text)
        .map_err(|error| (format!("line {} column {}", error.line(), error.column()), error.to_string()))?;
    let (layers, width) = heads.keys().fold((0, 0), |(layers, width), &(layer, head)| {
        (layers.max(layer.saturating_add(1)), width.max(head.saturating_add(1)))
    });
    // A single wild number must not make a table of its size.
    if layers.saturating_mul(width) != heads.len() {
        let (layer, head) = missing(&heads, width);
        let what = format!(
            "not there, though heads up to {}-{} are: one entry per query head",
            layers - 1,
            width - 1
        );
        return Err((format!("head {layer}-{head}"), what));
    }
    let layer = |layer| (0..width).map(|head| heads[&(layer, head)]).collect();
    Ok(((0..layers).map(layer).collect(), model))
}

/// The first head that is not there, in the order of layers.
fn missing(heads: &Heads, width: usize) -> (usize, usize) {
    let mut expected = (0, 0);
    for &found in heads.keys() {
        if found != expected {
            break;
        }
        expected = if expected.1 + 1 < width { (expected.0, expected.1 + 1) } else { (expected.0 + 1, 0) };
    }
    expected
}
