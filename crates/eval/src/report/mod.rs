//! The same numbers for people and for programs: one table as Markdown, CSV and JSON, and a page with plots.

mod html;
mod lanes;
mod notes;
mod plot;
mod table;

use std::path::Path;

use dropcap_files::{Existing, publish};
use serde_json::{Value, json};

use crate::{EvalError, Line};

pub use html::html;
pub use table::{csv, markdown};

/// The numbers and what they were measured with, as one JSON object.
#[must_use]
pub fn json(lines: &[Line], configuration: &Value) -> Value {
    json!({ "configuration": configuration, "results": lines })
}

/// Writes `table.md`, `table.csv`, `summary.json` and `report.html` into a directory of results; older ones are replaced.
///
/// # Errors
/// A file that cannot be written.
pub fn write(directory: &Path, lines: &[Line], configuration: &Value) -> Result<(), EvalError> {
    let files = [
        ("table.md", markdown(lines)),
        ("table.csv", csv(lines)),
        ("summary.json", format!("{:#}\n", json(lines, configuration))),
        ("report.html", html(lines, configuration)),
    ];
    for (name, text) in files {
        publish(&directory.join(name), Existing::Replace, |file| file.write_all(text.as_bytes()))?;
    }
    Ok(())
}
