//! Things that are said once and asked about later.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Something that is said, and how it is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fact {
    /// The sentence.
    pub(super) sentence: String,
    /// The question.
    pub(super) question: String,
    /// How its answer begins.
    pub(super) lead: String,
    /// How it goes on.
    pub(super) answer: String,
}

const THINGS: [&str; 40] = [
    "garden", "castle", "bridge", "harbor", "market", "temple", "island", "forest", "river", "mountain",
    "library", "station", "theater", "museum", "factory", "school", "hospital", "tower", "village", "desert",
    "lantern", "mirror", "violin", "compass", "ladder", "bottle", "carpet", "candle", "hammer", "kettle",
    "pillow", "saddle", "anchor", "basket", "engine", "helmet", "ribbon", "statue", "window", "wagon",
];
const NAMES: [&str; 24] = [
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Irene", "Jack", "Karen", "Leo",
    "Maria", "Nathan", "Olivia", "Peter", "Rachel", "Simon", "Teresa", "Victor", "Wendy", "Oscar", "Julia",
    "Martin",
];
const FAMILIES: [&str; 20] = [
    "Adams", "Baker", "Carter", "Dixon", "Ellis", "Fisher", "Gibson", "Harris", "Irving", "Jordan", "Keller",
    "Lawson", "Mason", "Norris", "Parker", "Quinn", "Russell", "Turner", "Walsh", "Young",
];
const CITIES: [&str; 20] = [
    "Paris", "London", "Berlin", "Madrid", "Vienna", "Rome", "Prague", "Dublin", "Oslo", "Athens", "Boston",
    "Chicago", "Cairo", "Tokyo", "Sydney", "Toronto", "Lisbon", "Moscow", "Geneva", "Warsaw",
];
const WORDS: [&str; 32] = [
    "apple", "horse", "stone", "paper", "cloud", "table", "green", "music", "water", "light", "bread",
    "chair", "glass", "money", "night", "ocean", "plant", "queen", "sugar", "tiger", "train", "uncle",
    "voice", "watch", "wheel", "youth", "beach", "clock", "dream", "field", "heart", "knife",
];

/// Numbers of things, all of different things: up to 40 with one word, beyond that with a number behind the word.
pub(super) fn secrets(random: &mut ChaCha8Rng, count: usize) -> Vec<Fact> {
    let mut things = THINGS.to_vec();
    things.shuffle(random);
    let fact = |index: usize| {
        let thing = match index / THINGS.len() {
            0 => things[index].to_owned(),
            round => format!("{} {}", things[index % THINGS.len()], round + 1),
        };
        let number = random.random_range(10_000..100_000);
        Fact {
            sentence: format!("The secret number of the {thing} is {number}."),
            question: format!("\n\nQuestion: What is the secret number of the {thing}?"),
            lead: format!("\nAnswer: The secret number of the {thing} is"),
            answer: format!(" {number}"),
        }
    };
    (0..count).map(fact).collect()
}

/// Keys and values as they stand in files of settings: up to 9,000 different keys.
pub(super) fn pairs(random: &mut ChaCha8Rng, count: usize) -> Vec<Fact> {
    let first = random.random_range(1_000..10_000);
    // 7919 is prime to 9,000, so keys come back only after all of them.
    let key = |index: usize| 1_000 + (first - 1_000 + index * 7_919) % 9_000;
    let fact = |index: usize| {
        let (key, value) = (key(index), random.random_range(10_000..100_000));
        Fact {
            sentence: format!("key-{key}: {value}\n"),
            question: format!("\nWhat is the value of key-{key}?"),
            lead: format!("\nkey-{key}:"),
            answer: format!(" {value}"),
        }
    };
    (0..count).map(fact).collect()
}

/// Where people live and what is theirs, for questions with an open book: up to 12,480 different names.
pub(super) fn people(random: &mut ChaCha8Rng, count: usize) -> Vec<Fact> {
    let (mut names, mut families) = (NAMES.to_vec(), FAMILIES.to_vec());
    names.shuffle(random);
    families.shuffle(random);
    let fact = |index: usize| {
        // All pairs of both, the families a step further in each round of the names, before a letter comes between them.
        let (name, round) = (index % NAMES.len(), index / NAMES.len());
        let (family, letter) = (families[(name + round) % FAMILIES.len()], round / FAMILIES.len());
        let middle = match letter {
            0 => String::new(),
            number => format!(" {}.", char::from(b'A' + (number - 1) as u8 % 26)),
        };
        let name = format!("{}{middle} {family}", names[name]);
        let city = CITIES.choose(random).copied().unwrap_or_default();
        let thing = THINGS.choose(random).copied().unwrap_or_default();
        Fact {
            sentence: format!("{name} lives in {city} and has bought a {thing}."),
            question: format!("\n\nQuestion: Where does {name} live?"),
            lead: format!("\nAnswer: {name} lives in"),
            answer: format!(" {city}"),
        }
    };
    (0..count.min(NAMES.len() * FAMILIES.len() * 26)).map(fact).collect()
}

/// A list of words that is to be copied.
pub(super) fn list(random: &mut ChaCha8Rng, words: usize) -> Fact {
    let word = |_| WORDS.choose(random).copied().unwrap_or_default();
    let words = (0..words).map(word).collect::<Vec<_>>().join(", ");
    Fact {
        sentence: format!("The list is: {words}."),
        question: "\n\nQuestion: What is the list?".to_owned(),
        lead: "\nAnswer: The list is:".to_owned(),
        answer: format!(" {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashSet;

    #[test]
    fn no_two_facts_are_about_the_same() {
        let random = &mut ChaCha8Rng::seed_from_u64(5);
        for facts in [secrets(random, 200), pairs(random, 900), people(random, 12_000)] {
            let questions: HashSet<&str> = facts.iter().map(|fact| fact.question.as_str()).collect();
            assert_eq!(questions.len(), facts.len());
            for fact in &facts {
                assert!(fact.sentence.contains(fact.answer.trim()), "{fact:?}");
            }
        }
    }
}
