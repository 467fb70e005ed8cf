//! What a reader of the table should know besides.

use crate::Line;

/// Examples that a note names; all of them are in the JSON.
const NAMED: usize = 5;

/// What was left out of a task and why, which is the same under every method and said once; and texts in which a method had
/// nothing to do.
pub(super) fn notes(lines: &[Line]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for note in lines.iter().flat_map(|line| [left_out(line), idle(line)]).flatten() {
        let note = note.replace(['\n', '\r'], " ");
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

fn left_out(line: &Line) -> Option<String> {
    let reasons = [
        (&line.left_out.too_long, "longer than the model"),
        (&line.left_out.no_token, "with a continuation that has no token of its own"),
    ];
    let of = |(examples, reason): &(&Vec<usize>, &str)| {
        let first: Vec<String> = examples.iter().take(NAMED).map(usize::to_string).collect();
        let more = if examples.len() > NAMED { ", .." } else { "" };
        format!("{} {reason} (number {}{more})", examples.len(), first.join(", "))
    };
    let reasons: Vec<String> = reasons.iter().filter(|(examples, _)| !examples.is_empty()).map(of).collect();
    (!reasons.is_empty()).then(|| format!("Left out of {}: {}.", line.task, reasons.join("; ")))
}

/// Of texts alone: elsewhere the prompt ends before what is scored.
fn idle(line: &Line) -> Option<String> {
    let is_idle = line.method != "none" && !line.keep_by_lane.is_empty() && line.keep == 1.0;
    is_idle.then(|| {
        format!(
            "{} dropped nothing of {}; a method that prunes where a prompt ends does so after --context N tokens of a window.",
            line.method, line.task
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeftOut;

    fn line(method: &str, too_long: usize, keep: f64) -> Line {
        Line {
            task: "t".into(),
            method: method.into(),
            examples: 1,
            left_out: LeftOut { too_long: (0..too_long).collect(), no_token: Vec::new() },
            keep,
            held_bytes: 1.0,
            dense_bytes: 2.0,
            measures: Vec::new(),
            keep_by_lane: vec![vec![keep]],
        }
    }

    #[test]
    fn what_is_left_out_is_said_once_and_an_idle_method_is_named() {
        assert_eq!(
            notes(&[line("none", 7, 1.0), line("snap", 7, 1.0), line("dcp", 7, 0.5)]),
            [
                "Left out of t: 7 longer than the model (number 0, 1, 2, 3, 4, ..).",
                "snap dropped nothing of t; a method that prunes where a prompt ends does so after --context N tokens of a window.",
            ]
        );
        assert!(notes(&[line("none", 0, 1.0), line("dcp", 0, 0.5)]).is_empty());
    }
}
