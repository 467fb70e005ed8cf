//! A trace is input: whatever it holds, the reader answers with an error that names the line.

#![cfg(test)]

use std::io::{BufReader, Read};

use dropcap_trace::{Event, MAX_LINE_BYTES, Timeline, TraceError, TraceReader};

const HEADER: &str = r#"{"header":{"version":1,"model":"m","method":"dcp","layers":2,"kv_heads":4,"granularity":"kv_head","vocabulary":50}}"#;
const BEGIN: &str = r#"{"sequence":{"id":1,"prompt_tokens":3}}"#;
const TOKENS: &str = r#"{"tokens":{"id":1,"first_position":0,"ids":[1,2,49],"texts":["a","b","c"]}}"#;

fn read(lines: &[&str]) -> Result<Vec<Event>, TraceError> {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    TraceReader::new(text.as_bytes())?.collect()
}

/// Reads a good trace with `line` after it and gives the field that line 4 was refused for.
fn refused(line: &str) -> String {
    match read(&[HEADER, BEGIN, TOKENS, line]) {
        Err(TraceError::Invalid { line: 4, field, expected, got }) => {
            assert!(!expected.is_empty() && !got.is_empty());
            field.to_owned()
        }
        other => panic!("{line}: {other:?}"),
    }
}

fn deaths(layer: &str, head: &str, positions: &str, expires_at: &str, killers: &str) -> String {
    format!(
        r#"{{"deaths":{{"id":1,"layer":{layer},"head":{head},"positions":[{positions}],"expires_at":[{expires_at}],"killers":[{killers}]}}}}"#
    )
}

#[test]
fn a_good_trace_is_read() {
    let good = deaths("1", "3", "0,1", "2,3", "2,1");
    let end = r#"{"end":{"id":1,"finish_reason":"stop","live":[12,10]}}"#;
    assert_eq!(read(&[HEADER, BEGIN, TOKENS, &good, end]).unwrap().len(), 4);
}

