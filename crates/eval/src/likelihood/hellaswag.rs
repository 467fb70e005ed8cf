//! HellaSwag in six lines an example.

use std::path::Path;

use dropcap_train::data::Lines;

use super::examples::{Example, choices};
use crate::EvalError;

/// Lines of an example: the context, the number of the right ending, the endings.
const LINES: usize = 2 + ENDINGS;
const ENDINGS: usize = 4;

pub(super) fn read(path: &Path, limit: usize) -> Result<Vec<Example>, EvalError> {
    let mut lines = Lines::open(path)?;
    let mut examples = Vec::new();
    while examples.len() < limit {
        let mut text = String::new();
        let mut begin = 0;
        let mut count = 0;
        while count < LINES && lines.next(&mut text)? {
            if count == 0 {
                begin = lines.number();
            }
            count += 1;
        }
        let given: Vec<&str> = text.lines().collect();
        if given.iter().all(|line| line.trim().is_empty()) {
            return Ok(examples);
        }
        if count < LINES {
            let reason =
                format!("the last example has {count} lines instead of {LINES}: the file is cut off");
            return Err(EvalError::example(path, begin, reason));
        }
        let gold = given[1].trim();
        let gold = gold.parse().ok().filter(|&gold| gold < ENDINGS).ok_or_else(|| {
            let reason = format!(
                "'{gold}' is no number of an ending: the second line of an example is 0 to {}",
                ENDINGS - 1
            );
            EvalError::example(path, begin + 1, reason)
        })?;
        let endings: Vec<String> = given[2..].iter().map(|&ending| ending.to_owned()).collect();
        if let Some(empty) = endings.iter().position(|ending| ending.trim().is_empty()) {
            let reason = "the ending is empty: every ending has text";
            return Err(EvalError::example(path, begin + 2 + empty as u64, reason));
        }
        examples.push(Example { line: begin, pairs: choices(given[0], " ", &endings), gold });
    }
    Ok(examples)
}
