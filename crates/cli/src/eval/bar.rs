//! How an evaluation goes, for people.

use dropcap_eval::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::terminal;

/// One bar after the other: examples, and the time that is left.
#[derive(Default)]
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn begin(&mut self, task: &str, method: &str, examples: usize, known: usize) {
        self.finish();
        let name = if method.is_empty() { task.to_owned() } else { format!("{task}, {method}") };
        let bar = ProgressBar::new(examples as u64).with_prefix(terminal::escaped(&name).into_owned());
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len}, {elapsed}, {eta} left")
        {
            bar.set_style(style);
        }
        bar.inc(known as u64);
        // What was known before took no time.
        bar.reset_eta();
        self.bar = Some(bar);
    }

    fn advance(&mut self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }
}
