//! How dialogues of a length are made.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::SPARE;
use super::dialogue::{Dialogue, Recall, RecallKind, Turn};
use super::facts::{self, Fact};
use super::haystack::Haystack;
use crate::EvalError;
use crate::subject::Subject;

/// What dialogues are made with.
pub(super) struct Maker<'a> {
    pub(super) name: &'a str,
    pub(super) recall: &'a Recall,
    pub(super) subject: &'a Subject,
    pub(super) haystack: &'a Haystack,
    /// Tokens that the model's template puts around a message; 0 without one.
    pub(super) around: usize,
}

impl Maker<'_> {
    /// One dialogue, a function of the seed and its number.
    pub(super) fn make(&self, number: usize, depth: f64) -> Result<Dialogue, EvalError> {
        let mut random = ChaCha8Rng::seed_from_u64(self.recall.seed);
        random.set_stream(number as u64);
        let count = self.recall.facts.max(1);
        let dialogue = match self.recall.kind {
            RecallKind::Needle => self.hidden(facts::secrets(&mut random, count), 1, depth, random)?,
            RecallKind::SecondQuestion => {
                self.hidden(facts::secrets(&mut random, count.max(2)), 2, depth, random)?
            }
            RecallKind::Copying => self.hidden(vec![facts::list(&mut random, count)], 1, depth, random)?,
            RecallKind::KeyValue => self.filled(facts::pairs(&mut random, MANY), "", depth)?,
            RecallKind::OpenBook => self.filled(facts::people(&mut random, MANY), " ", depth)?,
            RecallKind::MultiTurn => self.told(facts::secrets(&mut random, count), depth, random)?,
        };
        self.check(&dialogue)?;
        Ok(dialogue)
    }

    /// Facts among sentences of the haystack: the first of them at the depth, the others anywhere. `asked` of them are asked
    /// about.
    fn hidden(
        &self,
        facts: Vec<Fact>,
        asked: usize,
        depth: f64,
        mut random: ChaCha8Rng,
    ) -> Result<Dialogue, EvalError> {
        let taken = self.asked(&facts[0])? + self.sum(facts.iter().map(|fact| &*fact.sentence))?;
        let mut sentences = self.fill(self.room(taken)?, &mut random)?;
        let hay = sentences.len();
        let first = (depth.clamp(0.0, 1.0) * hay as f64).round() as usize;
        let places = std::iter::once(first).chain((1..facts.len()).map(|_| random.random_range(0..=hay)));
        let mut placed: Vec<(usize, &Fact)> = places.zip(&facts).collect();
        // From the back, so that earlier places stay true.
        placed.sort_by_key(|&(place, _)| std::cmp::Reverse(place));
        for (place, fact) in placed {
            sentences.insert(place, fact.sentence.clone());
        }
        let turns = facts.iter().take(asked).map(question).collect();
        Ok(Dialogue { depth, context: sentences.join(" "), turns })
    }

    /// As many facts as there is room for, and nothing else; the one at the depth is asked about.
    fn filled(&self, facts: Vec<Fact>, joined: &str, depth: f64) -> Result<Dialogue, EvalError> {
        let longest = facts.iter().max_by_key(|fact| fact.question.len() + fact.lead.len());
        let room = self.room(longest.map_or(Ok(0), |fact| self.asked(fact))?)?;
        let (mut taken, mut count) = (0, 0_usize);
        for fact in &facts {
            taken += self.tokens(&format!("{joined}{}", fact.sentence))?;
            if taken > room {
                break;
            }
            count += 1;
        }
        let Some(last) = count.checked_sub(1) else { return Err(self.too_short(taken)) };
        let asked = &facts[(depth.clamp(0.0, 1.0) * last as f64).round() as usize];
        let sentences: Vec<&str> = facts[..count].iter().map(|fact| &*fact.sentence).collect();
        Ok(Dialogue { depth, context: sentences.join(joined), turns: vec![question(asked)] })
    }

    /// One fact a turn with its share of the haystack, each turn asking about one that was told before, the first of which is
    /// told in the context.
    fn told(&self, facts: Vec<Fact>, depth: f64, mut random: ChaCha8Rng) -> Result<Dialogue, EvalError> {
        let asked: Vec<usize> = (0..facts.len()).map(|turn| random.random_range(0..=turn)).collect();
        let turns = asked.iter().map(|&index| Ok(self.asked(&facts[index])? + self.answered(&facts[index])?));
        let taken =
            turns.sum::<Result<usize, EvalError>>()? + self.sum(facts.iter().map(|fact| &*fact.sentence))?;
        let share = self.room(taken)? / facts.len().max(1);
        let mut pieces = Vec::with_capacity(facts.len());
        for fact in &facts {
            let mut sentences = self.fill(share, &mut random)?;
            sentences.insert(
                (depth.clamp(0.0, 1.0) * sentences.len() as f64).round() as usize,
                fact.sentence.clone(),
            );
            pieces.push(sentences.join(" "));
        }
        let mut pieces = pieces.into_iter();
        let context = pieces.next().unwrap_or_default();
        // The first turn asks about the context; each of the others brings its own piece first.
        let lead = std::iter::once(String::new()).chain(pieces.map(|piece| format!("\n\n{piece}")));
        let turns = lead.zip(&asked).map(|(told, &index)| {
            let turn = question(&facts[index]);
            Turn { question: format!("{told}{}", turn.question), ..turn }
        });
        Ok(Dialogue { depth, context, turns: turns.collect() })
    }

    /// Sentences of the haystack that take at most so many tokens.
    fn fill(&self, room: usize, random: &mut ChaCha8Rng) -> Result<Vec<String>, EvalError> {
        let (mut sentences, mut taken) = (Vec::new(), 0);
        for sentence in self.haystack.run_on(random) {
            taken += self.tokens(&format!(" {sentence}"))?;
            if taken > room {
                break;
            }
            sentences.push(sentence.to_owned());
        }
        Ok(sentences)
    }

    /// Tokens that are left of the length.
    fn room(&self, taken: usize) -> Result<usize, EvalError> {
        self.recall.length.checked_sub(taken).ok_or_else(|| self.too_short(taken))
    }

    fn too_short(&self, least: usize) -> EvalError {
        EvalError::TooShort { what: self.name.to_owned(), given: self.recall.length, least }
    }

    fn sum<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<usize, EvalError> {
        texts.map(|text| self.tokens(text)).sum()
    }

    fn tokens(&self, text: &str) -> Result<usize, EvalError> {
        Ok(self.subject.piece(text)?.len())
    }

    /// Tokens of a question; the beginning of its answer belongs to it where there is no template.
    fn asked(&self, fact: &Fact) -> Result<usize, EvalError> {
        let lead = if self.subject.template.is_some() { "" } else { &*fact.lead };
        Ok(self.tokens(&format!("{}{lead}", fact.question))? + self.around)
    }

    /// Tokens that an answer takes at most.
    fn answered(&self, fact: &Fact) -> Result<usize, EvalError> {
        let lead = if self.subject.template.is_some() { &*fact.lead } else { "" };
        Ok(self.tokens(&format!("{lead}{}", fact.answer))? + SPARE)
    }

    /// Refuses a talk that could outgrow the model.
    fn check(&self, dialogue: &Dialogue) -> Result<(), EvalError> {
        let mut wanted = self.subject.tokenizer.encode(&dialogue.context)?.len();
        for turn in &dialogue.turns {
            let said = self.tokens(&turn.question)? + self.tokens(&turn.lead)? + self.tokens(&turn.answer)?;
            wanted += said + SPARE + self.around;
        }
        let limit = self.subject.config.max_positions;
        if wanted > limit {
            return Err(EvalError::TooLong {
                what: format!("{} with its answers", self.name),
                wanted,
                limit,
            });
        }
        Ok(())
    }
}

/// Facts that are made where they are to fill the context.
const MANY: usize = 9_000;

fn question(fact: &Fact) -> Turn {
    let Fact { sentence, question, lead, answer } = fact.clone();
    Turn { question, lead, answer, sentence }
}
