//! What people see on standard error while they wait; nothing of it where that is no terminal.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use dropcap_model::hub::HubEvent;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::terminal;

/// A spinner with the time that has passed.
pub fn spinner(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Says something that a person should know and that is no error.
pub fn warn(message: &str) {
    note(&format!("warning: {message}"));
}

/// Says how something goes.
pub fn note(message: &str) {
    terminal::say(message);
}

/// One bar for each file that is being downloaded.
#[derive(Default)]
pub struct Downloads {
    bars: MultiProgress,
    files: Mutex<HashMap<String, ProgressBar>>,
}

impl Downloads {
    /// Shows one event.
    pub fn tell(&self, event: &HubEvent<'_>) {
        match event {
            HubEvent::Received { file, bytes, of } => {
                let bar = self.bar(file);
                bar.set_length(*of);
                bar.set_position(*bytes);
            }
            HubEvent::Waiting { file } => self.bar(file).set_message("waiting for another process"),
            HubEvent::Retrying { file: Some(file), reason, .. } => {
                self.bar(file).set_message(terminal::escaped(&format!("again: {reason}")).into_owned());
            }
            HubEvent::Finished { file } => self.bar(file).finish(),
            _ => {}
        }
    }

    /// Takes all bars away.
    pub fn clear(&self) {
        // A bar that cannot be erased is not worth a failed download.
        let _ = self.bars.clear();
    }

    fn bar(&self, file: &str) -> ProgressBar {
        let mut files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = || {
            let bar = self.bars.add(ProgressBar::new(0)).with_prefix(terminal::escaped(file).into_owned());
            let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        };
        files.entry(file.to_owned()).or_insert_with(new).clone()
    }
}
