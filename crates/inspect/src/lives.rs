//! How long each entry of a sequence lived, counted and packed for the page.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dropcap_trace::{SequenceTimeline, TraceHeader};

/// One sequence, lane by lane: layer after layer, and in each its KV heads where these have entries of their own.
#[derive(Clone, Copy)]
pub(crate) struct Lives<'a> {
    sequence: &'a SequenceTimeline,
    layers: usize,
    groups: usize,
}

/// A token over all its entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Life {
    /// Mean over the lanes of the queries that saw the entry, as a share of those that could have: 1 where it never
    /// died.
    pub(crate) lived: f64,
    /// Entries that are live at the end.
    pub(crate) kept: usize,
}

impl<'a> Lives<'a> {
    pub(crate) fn new(header: &TraceHeader, sequence: &'a SequenceTimeline) -> Self {
        Self { sequence, layers: header.layers, groups: header.groups() }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.sequence.ids.len()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.layers * self.groups
    }

    /// One element per token.
    pub(crate) fn of_tokens(&self) -> Vec<Life> {
        let (tokens, lanes) = (self.tokens(), self.lanes());
        let mut lives = vec![Life { lived: 0.0, kept: lanes }; tokens];
        for (layer, head) in self.each_lane() {
            for (position, fate) in self.sequence.fates(layer, head) {
                // The reader has refused deaths of tokens that were not there.
                if let Some(life) = lives.get_mut(position as usize) {
                    life.kept -= 1;
                    life.lived +=
                        f64::from(fate.expires_at - position) / (tokens as f64 - f64::from(position));
                }
            }
        }
        for life in &mut lives {
            life.lived = (life.lived + life.kept as f64) / lanes as f64;
        }
        lives
    }

    /// Base64 of, for every lane and in it every token: 0 if its entry is live at the end, else how many queries saw it
    /// and how long before its end it was decided, as varints of seven bits a byte, the lowest first.
    pub(crate) fn packed(&self) -> String {
        let mut bytes = Vec::with_capacity(self.tokens() * self.lanes());
        for (layer, head) in self.each_lane() {
            let mut fates = self.sequence.fates(layer, head).peekable();
            for position in 0..self.tokens() as u32 {
                match fates.next_if(|(dead, _)| *dead == position) {
                    None => bytes.push(0),
                    Some((_, fate)) => {
                        varint(fate.expires_at - position, &mut bytes);
                        varint(fate.expires_at - fate.killer, &mut bytes);
                    }
                }
            }
        }
        STANDARD.encode(bytes)
    }

    /// Base64 of the scores of fatal votes, f32 little-endian, one for each death in the order of [`Lives::packed`], NaN
    /// where none is known; nothing where none is known at all.
    pub(crate) fn packed_scores(&self) -> Option<String> {
        let fates = self.each_lane().flat_map(|(layer, head)| self.sequence.fates(layer, head));
        let scores: Vec<Option<f32>> = fates.map(|(_, fate)| fate.score).collect();
        scores.iter().any(Option::is_some).then(|| {
            let bytes: Vec<u8> =
                scores.iter().flat_map(|score| score.unwrap_or(f32::NAN).to_le_bytes()).collect();
            STANDARD.encode(bytes)
        })
    }

    fn each_lane(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let groups = self.groups;
        (0..self.layers).flat_map(move |layer| (0..groups).map(move |head| (layer, head)))
    }
}

fn varint(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::timeline;

    #[test]
    fn a_life_is_the_mean_share_of_the_queries_that_saw_the_entries() {
        let timeline = timeline();
        let lives = Lives::new(&timeline.header, &timeline.sequences[&3]).of_tokens();
        // Four tokens in two layers; layer 1 loses token 0 at query 2 and token 1 at query 2.
        assert_eq!(lives[0], Life { lived: (1.0 + 2.0 / 4.0) / 2.0, kept: 1 });
        assert_eq!(lives[1], Life { lived: (1.0 + 1.0 / 3.0) / 2.0, kept: 1 });
        assert_eq!(lives[2], Life { lived: 1.0, kept: 2 });
    }

    #[test]
    fn lives_are_packed_lane_by_lane() {
        let timeline = timeline();
        let lives = Lives::new(&timeline.header, &timeline.sequences[&3]);
        let bytes = STANDARD.decode(lives.packed()).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, /* layer 1 */ 2, 0, 1, 1, 0, 0]);
        let scores = STANDARD.decode(lives.packed_scores().unwrap()).unwrap();
        assert_eq!(&scores[..4], (-0.5_f32).to_le_bytes());
        assert!(f32::from_le_bytes([scores[4], scores[5], scores[6], scores[7]]).is_nan());
        let mut long = Vec::new();
        varint(300, &mut long);
        assert_eq!(long, [0xac, 0x02]);
    }
}
