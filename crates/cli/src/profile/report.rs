//! What a profile came to, for people and machines.

use std::fmt::Write;
use std::path::PathBuf;

use dropcap_eval::{Mask, Masked, ranking};
use dropcap_methods::ProfileKind;
use serde_json::{Map, Value, json};

/// Heads that are shown.
const SHOWN: usize = 10;
/// From here on a head counts as a retrieval head, as in the paper.
const RETRIEVES: f64 = 0.1;

/// Everything that is printed.
#[derive(Default)]
pub struct Report {
    /// As the user named it.
    pub model: String,
    /// What was measured, if anything was.
    pub kind: Option<ProfileKind>,
    /// Prompts that were answered, of how many.
    pub answered: Option<(usize, usize)>,
    /// `[L][heads]`
    pub scores: Vec<Vec<f64>>,
    /// Where the profile is.
    pub output: Option<PathBuf>,
    /// What could be answered without some heads.
    pub masked: Vec<Masked>,
}

impl Report {
    /// Tables in Markdown.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        if let Some(kind) = self.kind {
            let heads = self.scores.iter().map(Vec::len).sum::<usize>();
            if let Some((answered, asked)) = self.answered {
                let over = self.scores.iter().flatten().filter(|&&score| score > RETRIEVES).count();
                writeln!(
                    out,
                    "{answered} of {asked} prompts answered; {over} of {heads} query heads copied more than a tenth of the needle\n"
                )?;
            } else {
                writeln!(out, "{heads} KV heads, those that look farthest back first\n")?;
            }
            writeln!(out, "| layer-head | {} |\n|---|--:|", kind.name())?;
            for (layer, head) in ranking(&self.scores).into_iter().take(SHOWN) {
                writeln!(out, "| {layer}-{head} | {:.3} |", self.scores[layer][head])?;
            }
        }
        if !self.masked.is_empty() {
            if self.kind.is_some() {
                writeln!(out)?;
            }
            writeln!(out, "| answered | right | of | share | masked heads |\n|---|--:|--:|--:|---|")?;
            for line in &self.masked {
                let share = line.right as f64 / line.asked.max(1) as f64;
                let (mask, heads) = (&line.mask, named(&line.heads).join(" "));
                writeln!(out, "| {mask} | {} | {} | {share:.2} | {heads} |", line.right, line.asked)?;
            }
        }
        Ok(())
    }

    /// One object.
    pub fn json(&self) -> Value {
        let heads = self.scores.iter().enumerate().flat_map(|(layer, heads)| {
            heads.iter().enumerate().map(move |(head, score)| (format!("{layer}-{head}"), json!(score)))
        });
        let masked = |line: &Masked| {
            let (mask, draw) = match line.mask {
                Mask::None => ("none", None),
                Mask::Top => ("top", None),
                Mask::Others(draw) => ("others", Some(draw)),
            };
            json!({
                "mask": mask,
                "draw": draw,
                "heads": named(&line.heads),
                "right": line.right,
                "asked": line.asked,
            })
        };
        json!({
            "model": self.model,
            "kind": self.kind.map(ProfileKind::name),
            "answered": self.answered.map(|answered| answered.0),
            "asked": self.answered.map(|answered| answered.1),
            "output": self.output,
            "heads": heads.collect::<Map<String, Value>>(),
            "masked": self.masked.iter().map(masked).collect::<Vec<Value>>(),
        })
    }
}

fn named(heads: &[(usize, usize)]) -> Vec<String> {
    heads.iter().map(|(layer, head)| format!("{layer}-{head}")).collect()
}
