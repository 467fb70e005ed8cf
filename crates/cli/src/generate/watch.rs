//! `generate --watch`: what is forgotten, on the terminal, as it happens.
//!
//! Every token is drawn in one of four strengths that all terminals have, by the share of its entries that is live: the
//! text of a token that every layer keeps is bright, and one that all have forgotten is dim.

use std::io::{Result, Write};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use console::{Term, measure_text_width};
use dropcap_engine::Engine;
use dropcap_trace::Event;

use crate::loading::Loaded;
use crate::size::human;
use crate::terminal::escaped;

/// Between two pictures: faster than an eye follows costs the terminal only.
const PAUSE: Duration = Duration::from_millis(40);
/// Heights of a layer's bar.
const BARS: [char; 9] =
    [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

/// A text and what the cache still holds of it.
pub struct Watch {
    events: Receiver<Event>,
    picture: Picture,
    terminal: Term,
    /// Lines of the picture that stands on the terminal.
    drawn: usize,
    last: Option<Instant>,
    held_bytes: usize,
}

impl Watch {
    /// Watches an engine that runs one sequence and has a trace.
    pub fn over(engine: &mut Engine, loaded: &Loaded) -> Self {
        let (tell, events) = channel();
        // A watcher that has gone hears nothing more.
        engine.watch_trace(move |event| drop(tell.send(event.clone())));
        let groups = if loaded.policy.per_head() { loaded.config.kv_heads } else { 1 };
        let picture = Picture::new(loaded.config.layers, groups);
        Self { events, picture, terminal: Term::stdout(), drawn: 0, last: None, held_bytes: 0 }
    }

    /// Takes the newest piece of text, whose token the model has not read yet.
    pub fn expect(&mut self, piece: &str) {
        self.picture.pending.push_str(piece);
    }

    /// Draws how it stands, unless it was drawn a moment ago.
    pub fn draw(&mut self, engine: &Engine) -> Result<()> {
        self.held_bytes = engine.usage().map_or(0, |usage| usage.held_bytes);
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        self.listen();
        let (rows, columns) = self.terminal.size();
        let mut lines = self.picture.lines(columns.into());
        // What has scrolled away comes back at the end.
        let most = usize::from(rows).saturating_sub(3).max(1);
        lines.drain(..lines.len().saturating_sub(most));
        lines.push(self.picture.memory(self.held_bytes, columns.into()));
        self.replace(&lines)
    }

    /// Leaves the whole text on the terminal, as it stands at the end.
    pub fn finish(mut self) -> Result<()> {
        self.listen();
        let columns = self.terminal.size().1;
        let lines = self.picture.lines(columns.into());
        self.replace(&lines)?;
        // The newline after a text is its caller's.
        self.terminal.move_cursor_up(1)?;
        self.terminal.move_cursor_right(columns.into())
    }

    fn listen(&mut self) {
        self.events.try_iter().for_each(|event| self.picture.take(&event));
    }

    fn replace(&mut self, lines: &[String]) -> Result<()> {
        let mut picture = String::new();
        if self.drawn > 0 {
            picture.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        for line in lines {
            // Overwritten and then cut: a line that is cleared first flickers.
            picture.push_str(&format!("\r{line}\u{1b}[0m\u{1b}[K\n"));
        }
        picture.push_str("\u{1b}[J");
        self.drawn = lines.len();
        self.terminal.write_all(picture.as_bytes())?;
        self.terminal.flush()
    }
}

/// What is to be drawn.
struct Picture {
    /// Lanes of each layer.
    groups: usize,
    texts: Vec<String>,
    /// Live entries of each token.
    live: Vec<usize>,
    /// Dead entries of each layer.
    dead: Vec<usize>,
    /// What was generated and not yet read.
    pending: String,
}

impl Picture {
    fn new(layers: usize, groups: usize) -> Self {
        Self { groups, texts: Vec::new(), live: Vec::new(), dead: vec![0; layers], pending: String::new() }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Tokens(tokens) => {
                let unknown = || tokens.ids.iter().map(|id| format!("<{id}>")).collect();
                self.texts.extend(tokens.texts.clone().unwrap_or_else(unknown));
                self.live.resize(self.texts.len(), self.groups * self.dead.len());
                self.pending.clear();
            }
            Event::Deaths(deaths) => {
                for (position, ..) in deaths.iter() {
                    if let Some(live) = self.live.get_mut(position as usize) {
                        *live = live.saturating_sub(1);
                    }
                }
                if let Some(dead) = self.dead.get_mut(deaths.layer) {
                    *dead += deaths.positions.len();
                }
            }
            Event::Sequence(_) | Event::End(_) => {}
        }
    }

    /// The text in lines of at most `columns` columns.
    fn lines(&self, columns: usize) -> Vec<String> {
        let (mut lines, mut width) = (vec![String::new()], 0);
        let all = self.groups * self.dead.len();
        let known =
            self.texts.iter().zip(&self.live).map(|(text, &live)| (text.as_str(), strength(live, all)));
        for (text, strength) in known.chain([(self.pending.as_str(), strength(all, all))]) {
            for (number, part) in escaped(text).replace('\t', "    ").split('\n').enumerate() {
                if number > 0 {
                    lines.push(String::new());
                    width = 0;
                }
                for character in part.chars() {
                    let mut one = [0; 4];
                    let wide = measure_text_width(character.encode_utf8(&mut one));
                    if width + wide > columns.max(2) - 1 {
                        lines.push(String::new());
                        width = 0;
                    }
                    width += wide;
                    if let Some(line) = lines.last_mut() {
                        line.push_str(strength);
                        line.push(character);
                    }
                }
            }
        }
        lines
    }

    /// One line about the memory: a bar for each layer's share of live entries, then the sums.
    fn memory(&self, held_bytes: usize, columns: usize) -> String {
        let each = self.groups * self.texts.len();
        let share = |dead: usize| (each - dead.min(each)) as f64 / each.max(1) as f64;
        let bars: String =
            self.dead.iter().map(|&dead| BARS[(share(dead) * 8.0).ceil().clamp(0.0, 8.0) as usize]).collect();
        let all = each * self.dead.len();
        let live = all - self.dead.iter().sum::<usize>().min(all);
        let words = format!(
            " {live} of {all} entries live ({:.1} %), {} held",
            100.0 * live as f64 / all.max(1) as f64,
            human(held_bytes as u64)
        );
        let room = columns.saturating_sub(words.len() + 3);
        let bars: String = bars.chars().take(room).collect();
        format!("\u{1b}[2m|{bars}|{words}")
    }
}

/// How a token is drawn of whose entries so many are live.
fn strength(live: usize, all: usize) -> &'static str {
    match () {
        () if live == all => "\u{1b}[0;1m",
        () if 2 * live > all => "\u{1b}[0m",
        () if live > 0 => "\u{1b}[0;2m",
        () => "\u{1b}[0;2;9m",
    }
}

