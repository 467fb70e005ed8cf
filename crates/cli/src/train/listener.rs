//! What a person sees of a run.

use std::time::Duration;

use dropcap_train::data::Prepared;
use dropcap_train::metrics::{Evaluated, Report, Saved, Stepped};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{progress, terminal};

/// Draws a bar, and prints evaluations and warnings above it.
pub struct Listener {
    bar: ProgressBar,
}

const TEMPLATE: &str = "{bar:24} {pos}/{len} {msg} ETA {eta}";

impl Listener {
    pub(crate) fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar }
    }

    /// What is drawn, for who counts something else than steps.
    pub(crate) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        // Without a terminal the bar is silent, and a log still wants the line.
        self.bar.suspend(|| progress::note(text));
    }
}

impl Report for Listener {
    fn prepared(&mut self, prepared: &Prepared<'_>) {
        match prepared {
            Prepared::Tokenizing { file, tokens } => {
                let message = format!("{}: {tokens} tokens", file.display());
                self.bar.set_message(terminal::escaped(&message).into_owned());
            }
            Prepared::Made { file, tokens } => self.line(&format!("{}: {tokens} tokens", file.display())),
            Prepared::Replacing { shard, reason } => {
                self.line(&format!("{} is made again: {reason}", shard.display()));
            }
            _ => {}
        }
    }

    fn told(&mut self, what: &str) {
        self.line(what);
    }

    fn stepped(&mut self, step: &Stepped) {
        let rate = step.tokens as f64 / step.took.as_secs_f64();
        let keep = step.keep.map_or_else(String::new, |keep| format!(" keep {keep:.3}"));
        self.bar.set_position(step.step);
        self.bar.set_message(format!("loss {:.3}{keep} {rate:.0} tok/s", step.loss));
    }

    fn evaluated(&mut self, found: &Evaluated) {
        let Evaluated { step, perplexity, .. } = found;
        let mut line = format!("step {step}: held-out perplexity {perplexity:.2}");
        if let Some(dense) = found.dense_perplexity {
            line.push_str(&format!(" forgetting, {dense:.2} not"));
        }
        if !found.keep.is_empty() {
            let mean = found.keep.iter().sum::<f64>() / found.keep.len() as f64;
            let layers: Vec<String> = found.keep.iter().map(|keep| format!("{keep:.2}")).collect();
            line.push_str(&format!("; keep {mean:.3} ({})", layers.join(" ")));
        }
        self.line(&line);
    }

    fn saved(&mut self, saved: &Saved) {
        self.bar.set_position(saved.step);
    }

    fn warned(&mut self, warning: &str) {
        self.bar.suspend(|| progress::warn(warning));
    }
}
