//! Contexts of a chosen length with something to remember at a chosen depth, and the questions about them.

use std::path::PathBuf;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::SPARE;
use super::facts::{self, Fact};
use super::haystack::Haystack;
use crate::EvalError;
use crate::subject::Subject;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecallKind {
    /// One sentence hidden in a text, in the manner of RULER and the needle in a haystack.
    Needle,
    /// One of many keys, the whole context being such pairs (Liu et al. 2023, arXiv 2307.03172).
    KeyValue,
    /// Two hidden sentences: one is asked about first, and then, when it is too late to look again, the other.
    SecondQuestion,
    /// Things that are told one after the other; each turn asks about an earlier one.
    MultiTurn,
    /// A list of words that is to be written again.
    Copying,
    /// A page about people, one of whom is asked about.
    OpenBook,
}

impl RecallKind {
    /// All of them under the command's names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("needle", Self::Needle),
        ("key_value", Self::KeyValue),
        ("second_question", Self::SecondQuestion),
        ("multi_turn", Self::MultiTurn),
        ("copying", Self::Copying),
        ("open_book", Self::OpenBook),
    ];
}

/// How a task is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Recall {
    /// What is asked.
    pub kind: RecallKind,
    /// Tokens of the context and the first question, or of the whole talk of [`RecallKind::MultiTurn`].
    pub length: usize,
    /// Where what is asked about stands, from 0 to 1; the examples take one after the other.
    pub depths: Vec<f64>,
    /// Sentences that are hidden, words of the list, turns; ignored where facts fill the whole context.
    pub facts: usize,
    /// How many prompts.
    pub prompts: usize,
    /// Equal seeds give equal prompts.
    pub seed: u64,
    /// Whether the question belongs to what is pruned where the prompt ends; otherwise it comes after that, unknown.
    pub aware: bool,
    /// The text to hide them in; none for a few sentences that repeat.
    pub haystack: Option<PathBuf>,
}

/// Prompts of one kind and length.
#[derive(Debug)]
pub struct RecallTask {
    /// As the tables name it.
    pub name: String,
    pub(super) aware: bool,
    pub(super) dialogues: Vec<Dialogue>,
}

/// One context with its questions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dialogue {
    pub(super) depth: f64,
    pub(super) context: String,
    pub(super) turns: Vec<Turn>,
}

/// What is said to the model, and what it should answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) text: String,
    pub(super) answer: String,
}

impl RecallTask {
    /// Makes the prompts.
    ///
    /// # Errors
    /// A haystack that cannot be read; a length that the model does not have, or in which there is no room for what is
    /// asked.
    pub fn generate(name: String, recall: &Recall, subject: &Subject) -> Result<Self, EvalError> {
        let haystack = Haystack::open(recall.haystack.as_deref())?;
        let maker = Maker { name: &name, recall, subject, haystack: &haystack };
        let depth = |number: usize| recall.depths.get(number % recall.depths.len().max(1)).copied();
        let dialogues = (0..recall.prompts).map(|number| maker.make(number, depth(number).unwrap_or(0.5)));
        let dialogues = dialogues.collect::<Result<_, _>>()?;
        Ok(Self { name, aware: recall.aware, dialogues })
    }

    /// How many prompts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dialogues.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dialogues.is_empty()
    }

    /// Questions of each prompt.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.dialogues.first().map_or(0, |dialogue| dialogue.turns.len())
    }
}

struct Maker<'a> {
    name: &'a str,
    recall: &'a Recall,
    subject: &'a Subject,
    haystack: &'a Haystack,
}

impl Maker<'_> {
    /// One dialogue, a function of the seed and its number.
    fn make(&self, number: usize, depth: f64) -> Result<Dialogue, EvalError> {
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
        let taken = self.tokens(&facts[0].question)? + self.sum(facts.iter().map(|fact| &*fact.sentence))?;
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
        let longest = facts.iter().map(|fact| &fact.question).max_by_key(|question| question.len());
        let room = self.room(self.tokens(longest.map_or("", |question| question))?)?;
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
        let questions = asked.iter().map(|&index| &*facts[index].question);
        let answers = asked.iter().map(|&index| &*facts[index].answer);
        let taken = self.sum(questions)?
            + self.sum(answers)?
            + self.sum(facts.iter().map(|fact| &*fact.sentence))?
            + facts.len() * SPARE;
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
        let turns = lead.zip(&asked).map(|(lead, &index)| Turn {
            text: format!("{lead}{}", facts[index].question),
            answer: facts[index].answer.clone(),
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

    /// Refuses a talk that could outgrow the model.
    fn check(&self, dialogue: &Dialogue) -> Result<(), EvalError> {
        let mut wanted = self.subject.tokenizer.encode(&dialogue.context)?.len();
        for turn in &dialogue.turns {
            wanted += self.tokens(&turn.text)? + self.tokens(&turn.answer)? + SPARE;
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
    Turn { text: fact.question.clone(), answer: fact.answer.clone() }
}
