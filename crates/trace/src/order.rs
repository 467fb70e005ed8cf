//! The rules that hold between lines; writer and reader both keep them.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{Deaths, End, Event, Granularity, Sequence, Tokens, TraceError, TraceHeader, VERSION};

/// What a rule says and what an event holds instead; the caller knows the line.
#[derive(Debug)]
pub(crate) struct Refusal {
    field: &'static str,
    expected: String,
    got: String,
}

impl Refusal {
    pub(crate) fn at(self, line: u64) -> TraceError {
        TraceError::Invalid { line, field: self.field, expected: self.expected, got: self.got }
    }

    pub(crate) fn new(field: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Self { field, expected: expected.to_string(), got: got.to_string() }
    }
}

/// Follows a trace line by line. Its memory grows with the lines seen, never with numbers that they claim.
#[derive(Debug)]
pub(crate) struct Order {
    layers: usize,
    kv_heads: usize,
    groups: u64,
    granularity: Granularity,
    vocabulary: usize,
    open: HashMap<u64, Open>,
    ended: HashSet<u64>,
}

#[derive(Debug, Default)]
struct Open {
    tokens: u32,
    /// Deaths by layer; a map, so that a header's claim of many layers costs nothing.
    dead: BTreeMap<usize, u64>,
}

impl Order {
    pub(crate) fn new(header: &TraceHeader) -> Result<Self, Refusal> {
        if !(1..=VERSION).contains(&header.version) {
            return Err(Refusal::new("version", format_args!("1 to {VERSION}"), header.version));
        }
        let counts =
            [("layers", header.layers), ("kv_heads", header.kv_heads), ("vocabulary", header.vocabulary)];
        for (field, count) in counts {
            if count == 0 || u32::try_from(count).is_err() {
                return Err(Refusal::new(field, format_args!("1 to {}", u32::MAX), count));
            }
        }
        Ok(Self {
            layers: header.layers,
            kv_heads: header.kv_heads,
            groups: header.groups() as u64,
            granularity: header.granularity,
            vocabulary: header.vocabulary,
            open: HashMap::new(),
            ended: HashSet::new(),
        })
    }

    /// Takes the next event, or says which rule it breaks; a refused event changes nothing.
    pub(crate) fn admit(&mut self, event: &Event) -> Result<(), Refusal> {
        match event {
            Event::Sequence(event) => self.begin(event),
            Event::Tokens(event) => self.tokens(event),
            Event::Deaths(event) => self.deaths(event),
            Event::End(event) => self.end(event),
        }
    }

    fn begin(&mut self, event: &Sequence) -> Result<(), Refusal> {
        if self.open.contains_key(&event.id) || self.ended.contains(&event.id) {
            return Err(Refusal::new("id", "a new sequence", format_args!("sequence {} again", event.id)));
        }
        self.open.insert(event.id, Open::default());
        Ok(())
    }

    fn tokens(&mut self, event: &Tokens) -> Result<(), Refusal> {
        let vocabulary = self.vocabulary;
        let open = find(&mut self.open, event.id)?;
        if event.first_position != open.tokens {
            return Err(Refusal::new("first_position", open.tokens, event.first_position));
        }
        if let Some(texts) = &event.texts
            && texts.len() != event.ids.len()
        {
            return Err(Refusal::new("texts", format_args!("{} texts", event.ids.len()), texts.len()));
        }
        if let Some(id) = event.ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Refusal::new("ids", format_args!("ids below {vocabulary}"), id));
        }
        let total = u32::try_from(event.ids.len()).ok().and_then(|count| open.tokens.checked_add(count));
        // The largest u32 is the lifetime that never ends, so it cannot be a position.
        open.tokens = total.ok_or_else(|| {
            Refusal::new("ids", format_args!("at most {} tokens in a sequence", u32::MAX), "more")
        })?;
        Ok(())
    }

    fn deaths(&mut self, event: &Deaths) -> Result<(), Refusal> {
        let count = event.positions.len();
        for (field, len) in [("expires_at", event.expires_at.len()), ("killers", event.killers.len())] {
            if len != count {
                return Err(Refusal::new(field, format_args!("{count} values, as many as positions"), len));
            }
        }
        if let Some(scores) = &event.scores {
            if scores.len() != count {
                let expected = format_args!("{count} values, as many as positions");
                return Err(Refusal::new("scores", expected, scores.len()));
            }
            if let Some(score) = scores.iter().flatten().find(|score| !score.is_finite()) {
                return Err(Refusal::new("scores", "finite numbers", score));
            }
        }
        if event.layer >= self.layers {
            return Err(Refusal::new("layer", format_args!("a layer below {}", self.layers), event.layer));
        }
        match (self.granularity, event.head) {
            (Granularity::Layer, None) => {}
            (Granularity::KvHead, Some(head)) if head < self.kv_heads => {}
            (Granularity::Layer, Some(head)) => {
                return Err(Refusal::new("head", "no head, as the granularity is layer", head));
            }
            (Granularity::KvHead, head) => {
                let got = head.map_or("none".to_owned(), |head| head.to_string());
                return Err(Refusal::new("head", format_args!("a KV head below {}", self.kv_heads), got));
            }
        }
        let groups = self.groups;
        let open = find(&mut self.open, event.id)?;
        let mut before = None;
        for (position, expires_at, killer) in event.iter() {
            if position >= open.tokens {
                return Err(Refusal::new(
                    "positions",
                    format_args!("positions below {}, the tokens so far", open.tokens),
                    position,
                ));
            }
            if before.is_some_and(|before| position <= before) {
                return Err(Refusal::new("positions", "strictly ascending positions", position));
            }
            if expires_at <= position || expires_at > open.tokens {
                let expected = format!(
                    "{} to {} (the tokens so far) for position {position}",
                    position + 1,
                    open.tokens
                );
                return Err(Refusal::new("expires_at", expected, expires_at));
            }
            if killer < position || killer > expires_at {
                let expected = format!("{position} to {expires_at} for position {position}");
                return Err(Refusal::new("killers", expected, killer));
            }
            before = Some(position);
        }
        let before = open.dead.get(&event.layer).copied().unwrap_or(0);
        let dead = before.saturating_add(count as u64);
        let logical = u64::from(open.tokens).saturating_mul(groups);
        if dead > logical {
            return Err(Refusal::new("positions", format_args!("at most {logical} deaths in a layer"), dead));
        }
        open.dead.insert(event.layer, dead);
        Ok(())
    }

    fn end(&mut self, event: &End) -> Result<(), Refusal> {
        let (layers, groups) = (self.layers, self.groups);
        let open = find(&mut self.open, event.id)?;
        if event.live.len() != layers {
            return Err(Refusal::new("live", format_args!("{layers} values, one a layer"), event.live.len()));
        }
        for (layer, &live) in event.live.iter().enumerate() {
            let dead = open.dead.get(&layer).copied().unwrap_or(0);
            let most = u64::from(open.tokens).saturating_mul(groups).saturating_sub(dead);
            if live > most {
                return Err(Refusal::new(
                    "live",
                    format_args!("at most {most} entries in layer {layer}"),
                    live,
                ));
            }
        }
        self.open.remove(&event.id);
        self.ended.insert(event.id);
        Ok(())
    }
}

fn find(open: &mut HashMap<u64, Open>, id: u64) -> Result<&mut Open, Refusal> {
    open.get_mut(&id).ok_or_else(|| Refusal::new("id", "a sequence that has begun and not ended", id))
}
