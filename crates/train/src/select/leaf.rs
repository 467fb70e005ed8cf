//! LeaF (arXiv 2506.07851): tokens of a prompt that mislead the student and not its teacher.
//!
//! How much a token matters to a model is the norm of the gradient of the answer's loss at its embedding, scaled to 0..=1 over the
//! prompt. Where the student's is largest against the teacher's, the token is taken for a confounder. Each stretch of neighbouring
//! confounders is taken out of a copy of the prompt, from which the same answer is learned.

use std::ops::Range;

use super::q_tuning::min_max;

/// Differences above this never mark a token, however few are below: where most are, the student looks as its teacher does.
const LARGEST: f64 = 0.5;

/// What is taken for a confounder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leaf {
    /// Share of a prompt's tokens, those with the smallest differences, in (0, 1). The published code has 0.05 for mathematics and
    /// 0.1 for programs.
    pub share: f64,
}

/// How much more each token matters to the teacher than to the student, from the norms of both gradients, scaled to 0..=1.
#[must_use]
pub fn difference(student: &[f64], teacher: &[f64]) -> Vec<f64> {
    let (student, teacher) = (min_max(student), min_max(teacher));
    let difference: Vec<f64> =
        teacher.iter().zip(&student).map(|(teacher, student)| teacher - student).collect();
    min_max(&difference)
}

impl Leaf {
    /// Which tokens are confounders, by their [`difference`]; those that `is_blank` says are white space never are.
    ///
    /// As in the published code the one that the share ends at counts too, and so do all that are equal to it.
    #[must_use]
    pub fn confounders(&self, difference: &[f64], is_blank: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut sorted = difference.to_vec();
        sorted.sort_by(f64::total_cmp);
        let place = (sorted.len() as f64 * self.share) as usize;
        let Some(&at) = sorted.get(place.min(sorted.len().saturating_sub(1))) else { return Vec::new() };
        let threshold = at.min(LARGEST);
        difference.iter().enumerate().map(|(index, &own)| own <= threshold && !is_blank(index)).collect()
    }
}

/// Stretches of neighbours that are marked.
#[must_use]
pub fn stretches(marks: &[bool]) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for index in (0..marks.len()).filter(|&index| marks[index]) {
        match found.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => found.push(index..index + 1),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;

    /// The pieces that the words of a text stand for, white space before each with it, as the published code matches them.
    fn pieces<'a>(text: &'a str, words: &[&str]) -> Vec<&'a str> {
        let mut rest = text;
        let piece = |word: &&str| {
            let blank = rest.len() - rest.trim_start().len();
            let (own, left) = rest.split_at(if word.is_empty() { 0 } else { blank + word.len() });
            assert_eq!(own.trim_start(), *word);
            rest = left;
            own
        };
        words.iter().map(piece).collect()
    }

    #[test]
    fn confounders_and_prompts_without_them_are_those_of_the_published_code() {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/leaf/index.json"));
        let index: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = index["selection"].as_array().unwrap();
        let (mut marked, mut prompts) = (0, 0);
        for case in cases {
            let list = |key: &str| case[key].as_array().unwrap();
            let difference: Vec<f64> = list("diff01").iter().map(|value| value.as_f64().unwrap()).collect();
            let words: Vec<&str> = list("tokens").iter().map(|word| word.as_str().unwrap()).collect();
            let text = case["text"].as_str().unwrap();
            let pieces = pieces(text, &words);
            let leaf = Leaf { share: case["percent"].as_f64().unwrap() };
            let marks = leaf.confounders(&difference, |at| pieces[at].trim().is_empty());
            assert_eq!(Value::from(marks.clone()), case["masked"], "{text}");
            let spans = stretches(&marks);
            let indices: Vec<Vec<usize>> = spans.iter().cloned().map(Iterator::collect).collect();
            assert_eq!(serde_json::to_value(indices).unwrap(), case["spans"], "{text}");
            let without = |span: &Range<usize>| -> String {
                let left = pieces.iter().enumerate().filter(|(at, _)| !span.contains(at));
                left.map(|(_, piece)| *piece).chain(["\n"]).collect()
            };
            let found: Vec<String> = spans.iter().map(without).collect();
            // Without any the published code keeps the prompt as it is.
            if !found.is_empty() {
                assert_eq!(Value::from(found.clone()), case["counterfactual_prompts"], "{text}");
            }
            marked += marks.iter().filter(|&&marked| marked).count();
            prompts += found.len();
        }
        assert!(cases.len() >= 4 && marked > prompts && prompts > 4, "{} {marked} {prompts}", cases.len());
    }

    #[test]
    fn a_prompt_of_equal_tokens_and_one_of_none_do_no_harm() {
        assert_eq!(difference(&[2.0; 3], &[5.0; 3]), [0.0; 3]);
        let leaf = Leaf { share: 0.1 };
        assert_eq!(leaf.confounders(&[], |_| false), Vec::<bool>::new());
        assert_eq!(leaf.confounders(&[0.0; 3], |at| at == 1), [true, false, true]);
        assert_eq!(leaf.confounders(&[0.9, 0.8], |_| false), [false, false]);
        assert_eq!(stretches(&[true, true, false, true]), [0..2, 3..4]);
    }
}
