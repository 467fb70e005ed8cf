//! Which of several continuations a model prefers.

/// One continuation of a multiple-choice example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The sum of its tokens' log-probabilities, in nats.
    pub log_likelihood: f64,
    /// Characters of the choice as the task states it, without the space that joins it to its context.
    pub characters: usize,
}

/// The choice with the largest log-likelihood, the first of equals: `acc` of lm-evaluation-harness counts how often it is
/// the right one. None of no choices.
#[must_use]
pub fn likeliest(choices: &[Choice]) -> Option<usize> {
    largest(choices.iter().map(|choice| choice.log_likelihood))
}

/// The choice with the largest log-likelihood per character, the first of equals, so that a long choice is not worse for
/// being long: `acc_norm` of lm-evaluation-harness. None of no choices.
#[must_use]
pub fn likeliest_per_character(choices: &[Choice]) -> Option<usize> {
    largest(choices.iter().map(|choice| choice.log_likelihood / choice.characters.max(1) as f64))
}

fn largest(values: impl Iterator<Item = f64>) -> Option<usize> {
    let better = |best: Option<(usize, f64)>, (index, value): (usize, f64)| match best {
        Some((_, most)) if value <= most || value.is_nan() => best,
        _ => Some((index, value)),
    };
    values.enumerate().fold(None, better).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(log_likelihood: f64, characters: usize) -> Choice {
        Choice { log_likelihood, characters }
    }

    #[test]
    fn length_counts_against_a_choice_unless_it_is_divided_out() {
        let choices = [choice(-4.0, 2), choice(-6.0, 12), choice(-5.0, 5)];
        assert_eq!(likeliest(&choices), Some(0));
        assert_eq!(likeliest_per_character(&choices), Some(1));
    }

    #[test]
    fn the_first_of_equals_is_taken_as_numpy_does() {
        assert_eq!(likeliest(&[choice(-2.0, 1), choice(-1.0, 1), choice(-1.0, 9)]), Some(1));
        assert_eq!(likeliest(&[]), None);
    }
}