#[cfg(test)]
mod tests {
    use dropcap_trace::{Deaths, Tokens};

    use super::*;

    fn picture() -> Picture {
        let mut picture = Picture::new(2, 1);
        let texts = ["one", " two\n", "\u{1b}[2J", " three"].map(str::to_owned).to_vec();
        let ids = vec![1, 2, 3, 4];
        picture.take(&Event::Tokens(Tokens { id: 0, first_position: 0, ids, texts: Some(texts) }));
        picture.take(&Event::Deaths(Deaths::collect(0, 0, None, [(0, 3, 3), (1, 3, 3)])));
        picture.take(&Event::Deaths(Deaths::collect(0, 1, None, [(0, 4, 4)])));
        picture
    }

    /// A line without our own strengths.
    fn plain(line: &str) -> String {
        console::strip_ansi_codes(line).into_owned()
    }

    #[test]
    fn tokens_go_dim_as_their_entries_die() {
        let lines = picture().lines(80);
        assert_eq!(lines.iter().map(|line| plain(line)).collect::<Vec<_>>(), ["one two", "\\u001b[2J three"]);
        assert!(lines[0].starts_with("\u{1b}[0;2;9mo"), "forgotten by both layers: {:?}", lines[0]);
        assert!(lines[0].contains("\u{1b}[0;2mt"), "forgotten by one of two");
        assert!(lines[1].starts_with("\u{1b}[0;1m\\"), "a control character is written out");
        assert!(lines[1].ends_with("\u{1b}[0;1me"), "what all layers keep is bright");
    }

    #[test]
    fn lines_are_cut_at_the_terminals_width() {
        let mut picture = picture();
        picture.pending = "\u{6f22}\u{5b57}".repeat(10);
        for columns in [1, 2, 7, 20] {
            let lines = picture.lines(columns);
            let widest = lines.iter().map(|line| measure_text_width(line)).max().unwrap();
            assert!(widest <= columns.max(2), "{columns}: {widest}");
        }
    }

    #[test]
    fn the_memory_has_a_bar_for_each_layer_and_sums_that_add_up() {
        let line = plain(&picture().memory(2048, 80));
        assert_eq!(line, "|\u{2584}\u{2586}| 5 of 8 entries live (62.5 %), 2.00 KiB held");
    }
}