#[test]
fn another_version_is_refused_with_both_numbers() {
    for found in [0, 3, u64::MAX] {
        let newer = format!(r#"{{"header":{{"version":{found},"new_field":[1,{{}}],"layers":"many"}}}}"#);
        match read(&[&newer]) {
            Err(error @ TraceError::Version { found: got, supported: 2 }) => {
                assert_eq!(got, found);
                assert!(error.to_string().contains(&found.to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn scores_belong_to_their_deaths_and_are_finite() {
    let with = |scores: &str| {
        let plain = deaths("1", "3", "0,1", "2,3", "2,1");
        format!("{},\"scores\":[{scores}]}}}}", plain.strip_suffix("}}").unwrap_or_default())
    };
    assert_eq!(read(&[HEADER, BEGIN, TOKENS, &with("-0.5,null")]).map(|events| events.len()).ok(), Some(3));
    assert_eq!(refused(&with("-0.5")), "scores");
    assert_eq!(refused(&with("-0.5,1e300")), "scores");
}

#[test]
fn a_trace_without_its_header_is_refused() {
    assert!(matches!(TraceReader::new(&b""[..]), Err(TraceError::CutOff { line: 1 })));
    for first in [BEGIN, "", "null", "[]", r#"{"header":{}}"#, r#"{"header":{"version":"1"}}"#, "\u{feff}{}"]
    {
        assert!(matches!(read(&[first]), Err(TraceError::Malformed { line: 1, .. })), "{first}");
    }
}

#[test]
fn a_header_without_bounds_is_refused() {
    for (from, to) in [
        ("\"layers\":2", "\"layers\":0"),
        ("\"layers\":2", "\"layers\":4294967296"),
        ("\"kv_heads\":4", "\"kv_heads\":0"),
        ("\"vocabulary\":50", "\"vocabulary\":0"),
    ] {
        let header = HEADER.replace(from, to);
        assert!(matches!(read(&[&header]), Err(TraceError::Invalid { line: 1, .. })), "{to}");
    }
    for (from, to) in [
        ("\"layers\":2", "\"layers\":-1"),
        ("\"layers\":2", "\"layers\":1e99"),
        ("\"layers\":2", "\"layers\":2,\"layers\":3"),
        ("\"layers\":2", "\"layers\":2,\"surprise\":3"),
        ("kv_head\"", "page\""),
    ] {
        let header = HEADER.replace(from, to);
        assert!(matches!(read(&[&header]), Err(TraceError::Malformed { line: 1, .. })), "{to}");
    }
}

#[test]
fn a_malformed_line_is_named() {
    let bad = [
        "",
        "{",
        "}",
        "not json",
        "{}",
        r#"{"sequences":{"id":2,"prompt_tokens":3}}"#,
        r#"{"sequence":{"id":2}}"#,
        r#"{"sequence":{"id":2,"prompt_tokens":3,"extra":1}}"#,
        r#"{"sequence":{"id":-2,"prompt_tokens":3}}"#,
        r#"{"sequence":{"id":2,"prompt_tokens":3}}{"sequence":{"id":3,"prompt_tokens":3}}"#,
        r#"{"tokens":{"id":1,"first_position":3,"ids":[4294967296]}}"#,
        r#"{"tokens":{"id":1,"first_position":3,"ids":[NaN]}}"#,
        r#"{"tokens":{"id":1,"first_position":3,"ids":[1],"texts":["\ud800"]}}"#,
        r#"{"tokens":{"id":1,"first_position":3,"ids":[1.5]}}"#,
        &"[".repeat(100_000),
    ];
    for line in bad {
        assert!(
            matches!(read(&[HEADER, BEGIN, line, TOKENS]), Err(TraceError::Malformed { line: 3, .. })),
            "{line}"
        );
    }
}

#[test]
fn invalid_utf8_is_malformed() {
    let mut bytes = format!("{HEADER}\n{BEGIN}\n").into_bytes();
    bytes.extend_from_slice(
        b"{\"tokens\":{\"id\":1,\"first_position\":0,\"ids\":[1],\"texts\":[\"\xff\"]}}\n",
    );
    let last = TraceReader::new(bytes.as_slice()).unwrap().last().unwrap();
    assert!(matches!(last, Err(TraceError::Malformed { line: 3, .. })));
}

#[test]
fn a_layer_or_head_out_of_bounds_is_refused() {
    assert_eq!(refused(&deaths("2", "0", "", "", "")), "layer");
    assert_eq!(refused(&deaths("18446744073709551615", "0", "", "", "")), "layer");
    assert_eq!(refused(&deaths("1", "4", "", "", "")), "head");
    assert_eq!(refused(&deaths("1", "null", "", "", "")), "head");
    let layerwise = HEADER.replace("kv_head\"", "layer\"");
    let error = read(&[&layerwise, BEGIN, TOKENS, &deaths("1", "0", "0", "1", "1")]).unwrap_err();
    assert!(matches!(error, TraceError::Invalid { line: 4, field: "head", .. }));
}

#[test]
fn arrays_of_unequal_length_are_refused() {
    assert_eq!(refused(&deaths("1", "0", "0,1", "2", "2,2")), "expires_at");
    assert_eq!(refused(&deaths("1", "0", "0", "2", "2,2")), "killers");
    assert_eq!(refused(r#"{"tokens":{"id":1,"first_position":3,"ids":[1],"texts":[]}}"#), "texts");
    assert_eq!(refused(r#"{"end":{"id":1,"finish_reason":"stop","live":[3]}}"#), "live");
}

#[test]
fn an_impossible_death_is_refused() {
    assert_eq!(refused(&deaths("0", "0", "3", "4", "4")), "positions", "no such token yet");
    assert_eq!(refused(&deaths("0", "0", "1,0", "2,2", "2,2")), "positions", "not ascending");
    assert_eq!(refused(&deaths("0", "0", "1,1", "2,2", "2,2")), "positions", "the same entry twice");
    assert_eq!(refused(&deaths("0", "0", "1", "1", "1")), "expires_at", "a token never kills itself");
    assert_eq!(refused(&deaths("0", "0", "1", "4", "2")), "expires_at", "not dead yet");
    assert_eq!(refused(&deaths("0", "0", "1", "4294967295", "2")), "expires_at", "immortal");
    assert_eq!(refused(&deaths("0", "0", "1", "2", "0")), "killers", "killed by an earlier query");
    assert_eq!(refused(&deaths("0", "0", "1", "2", "3")), "killers", "killed after it had died");
}

#[test]
fn tokens_out_of_order_or_outside_the_vocabulary_are_refused() {
    assert_eq!(refused(r#"{"tokens":{"id":1,"first_position":2,"ids":[1]}}"#), "first_position");
    assert_eq!(refused(r#"{"tokens":{"id":1,"first_position":3,"ids":[1,50]}}"#), "ids");
}

#[test]
fn a_sequence_is_begun_once_and_ended_once() {
    let end = r#"{"end":{"id":1,"finish_reason":"stop","live":[0,0]}}"#;
    let line_5 = |line: &str| match read(&[HEADER, BEGIN, TOKENS, end, line]) {
        Err(TraceError::Invalid { line: 5, field, .. }) => field,
        other => panic!("{line}: {other:?}"),
    };
    for line in [BEGIN, TOKENS, end, &deaths("0", "0", "", "", "")] {
        assert_eq!(line_5(line), "id");
    }
    assert_eq!(refused(r#"{"end":{"id":2,"finish_reason":"stop","live":[0,0]}}"#), "id");
    assert_eq!(refused(BEGIN), "id");
}

#[test]
fn more_live_or_dead_entries_than_tokens_are_refused() {
    assert_eq!(refused(r#"{"end":{"id":1,"finish_reason":"stop","live":[12,13]}}"#), "live");
    let batch = deaths("0", "0", "0,1,2", "3,3,3", "3,3,3");
    let error = read(&[HEADER, BEGIN, TOKENS, &batch, &batch, &batch, &batch, &batch]).unwrap_err();
    assert!(matches!(error, TraceError::Invalid { line: 8, field: "positions", .. }), "{error}");
}

#[test]
fn a_trace_that_was_cut_off_gives_its_whole_events_first() {
    let text = format!("{HEADER}\n{BEGIN}\n{TOKENS}\n");
    let body = HEADER.len() + 1;
    for cut in 0..text.len() {
        match TraceReader::new(&text.as_bytes()[..cut]) {
            Err(error) => {
                assert!(cut < HEADER.len());
                assert!(matches!(error, TraceError::CutOff { line: 1 }), "{error}");
            }
            Ok(reader) => {
                let whole = text[..cut].matches('\n').count();
                for (index, event) in reader.enumerate() {
                    if let Err(error) = event {
                        assert_eq!(index + 1, whole, "{error}");
                        assert!(matches!(error, TraceError::CutOff { .. }), "{error}");
                        assert!(cut > body);
                    }
                }
            }
        }
    }
}

#[test]
fn no_changed_byte_makes_the_reader_panic() {
    let text = format!("{HEADER}\n{BEGIN}\n{TOKENS}\n{}\n", deaths("1", "3", "0,1", "2,3", "2,1"));
    for index in 0..text.len() {
        for byte in [0, b'"', b'9', b'}', b'\n', 0xff] {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = byte;
            let _ = Timeline::read(bytes.as_slice());
        }
    }
}

#[test]
fn a_reader_ends_after_its_first_error() {
    let text = format!("{HEADER}\n{BEGIN}\nbroken\n{TOKENS}\n");
    let events: Vec<_> = TraceReader::new(text.as_bytes()).unwrap().collect();
    assert_eq!(events.len(), 2);
    assert!(events[1].is_err());
}

#[test]
fn an_endless_line_is_refused_at_the_cap() {
    for start in [String::new(), format!("{HEADER}\n")] {
        let line = start.lines().count() as u64 + 1;
        let text = start.into_bytes();
        let source = BufReader::new(text.as_slice().chain(std::io::repeat(b' ')));
        let error = match TraceReader::new(source) {
            Err(error) => error,
            Ok(mut reader) => reader.next().unwrap().unwrap_err(),
        };
        match error {
            TraceError::LineTooLong { line: at, limit: MAX_LINE_BYTES } => assert_eq!(at, line),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_claim_of_many_layers_and_tokens_costs_no_memory() {
    let header = HEADER.replace("\"layers\":2", "\"layers\":4294967295");
    let begin = r#"{"sequence":{"id":1,"prompt_tokens":18446744073709551615}}"#;
    let batch = deaths("4294967294", "0", "0", "3", "3");
    let text = [&header, begin, TOKENS, &batch].map(|line| format!("{line}\n")).concat();
    let timeline = Timeline::read(text.as_bytes()).unwrap();
    assert!(timeline.sequences[&1].fate(4_294_967_294, 0, 0).is_some());
}
