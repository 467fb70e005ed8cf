//! The two formats, read strictly: what is odd is refused with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::MethodError;

/// More than any profile: 600 trials of 10,000 heads are below it.
const MOST_BYTES: u64 = 128 << 20;

/// The scores `[L][heads]` of a file; at least one layer and one head, all layers alike.
pub(super) fn layers(path: &Path) -> Result<Vec<Vec<f64>>, MethodError> {
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
    let layers = if json { retrieval_heads(text) } else { full_attention_heads(text) };
    layers.map_err(|(place, what)| refused(place, what))
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

/// Retrieval Head's object.
fn retrieval_heads(text: &str) -> Result<Vec<Vec<f64>>, Wrong> {
    let Heads(heads) = serde_json::from_str(text)
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
    Ok((0..layers).map(|layer| (0..width).map(|head| heads[&(layer, head)]).collect()).collect())
}

/// The first head that is not there, in the order of layers.
fn missing(heads: &BTreeMap<(usize, usize), f64>, width: usize) -> (usize, usize) {
    let mut expected = (0, 0);
    for &found in heads.keys() {
        if found != expected {
            break;
        }
        expected = if expected.1 + 1 < width { (expected.0, expected.1 + 1) } else { (expected.0 + 1, 0) };
    }
    expected
}

/// Heads and their mean scores.
struct Heads(BTreeMap<(usize, usize), f64>);

impl<'de> serde::Deserialize<'de> for Heads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadsVisitor)
    }
}

struct HeadsVisitor;

impl<'de> Visitor<'de> for HeadsVisitor {
    type Value = Heads;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of \"layer-head\" and the scores of its trials")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Heads, A::Error> {
        let mut heads = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let place =
                key.split_once('-').and_then(|(layer, head)| Some((layer.parse().ok()?, head.parse().ok()?)));
            let Some(place) = place else {
                return Err(A::Error::custom(format!(
                    "{} is no head; expected \"layer-head\", such as \"16-19\"",
                    shown(&key)
                )));
            };
            let trials: Vec<f64> = map.next_value()?;
            if trials.is_empty() {
                return Err(A::Error::custom(format!(
                    "head {key} has no trials; expected at least one score"
                )));
            }
            if heads.insert(place, trials.iter().sum::<f64>() / trials.len() as f64).is_some() {
                return Err(A::Error::custom(format!("head {key} is there twice")));
            }
        }
        if heads.is_empty() {
            return Err(A::Error::custom("no heads"));
        }
        Ok(Heads(heads))
    }
}

/// A field as it may stand in a message: short, and without control characters.
fn shown(field: &str) -> String {
    let begin: String = field.chars().take(40).flat_map(char::escape_debug).collect();
    format!("`{begin}`{}", if field.chars().count() > 40 { "..." } else { "" })
}
