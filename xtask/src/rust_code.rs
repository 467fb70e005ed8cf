//! Just enough of Rust's grammar to tell code from text and tests from the rest.

use std::ops::Range;

/// The source with every comment, string and character literal blanked out; lines stay where they were.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' | b'b' | b'c' if !within_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => at,
            },
            b'\'' => character_end(bytes, at),
            _ => at,
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    // Whole characters are blanked, so what is left is still UTF-8.
    String::from_utf8_lossy(&code).into_owned()
}

/// The byte ranges of items under `#[cfg(test)]` or `#[test]`, in the text that [`code_only`] returned.
pub(crate) fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[") {
        if ranges.last().is_some_and(|last| start < last.end) {
            continue;
        }
        let Some(length) = code[start..].find(']') else { break };
        let attribute: String = code[start..start + length].chars().filter(|c| !c.is_whitespace()).collect();
        let for_tests = attribute == "#[test"
            || attribute.starts_with("#[cfg(test")
            || (attribute.starts_with("#[cfg(all(") && words(&attribute).any(|(_, word)| word == "test"));
        if for_tests {
            ranges.push(start..item_end(code, start + length));
        }
    }
    ranges
}

/// The identifiers of a text with the byte where each starts.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr().addr() - text.as_ptr().addr(), word))
}

/// The line, counted from 1, that holds the byte at `offset`.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// The end of the item after `start`: its closing brace, or a semicolon before any brace.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b';' if depth == 0 => return at,
            b'{' => depth += 1,
            b'}' if depth <= 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn find(bytes: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
    bytes[from..].windows(wanted.len()).position(|window| window == wanted).map(|at| from + at)
}

fn within_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1_usize);
    while at < bytes.len() && depth > 0 {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"..."`, `r#"..."#`, `br"..."` and `cr"..."`; `None` for anything else, such as a name or `r#name`.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let letters = match &bytes[start..bytes.len().min(start + 2)] {
        b"br" | b"cr" => 2,
        [b'r', ..] => 1,
        _ => return None,
    };
    let hashes = bytes[start + letters..].iter().take_while(|&&byte| byte == b'#').count();
    let open = start + letters + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    Some(find(bytes, open + 1, &close).map_or(bytes.len(), |at| at + close.len()))
}

/// The end of a character literal, or `start` where the quote begins a lifetime.
fn character_end(bytes: &[u8], start: usize) -> usize {
    match bytes.get(start + 1) {
        Some(b'\\') => find(bytes, (start + 3).min(bytes.len()), b"'").map_or(bytes.len(), |at| at + 1),
        Some(&first) => {
            let length = match first {
                0x00..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            if bytes.get(start + 1 + length) == Some(&b'\'') { start + length + 2 } else { start }
        }
        None => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let source = "let a = \"gone // gone\"; // gone\n/* gone /* too */ gone */ keep('\\'', b'\"', 'é', '\"');\n\
                      let s: &'static str = r#\"gone \" gone\"#; r#type; number\"s\"";
        let code = code_only(source);
        assert!(!code.contains("gone") && !code.contains('"'), "{code}");
        for kept in ["let a =", "keep(", "&'static str", "r#type;", "number"] {
            assert!(code.contains(kept), "{kept} in {code}");
        }
        assert_eq!(code.lines().count(), source.lines().count());
        assert_eq!(code.len(), source.len());
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_file() {
        for source in ["\"abc", "r#\"abc\"", "/* abc", "'\\", "'", "b", "\"\\"] {
            assert_eq!(code_only(source).len(), source.len(), "{source}");
        }
    }

    #[test]
    fn test_items_are_found_with_their_bodies() {
        let code = "fn a() { x } #[cfg(test)] mod tests { fn b() { y } } fn c() {} #[test] fn d() { z } \
                    #[cfg(test)] mod apart; #[cfg(all(test, unix))] fn e() { w } #[cfg(not(test))] fn f() { v }";
        let inside: Vec<&str> = test_ranges(code).into_iter().map(|range| &code[range]).collect();
        assert_eq!(inside.len(), 4, "{inside:?}");
        assert!(inside[0].contains('y') && inside[1].contains('z') && inside[3].contains('w'));
        assert!(inside[2].ends_with("mod apart"));
    }

    #[test]
    fn words_know_where_they_stand() {
        assert_eq!(words("un_a b1::c").collect::<Vec<_>>(), [(0, "un_a"), (5, "b1"), (9, "c")]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
