//! Which examples are learned from: `q_tuning(sample=0.25, token=0.5)`.

use std::fmt;
use std::str::FromStr;

use dropcap_methods::{MethodSpec, Term, nearest};
use serde::{Deserialize, Serialize};

/// A choice among the examples of `data.train`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Select {
    /// Batch by batch, by what the model makes of each example (see [`crate::select::QTuning`]).
    QTuning {
        /// Share of a batch's examples that is kept, in (0, 1].
        sample: f64,
        /// Share of the tokens that is kept where the model is sure and wrong, in (0, 1].
        token: f64,
        /// Weight of a token's neighbours, in 0..=1.
        lambda: f64,
    },
    /// Once, by scores that were written before (see [`crate::select::coverage`]).
    Coreset {
        /// Share of the examples that is kept, in (0, 1].
        share: f64,
        /// Ranges of scores that are drawn from alike, at least 1.
        strata: usize,
        /// Share of the examples, those of the highest scores, that is left out, in [0, 1).
        hardest: f64,
        /// Weight of the effort beside the influence, 0 or more.
        lambda: f64,
    },
    /// All of them, and beside them examples that lack what misleads the model and not its teacher (see [`crate::select::Leaf`]).
    Leaf {
        /// Share of a prompt's tokens that is taken for confounders, in (0, 1).
        share: f64,
    },
    /// Once, each example as likely as any other: what other choices are measured against.
    Random {
        /// Share of the examples that is kept, in (0, 1].
        share: f64,
    },
}

/// Names with their parameters.
const FORMS: &[(&str, &[&str])] = &[
    ("q_tuning", &["sample", "token", "lambda"]),
    ("coreset", &["share", "strata", "hardest", "lambda"]),
    ("leaf", &["share"]),
    ("random", &["share"]),
];

impl FromStr for Select {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec = MethodSpec::parse_grammar(text).map_err(|error| error.to_string())?;
        let [term] = spec.terms() else { return Err(format!("`{text}` combines choices: give one")) };
        let known = FORMS.iter().find(|(name, _)| *name == term.name());
        let Some((name, parameters)) = known else {
            let names: Vec<&str> = FORMS.iter().map(|(name, _)| *name).collect();
            let hint = nearest(term.name(), names.iter().copied())
                .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
            return Err(format!(
                "there is no choice `{}`{hint}; there are {}",
                term.name(),
                names.join(", ")
            ));
        };
        if term.amount().is_some() || term.inner().is_some() {
            return Err(format!("{name} takes {} in parentheses and nothing else", parameters.join(", ")));
        }
        if let Some((key, _)) = term.arguments().iter().find(|(key, _)| !parameters.contains(&key.as_str())) {
            return Err(format!("{name} has no parameter `{key}`: it has {}", parameters.join(", ")));
        }
        let select = match *name {
            "q_tuning" => Self::QTuning {
                sample: share(term, "sample", Some(0.25))?,
                token: share(term, "token", Some(0.5))?,
                lambda: number(term, "lambda", 0.5, &|value| (0.0..=1.0).contains(&value), "from 0 to 1")?,
            },
            "coreset" => Self::Coreset {
                share: share(term, "share", None)?,
                strata: number(
                    term,
                    "strata",
                    50.0,
                    &|value| (1.0..=1e4).contains(&value) && value.fract() == 0.0,
                    "a whole number from 1 to 10000",
                )? as usize,
                hardest: number(
                    term,
                    "hardest",
                    0.1,
                    &|value| (0.0..1.0).contains(&value),
                    "from 0 to below 1",
                )?,
                lambda: number(term, "lambda", 0.5, &|value| value >= 0.0 && value.is_finite(), "0 or more")?,
            },
            "leaf" => Self::Leaf {
                share: number(
                    term,
                    "share",
                    0.05,
                    &|value| value > 0.0 && value < 1.0,
                    "above 0 and below 1",
                )?,
            },
            _ => Self::Random { share: share(term, "share", None)? },
        };
        Ok(select)
    }
}

fn share(term: &Term, key: &str, default: Option<f64>) -> Result<f64, String> {
    if default.is_none() && !term.arguments().iter().any(|(name, _)| name == key) {
        return Err(format!("{} needs `{key}`, the share that is kept, as {key}=0.1", term.name()));
    }
    number(
        term,
        key,
        default.unwrap_or_default(),
        &|value| value > 0.0 && value <= 1.0,
        "above 0 and at most 1",
    )
}

fn number(
    term: &Term,
    key: &str,
    default: f64,
    fits: &dyn Fn(f64) -> bool,
    range: &str,
) -> Result<f64, String> {
    let Some((_, text)) = term.arguments().iter().find(|(name, _)| name == key) else { return Ok(default) };
    match text.parse::<f64>() {
        Ok(value) if fits(value) => Ok(value),
        _ => Err(format!("{}: {key} is {text}, and {range} is needed", term.name())),
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::QTuning { sample, token, lambda } => {
                write!(f, "q_tuning(sample={sample}, token={token}, lambda={lambda})")
            }
            Self::Coreset { share, strata, hardest, lambda } => {
                write!(f, "coreset(share={share}, strata={strata}, hardest={hardest}, lambda={lambda})")
            }
            Self::Leaf { share } => write!(f, "leaf(share={share})"),
            Self::Random { share } => write!(f, "random(share={share})"),
        }
    }
}

impl TryFrom<String> for Select {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Select> for String {
    fn from(select: Select) -> Self {
        select.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_with_their_defaults_and_written_as_they_are_read() {
        for (text, written) in [
            ("q_tuning", "q_tuning(sample=0.25, token=0.5, lambda=0.5)"),
            ("q_tuning(sample=0.125, lambda=0)", "q_tuning(sample=0.125, token=0.5, lambda=0)"),
            ("coreset(share=0.02, strata=50)", "coreset(share=0.02, strata=50, hardest=0.1, lambda=0.5)"),
            ("random(share=0.25)", "random(share=0.25)"),
            ("leaf", "leaf(share=0.05)"),
        ] {
            let select: Select = text.parse().unwrap();
            assert_eq!(select.to_string(), written);
            assert_eq!(written.parse(), Ok(select));
        }
    }

    #[test]
    fn what_is_wrong_with_a_choice_is_said() {
        for (text, words) in [
            ("qtuning", "did you mean q_tuning?"),
            ("coreset", "needs `share`"),
            ("coreset(share=0.1, strata=0)", "strata is 0, and a whole number from 1"),
            ("coreset(share=2)", "share is 2, and above 0 and at most 1"),
            ("leaf(share=1)", "share is 1, and above 0 and below 1"),
            ("q_tuning(share=0.1)", "no parameter `share`: it has sample, token, lambda"),
            ("q_tuning(sample=nan)", "sample is nan"),
            ("q_tuning@0.2", "in parentheses and nothing else"),
            ("q_tuning & random(share=0.1)", "combines choices"),
            ("random(share=0.1", ""),
        ] {
            let error = text.parse::<Select>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
