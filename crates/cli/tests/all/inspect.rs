//! `dropcap inspect` as a user runs it, and its page in a real browser.

use std::path::{Path, PathBuf};

use crate::support::browser::Browser;
use crate::support::{both, dropcap, failure, output, text};
use base64::Engine;
use dropcap_trace::{SequenceTimeline, Timeline};
use serde_json::Value;

const PROMPT: &str = "Once upon a time there was a small house at the edge of the wood, and in it lived Mr. Brown with his \
                      daughter";
/// What a text would be that wants to be markup.
const HOSTILE: &str = "</script><img src=x onerror=\"document.title='fallen'\">";
/// The token of the trace that says so.
const AT: usize = 3;

/// A trace of the model that the command carries, with one hostile token.
fn trace(folder: &Path) -> PathBuf {
    let path = folder.join("trace.jsonl");
    let flags = ["-n", "380", "--temperature", "0.6", "--top-k", "12", "--seed", "3", "--trace", text(&path)];
    let printed = output(&[&["generate", PROMPT][..], &flags].concat());
    let lines = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: String = lines
        .iter()
        .filter_map(|line| line["tokens"]["texts"].as_array())
        .flatten()
        .map(|text| text.as_str().unwrap())
        .collect();
    // All but the last token, which the model never reads.
    let spoken = texts.strip_prefix(PROMPT).unwrap();
    assert!(spoken.len() > 100 && printed.starts_with(spoken.trim_end()), "{texts}");
    let tokens = lines.iter_mut().find(|line| !line["tokens"].is_null()).unwrap();
    tokens["tokens"]["texts"][AT] = HOSTILE.into();
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    path
}

/// The lanes of a trace, as the page numbers them.
fn lanes(timeline: &Timeline) -> Vec<(usize, usize)> {
    let groups = timeline.header.groups();
    (0..timeline.header.layers).flat_map(|layer| (0..groups).map(move |head| (layer, head))).collect()
}

/// The entries that a token killed.
fn victims(timeline: &Timeline, sequence: &SequenceTimeline, killer: usize) -> usize {
    let lanes = lanes(timeline);
    let fates = lanes.iter().flat_map(|&(layer, head)| sequence.fates(layer, head));
    fates.filter(|(_, fate)| fate.killer as usize == killer).count()
}

#[test]
fn the_page_shows_what_the_trace_says_and_a_hostile_token_stays_text() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, page) = (trace(folder.path()), folder.path().join("report.html"));
    let said = output(&["inspect", text(&trace), "--out", text(&page)]);
    let timeline = Timeline::read(&*std::fs::read(&trace).unwrap()).unwrap();
    let sequence = &timeline.sequences[&0];
    let (lanes, tokens) = (lanes(&timeline), sequence.ids.len());
    assert!(said.contains(&format!("{tokens} tokens of 1 sequence")), "{said}");
    let Some(mut browser) = Browser::open(&page) else { return };

    let live: u64 = sequence.end.as_ref().unwrap().live.iter().sum();
    let run = browser.text("#run");
    let sums = format!("at the end {live} of {} entries are live", lanes.len() * tokens);
    assert!(run.contains(&sums) && run.contains("default, dcp"), "{run}");
    assert_eq!(browser.evaluate("document.querySelectorAll('#strip > span').length"), tokens);
    for (layer, live) in sequence.end.as_ref().unwrap().live.iter().enumerate() {
        let row = format!("#layers tbody tr:nth-child({}) td:nth-child(2)", layer + 1);
        assert_eq!(browser.text(&row), live.to_string());
    }

    // A token that somebody killed in some lane and that killed others.
    let chosen = (AT + 1..tokens)
        .find(|&token| {
            let dies = lanes.iter().any(|&(layer, head)| sequence.fate(layer, head, token as u32).is_some());
            dies && victims(&timeline, sequence, token) > 0
        })
        .unwrap();
    browser.click(&format!("#t{chosen}"));
    assert!(browser.text("#details-title").starts_with(&format!("Token {chosen}: ")));
    for (row, &(layer, head)) in lanes.iter().enumerate() {
        let cell = |column: usize| format!("#fates tbody tr:nth-child({}) td:nth-child({column})", row + 1);
        match sequence.fate(layer, head, chosen as u32) {
            None => assert_eq!(browser.text(&cell(2)), "lives"),
            Some(fate) => {
                assert_eq!(browser.text(&cell(2)), fate.expires_at.to_string());
                assert!(browser.text(&cell(3)).starts_with(&format!("{} ", fate.killer)));
            }
        }
    }
    let killed = format!("What it killed ({})", victims(&timeline, sequence, chosen));
    assert_eq!(browser.text("#victims caption"), killed);

    // One lane alone.
    browser.evaluate("by('layer').value = '2'; by('head').value = '0'; look()");
    let lived = sequence
        .fate(2, 0, chosen as u32)
        .map_or(1.0, |fate| f64::from(fate.expires_at - chosen as u32) / (tokens - chosen) as f64);
    let life = browser.text("#life");
    assert!(life.ends_with(&format!("lived {:.1} % of its time in what is shown", 100.0 * lived)), "{life}");
    let level = (lived * 10.0).floor().min(9.0);
    let classes = browser.evaluate(&format!("document.getElementById('t{chosen}').className"));
    assert!(classes.as_str().unwrap().starts_with(&format!("l{level}")), "{classes}");
    browser.evaluate("by('layer').value = ''; by('head').value = ''; look()");

    // The overview has a column for each token of a text so short, and a row for each layer.
    assert!(tokens <= 1200);
    let of_layer: Vec<f64> = (0..timeline.header.groups())
        .map(|head| {
            let end = sequence.fate(2, head, chosen as u32).map_or(tokens as u32, |fate| fate.expires_at);
            f64::from(end - chosen as u32) / (tokens - chosen) as f64
        })
        .collect();
    let expected = 255.0 * of_layer.iter().sum::<f64>() / of_layer.len() as f64;
    let pixel = format!("by('overview').getContext('2d').getImageData({chosen}, 2, 1, 1).data[3]");
    let drawn = browser.evaluate(&pixel).as_f64().unwrap();
    assert!((drawn - expected).abs() <= 1.0, "{drawn} is not {expected}");
    browser.click("#overview");
    let title = browser.text("#details-title");
    let went: usize = title["Token ".len()..title.find(':').unwrap()].parse().unwrap();
    assert!(went.abs_diff(tokens / 2) <= 2, "{title} of {tokens}");
    browser.click(&format!("#t{chosen}"));
    // Layers can be chosen in their table too, with the keyboard as well.
    for shown in ["2", ""] {
        browser.evaluate("document.querySelector('#layers tbody tr:nth-child(3) button').focus()");
        browser.press("Enter");
        assert_eq!(browser.evaluate("by('layer').value"), shown);
        if shown == "2" {
            assert_eq!(browser.evaluate("document.querySelectorAll('#time polyline.shown').length"), 1);
        }
    }

    browser.evaluate("by('strip').focus()");
    browser.press("ArrowRight");
    assert!(browser.text("#details-title").starts_with(&format!("Token {}: ", chosen + 1)));
    browser.press("Home");
    assert!(browser.text("#details-title").starts_with("Token 0: "));

    browser.click("#search");
    browser.enter("ONERROR");
    assert_eq!(browser.text("#found"), "1 of 1");
    assert_eq!(browser.text("#details-title"), format!("Token {AT}: {HOSTILE}"));
    assert_eq!(browser.text(&format!("#t{AT}")), HOSTILE);
    assert_eq!(browser.evaluate("document.images.length"), 0);
    assert_ne!(browser.evaluate("document.title"), "fallen");
    assert_eq!(browser.complaints(), Vec::<Value>::new());

    if let Some(path) = std::env::var_os("DROPCAP_SCREENSHOT") {
        browser.evaluate("by('search').value = ''; search(false); scrollTo(0, 0)");
        browser.click(&format!("#t{chosen}"));
        browser.evaluate("scrollTo(0, 0)");
        let picture = base64::engine::general_purpose::STANDARD.decode(browser.picture()).unwrap();
        std::fs::write(path, picture).unwrap();
    }
}

