//! A text in which comments and strings are blank, so that what is left is code.

use crate::Language;

/// `text` with a space for every byte of comments and strings, line breaks apart.
pub(super) fn masked(text: &str, language: Language) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = blank(bytes, at, language);
        if end > at {
            out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at = end.max(at + 1);
    }
    out
}

/// The end of the comment or string that begins at `at`; `at` where none does.
fn blank(bytes: &[u8], at: usize, language: Language) -> usize {
    let rest = &bytes[at..];
    let code = language != Language::Python;
    match rest[0] {
        b'/' if code && rest.starts_with(b"//") => line(bytes, at),
        b'/' if code && rest.starts_with(b"/*") => comment(bytes, at, language == Language::Rust),
        b'#' if language == Language::Python => line(bytes, at),
        b'#' if language == Language::C => directive(bytes, at),
        b'"' | b'\''
            if language == Language::Python && (rest.starts_with(b"\"\"\"") || rest.starts_with(b"'''")) =>
        {
            until(bytes, at + 3, &rest[..3])
        }
        b'\'' if language == Language::Rust => character(bytes, at),
        b'"' => quoted(bytes, at, language == Language::Rust),
        b'\'' => quoted(bytes, at, false),
        b'`' if matches!(language, Language::JavaScript | Language::Go) => quoted(bytes, at, true),
        b'r' if language == Language::Rust && !follows_word(bytes, at) => raw(bytes, at),
        _ => at,
    }
}

fn line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn until(bytes: &[u8], from: usize, mark: &[u8]) -> usize {
    let found = bytes[from..].windows(mark.len()).position(|window| window == mark);
    found.map_or(bytes.len(), |length| from + length + mark.len())
}

fn comment(bytes: &[u8], at: usize, nests: bool) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") && (depth == 0 || nests) {
            depth += 1;
            end += 2;
        } else if bytes[end..].starts_with(b"*/") {
            depth -= 1;
            end += 2;
            if depth == 0 {
                return end;
            }
        } else {
            end += 1;
        }
    }
    bytes.len()
}

/// A line of the preprocessor, with those that continue it.
fn directive(bytes: &[u8], at: usize) -> usize {
    let mut end = line(bytes, at);
    while end < bytes.len() && bytes[..end].trim_ascii_end().last() == Some(&b'\\') {
        end = line(bytes, end + 1);
    }
    end
}

/// A string up to its quote, or to the end of the line where it may not go on.
fn quoted(bytes: &[u8], at: usize, lines: bool) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 1,
            b'\n' if !lines => return end,
            byte if byte == bytes[at] => return end + 1,
            _ => {}
        }
        end += 1;
    }
    bytes.len()
}

/// A character of Rust; a lifetime is none.
fn character(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return quoted(bytes, at, false);
    }
    let longest = bytes.len().min(at + 6);
    let close = (at + 2..longest).find(|&end| bytes[end] == b'\'');
    let one =
        |end: &usize| std::str::from_utf8(&bytes[at + 1..*end]).is_ok_and(|text| text.chars().count() == 1);
    close.filter(one).map_or(at, |end| end + 1)
}

/// A raw string of Rust.
fn raw(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return at;
    }
    let mark = [&b"\""[..], &bytes[at + 1..][..hashes]].concat();
    until(bytes, at + 2 + hashes, &mark)
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b'
}
