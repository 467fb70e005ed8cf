//! One HTML file of a report, its style and its script.

use std::io::{BufRead, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dropcap_trace::Timeline;
use sha2::{Digest, Sha256};

use crate::InspectError;
use crate::report::Report;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order in which they need each other.
const SCRIPT: [&str; 6] = [
    include_str!("page/data.js"),
    include_str!("page/overview.js"),
    include_str!("page/strip.js"),
    include_str!("page/details.js"),
    include_str!("page/tables.js"),
    include_str!("page/main.js"),
];

/// What a page holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Sequences on it; those without tokens are left out.
    pub sequences: usize,
    /// Tokens of all of them.
    pub tokens: usize,
    /// What is wrong with the trace's end, which the page says too: it may have been cut off.
    pub torn: Option<String>,
}

/// Reads a trace and writes its page.
///
/// A trace whose last line is cut off gives a page of what stands before it. The page is written only when all of the trace
/// has been read.
///
/// # Errors
/// What the reader of traces refuses; a trace without tokens, or of more than [`crate::MAX_ENTRIES`] entries; the
/// writer's.
pub fn inspect(trace: impl BufRead, out: &mut dyn Write) -> Result<Summary, InspectError> {
    let (timeline, torn) = Timeline::read_whole_lines(trace)?;
    let report = Report::new(&timeline, torn.as_ref())?;
    let script = SCRIPT.concat();
    let data = serde_json::to_string(&report).map_err(std::io::Error::from)?;
    // In a script element only `<` can begin something that is not data.
    let data = data.replace('<', "\\u003c");
    let parts = [
        ("STYLE-DIGEST", digest(STYLE)),
        ("SCRIPT-DIGEST", digest(&script)),
        ("STYLE", STYLE.to_owned()),
        ("DATA", data),
        ("SCRIPT", script),
    ];
    let mut rest = PAGE;
    for (name, part) in parts {
        // The page's own placeholders, in this order; a text that spells one out is behind what is left to fill.
        if let Some((before, after)) = rest.split_once(&format!("{{{{{name}}}}}")) {
            out.write_all(before.as_bytes())?;
            out.write_all(part.as_bytes())?;
            rest = after;
        }
    }
    out.write_all(rest.as_bytes())?;
    out.flush()?;
    let tokens = timeline.sequences.values().map(|sequence| sequence.ids.len()).sum();
    Ok(Summary { sequences: report.sequences(), tokens, torn: torn.map(|error| error.to_string()) })
}

fn digest(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::TRACE;

    fn page(trace: &str) -> String {
        let mut page = Vec::new();
        inspect(trace.as_bytes(), &mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn a_page_holds_all_its_parts_and_no_markup_of_the_trace() {
        let page = page(TRACE);
        assert!(!page.contains("{{"), "every placeholder is filled");
        assert!(!page.contains("<img") && !page.contains("m <b>"));
        assert!(page.contains("\\u003c/script>\\u003cimg onerror=alert(1)>"));
        assert_eq!(page.matches("</script>").count(), 2);
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing is fetched");
    }

    #[test]
    fn a_text_that_spells_out_a_placeholder_stays_text() {
        let page = page(&TRACE.replace(" cat", "{{SCRIPT}} {{STYLE}}"));
        assert!(page.contains("{{SCRIPT}} {{STYLE}}"));
        assert_eq!(page.matches("</style>").count(), 1);
    }

    #[test]
    fn a_torn_trace_has_a_page_that_says_so() {
        let torn = &TRACE[..TRACE.len() - 9];
        let mut page = Vec::new();
        let summary = inspect(torn.as_bytes(), &mut page).unwrap();
        assert!(summary.torn.unwrap().contains("line 6"));
        assert_eq!((summary.sequences, summary.tokens), (1, 4));
        assert!(String::from_utf8(page).unwrap().contains("line 6 of the trace is cut off"));
    }

    #[test]
    fn what_is_no_trace_has_no_page() {
        for (trace, words) in [
            ("", "cut off"),
            ("{\"header\":{\"version\":9}}\n", "version 9"),
            ("[1]\n", "malformed"),
            (TRACE.split_inclusive('\n').next().unwrap(), "no token"),
        ] {
            let mut page = Vec::new();
            let error = inspect(trace.as_bytes(), &mut page).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(page.is_empty());
        }
    }
}
