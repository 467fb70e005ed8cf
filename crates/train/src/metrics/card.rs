//! The model card that lies beside a result.

use std::fmt::Write as _;
use std::path::Path;

use crate::TrainError;
use crate::disk::{Disk, publish};

/// What a result is, where it comes from, and what was measured on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// What it is called.
    pub title: String,
    /// The model that it was made from; `None` where it was trained from scratch.
    pub base: Option<String>,
    /// One sentence on what was done.
    pub summary: String,
    /// The texts that it was trained on.
    pub data: Vec<String>,
    /// What of them was learned where that is not all, a sentence each.
    pub account: Vec<String>,
    /// Tokens that it saw.
    pub tokens: u64,
    /// What was measured, in this order.
    pub measured: Vec<Row>,
    /// The share of entries kept, per layer.
    pub keep: Vec<f64>,
    /// The command that runs it, with DIR for its directory.
    pub usage: String,
    /// The command that made it.
    pub command: String,
    /// The resolved configuration, as YAML.
    pub config: String,
    /// The version of this program.
    pub version: String,
}

/// One line of the table of measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was measured, and on what.
    pub what: String,
    /// The number, as it should be read.
    pub value: String,
}

impl ModelCard {
    /// The card as Markdown, with the header that the hub reads.
    pub fn markdown(&self) -> String {
        let mut text = String::from("---\nlibrary_name: dropcap\ntags:\n- context-pruning\n");
        if let Some(base) = &self.base {
            // The hub knows its own ids only.
            if base.split('/').count() == 2 && !Path::new(base).exists() && !base.starts_with(['.', '/']) {
                let _ = writeln!(text, "base_model: {base}");
            }
        }
        let _ = writeln!(text, "---\n\n# {}\n\n{}\n", line(&self.title), line(&self.summary));
        let from = self.base.as_ref().map_or("random weights".to_owned(), |base| format!("`{}`", line(base)));
        let _ = writeln!(text, "- Made from: {from}");
        let _ = writeln!(text, "- Trained on {} tokens of:", self.tokens);
        self.data.iter().for_each(|file| {
            let _ = writeln!(text, "  - `{}`", line(file));
        });
        self.account.iter().for_each(|sentence| {
            let _ = writeln!(text, "- {}", line(sentence));
        });
        let _ = writeln!(text, "- Made by: dropcap {}\n", line(&self.version));
        if !self.measured.is_empty() {
            text.push_str("## Measured\n\n| what | value |\n|---|---|\n");
            self.measured.iter().for_each(|row| {
                let _ = writeln!(text, "| {} | {} |", cell(&row.what), cell(&row.value));
            });
            text.push('\n');
        }
        if !self.keep.is_empty() {
            text.push_str("Share of the KV entries kept, per layer:\n\n| layer | kept |\n|---|---|\n");
            self.keep.iter().enumerate().for_each(|(layer, keep)| {
                let _ = writeln!(text, "| {layer} | {keep:.3} |");
            });
            text.push('\n');
        }
        let _ = writeln!(text, "## Use\n\n    {}\n", line(&self.usage));
        let _ = writeln!(text, "## Made with\n\n    {}\n", line(&self.command));
        let _ = writeln!(text, "```yaml\n{}\n```", self.config.replace("```", "'''").trim_end());
        text
    }

    /// Writes the card as a file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        publish(disk, path, |file| file.write_all(self.markdown().as_bytes()))
    }
}

/// Text that stays on its line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text that stays in its cell.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_what_where_from_and_how_good() {
        let card = ModelCard {
            title: "tiny\npruned".into(),
            base: Some("openai-community/gpt2".into()),
            summary: "Keeps a fifth of its context.".into(),
            data: vec!["books.txt".into()],
            account: vec!["2 examples;\nthe loss counts answers".into()],
            tokens: 12_345,
            measured: vec![Row { what: "perplexity | books".into(), value: "35.65".into() }],
            keep: vec![0.5, 0.0625],
            usage: "dropcap generate --model DIR --method dcp".into(),
            command: "dropcap train --config run.yaml".into(),
            config: "steps: 3\n".into(),
            version: "0.1.0".into(),
        };
        let text = card.markdown();
        for words in [
            "base_model: openai-community/gpt2\n",
            "\n# tiny pruned\n",
            "12345 tokens",
            "- 2 examples; the loss counts answers\n",
            "| perplexity \\| books | 35.65 |",
            "| 1 | 0.062 |",
            "## Use\n\n    dropcap generate --model DIR --method dcp\n",
            "    dropcap train --config run.yaml\n",
            "```yaml\nsteps: 3\n```",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let scratch = ModelCard { base: None, ..card.clone() }.markdown();
        assert!(scratch.contains("Made from: random weights") && !scratch.contains("base_model"));
        let folder = ModelCard { base: Some("./models/gpt2".into()), ..card }.markdown();
        assert!(!folder.contains("base_model"), "a folder is no id of the hub");
    }
}
