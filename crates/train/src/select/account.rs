//! What was learned of all batches so far, and why the rest was not.

use super::q_tuning::{Fate, Reason};

/// Counts over the steps of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Examples that were looked at; one that comes again counts again.
    pub examples: u64,
    /// Tokens of their answers.
    pub tokens: u64,
    /// Tokens that were learned.
    pub learned: u64,
    /// Examples learned whole because the model is right and unsure.
    pub unsure: u64,
    /// Those learned in part because it is sure and wrong.
    pub wrong: u64,
    /// Those that filled the share.
    pub supplement: u64,
    /// Examples dropped as noise: wrong and unsure.
    pub noise: u64,
    /// Those dropped because they are known: sure and right.
    pub known: u64,
    /// Those dropped because they stand between.
    pub between: u64,
}

impl Account {
    /// Numbers that it consists of.
    pub const NUMBERS: usize = 9;

    /// Counts one example of so many learnable tokens.
    pub fn count(&mut self, fate: &Fate, tokens: u64) {
        self.examples += 1;
        self.tokens += tokens;
        match fate {
            Fate::Whole(reason) => {
                self.learned += tokens;
                *(if *reason == Reason::Unsure { &mut self.unsure } else { &mut self.supplement }) += 1;
            }
            Fate::Tokens(marks) => {
                self.learned += marks.iter().filter(|&&kept| kept).count() as u64;
                self.wrong += 1;
            }
            Fate::Dropped(Reason::Noise) => self.noise += 1,
            Fate::Dropped(Reason::Known) => self.known += 1,
            Fate::Dropped(Reason::Unsure | Reason::Between) => self.between += 1,
        }
    }

    /// Examples that were learned from.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.unsure + self.wrong + self.supplement
    }

    /// Their share of all, for people.
    #[must_use]
    pub fn share_kept(&self) -> String {
        share(self.kept(), self.examples)
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        let mut sums = self.numbers();
        sums.iter_mut().zip(other.numbers()).for_each(|(sum, more)| *sum += more);
        *self = Self::of_numbers(sums);
    }

    /// All counts.
    #[must_use]
    pub fn numbers(&self) -> [u64; Self::NUMBERS] {
        let Self { examples, tokens, learned, unsure, wrong, supplement, noise, known, between } = *self;
        [examples, tokens, learned, unsure, wrong, supplement, noise, known, between]
    }

    /// The account of [`Account::numbers`].
    #[must_use]
    pub fn of_numbers(numbers: [u64; Self::NUMBERS]) -> Self {
        let [examples, tokens, learned, unsure, wrong, supplement, noise, known, between] = numbers;
        Self { examples, tokens, learned, unsure, wrong, supplement, noise, known, between }
    }

    /// In words, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let of = |part: u64| share(part, self.examples);
        format!(
            "q_tuning looked at {} examples and learned from {} ({} right and unsure, {} sure and wrong, {} to fill the share); it dropped {} as noise, {} as known and {} between; {} of the answers' tokens were learned",
            self.examples,
            self.share_kept(),
            of(self.unsure),
            of(self.wrong),
            of(self.supplement),
            of(self.noise),
            of(self.known),
            of(self.between),
            share(self.learned, self.tokens)
        )
    }
}

fn share(part: u64, of: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_adds_up_and_is_read_again() {
        let mut account = Account::default();
        let fates = [
            Fate::Whole(Reason::Unsure),
            Fate::Whole(Reason::Noise),
            Fate::Tokens(vec![true, false, false, true]),
            Fate::Dropped(Reason::Noise),
            Fate::Dropped(Reason::Known),
            Fate::Dropped(Reason::Between),
        ];
        fates.iter().for_each(|fate| account.count(fate, 4));
        assert_eq!(account.numbers(), [6, 24, 10, 1, 1, 1, 1, 1, 1]);
        assert_eq!(Account::of_numbers(account.numbers()), account);
        assert!(account.sentence().contains("6 examples and learned from 50.0 %"), "{}", account.sentence());
        assert!(account.sentence().contains("41.7 % of the answers' tokens"), "{}", account.sentence());
    }
}