#[test]
fn watching_without_a_terminal_is_plain_text() {
    let plain = ["generate", "Once upon a time", "-n", "12"];
    assert_eq!(output(&plain), output(&[&plain[..], &["--watch"]].concat()));
    assert!(failure(&["generate", "Once", "--watch", "--json"]).contains("--json"));
}

#[test]
fn what_is_no_trace_is_named_and_a_torn_one_has_its_page() {
    let folder = tempfile::tempdir().unwrap();
    let (path, page) = (folder.path().join("t.jsonl"), folder.path().join("p.html"));
    let inspect = ["inspect", text(&path), "--out", text(&page)];
    assert!(failure(&inspect).contains("cannot open"));
    let header = r#"{"header":{"version":2,"model":"m","method":"dcp","layers":2,"kv_heads":4,"granularity":"layer","vocabulary":50}}"#;
    let begun = r#"{"sequence":{"id":1,"prompt_tokens":2}}"#;
    let deeper = r#"{"deaths":{"id":1,"layer":2,"positions":[0],"expires_at":[1],"killers":[1]}}"#;
    for (trace, words) in [
        (format!("{header}\n{begun}\n{header}\n{begun}\n"), "line 3 begins the trace of another run"),
        (
            format!("{header}\n{}\n", deeper.replace(r#""layer":2"#, r#""layer":1"#)),
            "id: expected a sequence that has begun",
        ),
        (format!("{header}\n{begun}\n{deeper}\n"), "layer: expected a layer below 2, got 2"),
        (header.replace(":2,", ":3,") + "\n", "version 3, this program reads up to 2"),
        (header.to_owned() + "\n", "no token"),
        ("a model\n".to_owned(), "malformed"),
    ] {
        std::fs::write(&path, trace).unwrap();
        let said = failure(&inspect);
        assert!(said.contains(words) && said.contains("t.jsonl"), "{said}");
        assert!(!page.exists());
    }
    let torn = format!(
        "{header}\n{}\n{}\n{{\"deaths\":",
        r#"{"sequence":{"id":1,"prompt_tokens":2}}"#, r#"{"tokens":{"id":1,"first_position":0,"ids":[1,2]}}"#
    );
    std::fs::write(&path, torn).unwrap();
    assert!(both(&inspect).1.contains("line 4 of the trace is cut off"));
    assert!(page.exists());
    // A folder stands where the page should go.
    let taken = dropcap(&["inspect", text(&path), "--out", text(folder.path())]).output().unwrap();
    assert!(!taken.status.success());
}
