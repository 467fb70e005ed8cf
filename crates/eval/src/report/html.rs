//! One page that needs nothing else: plots of quality against what is kept, and the table.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

use super::lanes::lanes;
use super::notes::notes;
use super::plot::{Point, legend, plot};
use super::table::{COLUMNS, cells};
use crate::Line;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));gap:1rem}\
svg text{font:12px system-ui,sans-serif;fill:currentColor}\
svg .grid{stroke:currentColor;opacity:.15}\
svg polyline,svg path{stroke-width:1.5}svg .dense{stroke:currentColor;stroke-dasharray:5 4;opacity:.6}\
.lanes{max-width:100%}.lanes rect{fill:#d55e00;stroke:currentColor;stroke-opacity:.2}figure{margin:1rem 0}\
.legend span{margin-right:1rem}.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}\
table{border-collapse:collapse;font-size:13px}td,th{padding:.2rem .5rem;border-bottom:1px solid #8884;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}\
.scroll{overflow-x:auto}pre{white-space:pre-wrap;font-size:12px}";

/// The page. Names of tasks and methods are untrusted text and stay text.
#[must_use]
pub fn html(lines: &[Line], configuration: &Value) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>What pruning costs</title>\n<style>{STYLE}</style>\n<h1>What pruning costs</h1>\n"
    );
    page.push_str("<p>Dashed: the dense run. Bars: the standard error of the difference to it on the same examples.</p>\n");
    let mut tasks: Vec<&str> = lines.iter().map(|line| &*line.task).collect();
    tasks.dedup();
    for task in tasks {
        let own: Vec<&Line> = lines.iter().filter(|line| line.task == task).collect();
        let Some(name) = own.first().and_then(|line| line.measures.first()).map(|measure| &measure.name)
        else {
            continue;
        };
        let points = |x: fn(&Line) -> f64| -> Vec<Point<'_>> {
            let mut points = Vec::new();
            for &line in &own {
                let Some(measure) = line.measures.first() else { continue };
                // The examples are the same, so that what they have in common is no reason to doubt.
                let error = measure.to_dense.map_or(0.0, |(_, error)| error);
                points.push(Point { method: &line.method, x: x(line), y: measure.value, error });
            }
            points
        };
        let kept = points(|line| line.keep);
        let bytes = points(|line| line.held_bytes / f64::from(1 << 20));
        let _ = writeln!(page, "<h2>{}</h2>\n{}<div class=\"plots\">", escaped(task), legend(&kept));
        page.push_str(&plot(&kept, "share of entries kept", name));
        page.push_str(&plot(&bytes, "MiB of KV cache held", name));
        page.push_str("</div>\n");
        own.iter().filter_map(|line| lanes(line)).for_each(|picture| page.push_str(&picture));
    }
    page.push_str("<h2>All numbers</h2>\n<div class=\"scroll\"><table>\n<thead><tr>");
    for name in COLUMNS {
        let _ = write!(page, "<th scope=\"col\">{name}</th>");
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for line in lines {
        for measure in &line.measures {
            page.push_str("<tr>");
            for (index, cell) in cells(line, measure).iter().enumerate() {
                let class = if matches!(index, 2..=6) { " class=\"n\"" } else { "" };
                let _ = write!(page, "<td{class}>{}</td>", escaped(cell));
            }
            page.push_str("</tr>\n");
        }
    }
    page.push_str("</tbody></table></div>\n");
    for note in notes(lines) {
        let _ = writeln!(page, "<p>{}</p>", escaped(&note));
    }
    let _ = writeln!(
        page,
        "<p>± is a standard error; [low, high] holds the true share in 95 % of all samples. A difference is the mean over the same examples.</p>\n<h2>Measured with</h2>\n<pre>{}</pre>\n</html>",
        escaped(&format!("{configuration:#}"))
    );
    page
}

/// Text that stays text in HTML, in attributes too.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeftOut, Measure};
    use serde_json::json;

    #[test]
    fn a_hostile_name_stays_text_everywhere() {
        let hostile = "</pre></script><img src=x onerror='alert(\"1\")'>";
        let line = Line {
            task: hostile.into(),
            method: format!("{hostile}@2"),
            examples: 1,
            left_out: LeftOut::default(),
            keep: 0.5,
            held_bytes: 1.0,
            dense_bytes: 2.0,
            measures: vec![Measure { name: hostile.into(), value: 1.0, ..Measure::default() }],
            keep_by_lane: Vec::new(),
        };
        let page = html(&[line], &json!({"model": hostile}));
        assert!(!page.contains("<img") && !page.contains("</script"), "{page}");
        assert_eq!(page.matches("</pre>").count(), 1);
        assert_eq!(page.matches("<svg").count(), 2);
    }
}
