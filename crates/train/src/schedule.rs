//! Numbers that follow the step: the sharpness of soft gates, and the learning rate.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TrainError;

/// What the published code adds to the start, so that alpha is never exactly 1.
const START_SHIFT: f64 = 1e-8;

/// The sharpness alpha of soft gates by step, with the grammar and the arithmetic of the published training.
///
/// `linear_<start>_<end>_<steps>`, `cosine_<start>_<end>_<steps>`, `linearcosine_<start>_<mid>_<steps>_<end>_<steps>`.
/// The start is raised by 1e-8 (and only the start); from the last step on alpha is exactly the end.
///
/// Source: Anagnostidis et al. 2023, arXiv 2305.15805, and its public code.
///
/// ```
/// let alpha: dropcap_train::schedule::AlphaSchedule = "cosine_1.5_8_1000".parse()?;
/// assert_eq!(alpha.at(1000), 8.0);
/// # Ok::<(), dropcap_train::TrainError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AlphaSchedule {
    start: f64,
    /// The value between two stretches, and the length of the first.
    bend: Option<(f64, u64)>,
    end: f64,
    shape: Shape,
    steps: u64,
}

/// How the last stretch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Linear,
    Cosine,
}

impl AlphaSchedule {
    /// Alpha at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let start = self.start + START_SHIFT;
        match self.bend {
            Some((mid, first)) if step < first => linear(start, mid, step, first),
            Some((mid, first)) => self.stretch(mid, step - first),
            None => self.stretch(start, step),
        }
    }

    /// Steps until alpha stays at its end.
    pub fn steps(&self) -> u64 {
        self.bend.map_or(0, |(_, first)| first) + self.steps
    }

    fn stretch(&self, start: f64, step: u64) -> f64 {
        match self.shape {
            _ if step >= self.steps => self.end,
            Shape::Linear => linear(start, self.end, step, self.steps),
            Shape::Cosine => {
                let angle = PI * step as f64 / self.steps as f64;
                self.end + (start - self.end) / 2.0 * (1.0 + angle.cos())
            }
        }
    }
}

fn linear(start: f64, end: f64, step: u64, steps: u64) -> f64 {
    start + step as f64 * (end - start) / steps as f64
}

impl FromStr for AlphaSchedule {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self, TrainError> {
        let wrong = |reason: &str| TrainError::Schedule {
            given: text.chars().take(80).collect(),
            reason: reason.to_owned(),
        };
        let alpha = |word: &str| match word.parse::<f64>() {
            Ok(value) if (1.0..=64.0).contains(&value) => Ok(value),
            Ok(_) => Err(wrong(&format!("{word} is outside 1 to 64"))),
            Err(_) => Err(wrong(&format!("{word:?} is no number"))),
        };
        let steps = |word: &str| match word.parse::<u64>() {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(wrong(&format!("{word:?} is no number of steps"))),
        };
        let words: Vec<&str> = text.trim().split('_').collect();
        match words[..] {
            [shape @ ("linear" | "cosine"), start, end, count] => Ok(Self {
                start: alpha(start)?,
                bend: None,
                end: alpha(end)?,
                shape: if shape == "linear" { Shape::Linear } else { Shape::Cosine },
                steps: steps(count)?,
            }),
            ["linearcosine", start, mid, first, end, second] => Ok(Self {
                start: alpha(start)?,
                bend: Some((alpha(mid)?, steps(first)?)),
                end: alpha(end)?,
                shape: Shape::Cosine,
                steps: steps(second)?,
            }),
            ["linear" | "cosine" | "linearcosine", ..] => Err(wrong("the number of values is wrong")),
            _ => Err(wrong("there is no such form")),
        }
    }
}

impl TryFrom<String> for AlphaSchedule {
    type Error = TrainError;

    fn try_from(text: String) -> Result<Self, TrainError> {
        text.parse()
    }
}

