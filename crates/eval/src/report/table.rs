//! One row for each number.

use super::notes::notes;
use crate::{Line, Measure};

/// The columns.
pub(super) const COLUMNS: [&str; 10] = [
    "task",
    "method",
    "examples",
    "left out",
    "keep",
    "KV MiB",
    "dense MiB",
    "measure",
    "value",
    "difference to dense",
];

/// The table as Markdown; what is the same as in the row above is left blank.
#[must_use]
pub fn markdown(lines: &[Line]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(&COLUMNS.map(str::to_owned));
    text.push_str(&row(&COLUMNS.map(|_| "---".to_owned())));
    for line in lines {
        for (index, measure) in line.measures.iter().enumerate() {
            let mut cells = cells(line, measure).map(|cell| cell.replace('|', "\\|"));
            if index > 0 {
                cells[..7].iter_mut().for_each(String::clear);
            }
            text.push_str(&row(&cells));
        }
    }
    for note in notes(lines) {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

/// What people read of one number.
pub(super) fn cells(line: &Line, measure: &Measure) -> [String; 10] {
    let mib = |bytes: f64| format!("{:.2}", bytes / f64::from(1 << 20));
    let with_error = |value: f64, error: Option<f64>| match error {
        Some(error) => format!("{} ± {}", number(value), number(error)),
        None => number(value),
    };
    let mut value = with_error(measure.value, measure.error);
    if let Some((low, high)) = measure.interval {
        value.push_str(&format!(" [{}, {}]", number(low), number(high)));
    }
    [
        line.task.replace(['\n', '\r'], " "),
        line.method.replace(['\n', '\r'], " "),
        line.examples.to_string(),
        line.left_out.count().to_string(),
        format!("{:.3}", line.keep),
        mib(line.held_bytes),
        mib(line.dense_bytes),
        measure.name.clone(),
        value,
        measure.to_dense.map_or_else(String::new, |(mean, error)| with_error(mean, Some(error))),
    ]
}

/// Four digits behind the point, or where that shows nothing four digits that count.
fn number(value: f64) -> String {
    if value == 0.0 || value.abs() >= 0.001 { format!("{value:.4}") } else { format!("{value:.3e}") }
}

/// The table as CSV, every number with all its digits.
#[must_use]
pub fn csv(lines: &[Line]) -> String {
    let mut text = String::from(
        "task,method,examples,left_out,keep,held_bytes,dense_bytes,measure,value,error,low,high,difference,difference_error\n",
    );
    for line in lines {
        for measure in &line.measures {
            let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
            let cells = [
                quoted(&line.task),
                quoted(&line.method),
                line.examples.to_string(),
                line.left_out.count().to_string(),
                line.keep.to_string(),
                line.held_bytes.to_string(),
                line.dense_bytes.to_string(),
                quoted(&measure.name),
                measure.value.to_string(),
                optional(measure.error),
                optional(measure.interval.map(|interval| interval.0)),
                optional(measure.interval.map(|interval| interval.1)),
                optional(measure.to_dense.map(|to_dense| to_dense.0)),
                optional(measure.to_dense.map(|to_dense| to_dense.1)),
            ];
            text.push_str(&cells.join(","));
            text.push('\n');
        }
    }
    text
}

/// A field as RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeftOut;

    fn line() -> Line {
        let accuracy = Measure {
            name: "acc".into(),
            value: 0.5,
            error: Some(0.25),
            interval: Some((0.25, 0.75)),
            to_dense: Some((-0.125, 0.0625)),
        };
        let small = Measure { name: "KL median".into(), value: 1.25e-5, ..Measure::default() };
        Line {
            task: "a|b".into(),
            method: "streaming_llm(sinks=4, recent=8)".into(),
            examples: 3,
            left_out: LeftOut { no_token: vec![30], ..LeftOut::default() },
            keep: 0.25,
            held_bytes: 1_048_576.0,
            dense_bytes: 4_194_304.0,
            measures: vec![accuracy, small],
            keep_by_lane: Vec::new(),
        }
    }

    #[test]
    fn markdown_keeps_its_columns_and_says_each_thing_once() {
        let text = markdown(&[line()]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows[2],
            "| a\\|b | streaming_llm(sinks=4, recent=8) | 3 | 1 | 0.250 | 1.00 | 4.00 | acc | 0.5000 ± 0.2500 [0.2500, 0.7500] | -0.1250 ± 0.0625 |"
        );
        assert_eq!(rows[3], "|  |  |  |  |  |  |  | KL median | 1.250e-5 |  |");
        let note = "Left out of a|b: 1 with a continuation that has no token of its own (number 30).";
        assert_eq!(&rows[4..], ["", note]);
    }

    #[test]
    fn csv_quotes_what_holds_a_comma_and_gives_all_digits() {
        let text = csv(&[line()]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows[1],
            "a|b,\"streaming_llm(sinks=4, recent=8)\",3,1,0.25,1048576,4194304,acc,0.5,0.25,0.25,0.75,-0.125,0.0625"
        );
        assert_eq!(rows[2].split(',').count(), rows[0].split(',').count() + 1);
        assert!(rows[2].ends_with("KL median,0.0000125,,,,,"));
    }
}