impl From<AlphaSchedule> for String {
    fn from(schedule: AlphaSchedule) -> Self {
        schedule.to_string()
    }
}

impl fmt::Display for AlphaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, bend, end, shape, steps } = self;
        match (bend, shape) {
            (Some((mid, first)), _) => write!(f, "linearcosine_{start}_{mid}_{first}_{end}_{steps}"),
            (None, Shape::Linear) => write!(f, "linear_{start}_{end}_{steps}"),
            (None, Shape::Cosine) => write!(f, "cosine_{start}_{end}_{steps}"),
        }
    }
}

/// The learning rate by step: a linear rise, then constant or along a half cosine to a floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Steps of the rise; the first step has rate 0 unless this is 0.
    pub warmup: u64,
    /// Whether it falls after the rise.
    pub decay: bool,
    /// The share of the peak that is left at the end, where it falls.
    pub floor: f64,
    /// Steps in all.
    pub steps: u64,
}

impl LearningRate {
    /// The rate at a step, counted from 0: `peak * min(1, step / warmup)` as published, times the decay.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        if !self.decay {
            return self.peak;
        }
        let (past, length) = (step - self.warmup, self.steps.saturating_sub(self.warmup).max(1));
        let share = past.min(length) as f64 / length as f64;
        self.peak * (self.floor + (1.0 - self.floor) / 2.0 * (1.0 + (PI * share).cos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference computes in f64 too; only the order of a product may differ.
    const RELATIVE: f64 = 1e-12;

    #[test]
    fn alpha_follows_the_published_schedules() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/schedules/schedules.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut forms = std::collections::BTreeSet::new();
        for (name, values) in golden.as_object().unwrap() {
            let schedule: AlphaSchedule = name.parse().unwrap();
            forms.insert(name.split('_').next().unwrap());
            let steps = values["steps"].as_array().unwrap();
            for (step, alpha) in steps.iter().zip(values["alpha"].as_array().unwrap()) {
                let (step, alpha) = (step.as_u64().unwrap(), alpha.as_f64().unwrap());
                let found = schedule.at(step);
                assert!((found - alpha).abs() <= RELATIVE * alpha, "{name} at {step}: {found} and {alpha}");
            }
            assert_eq!(schedule.to_string().parse::<AlphaSchedule>().unwrap(), schedule);
        }
        assert_eq!(forms.len(), 3, "every form is compared");
    }

    #[test]
    fn a_wrong_schedule_is_refused_with_its_reason() {
        for (text, words) in [
            ("", "no such form"),
            ("cosin_1_8_10", "no such form"),
            ("cosine_1_8", "number of values"),
            ("cosine_1_8_0", "steps"),
            ("cosine_1_8_-3", "steps"),
            ("linear_0_8_3", "outside"),
            ("linear_1_nan_3", "outside"),
            ("linear_1_x_3", "no number"),
            ("linearcosine_1_2_3_4", "number of values"),
        ] {
            let error = text.parse::<AlphaSchedule>().unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("linearcosine_<start>"), "{error}");
        }
    }

    #[test]
    fn the_rate_rises_from_nothing_and_falls_to_its_floor() {
        let constant = LearningRate { peak: 1e-3, warmup: 4, decay: false, floor: 0.0, steps: 100 };
        let rates: Vec<f64> = [0, 1, 2, 3, 4, 99].map(|step| constant.at(step)).into();
        assert_eq!(rates, [0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3]);
        let cosine = LearningRate { decay: true, floor: 0.1, ..constant };
        assert_eq!(cosine.at(4), 1e-3);
        assert!((cosine.at(52) - 0.55e-3).abs() < 1e-15);
        assert!((cosine.at(100) - 1e-4).abs() < 1e-15 && cosine.at(500) == cosine.at(100));
        assert_eq!(LearningRate { warmup: 0, ..constant }.at(0), 1e-3);
        assert!(LearningRate { warmup: 200, ..cosine }.at(300) > 0.0);
    }
}
