//! Text that people hand over: UTF-8, with or without the byte-order mark that some editors write.

use anyhow::{Context, Result, bail};

/// The text of a whole file or stream; one byte-order mark at its start belongs to the file and not to the text.
///
/// # Errors
/// What is not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("it is UTF-16, not UTF-8: convert it");
    }
    let text = std::str::from_utf8(bytes).context("it is not UTF-8")?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A text without the one line break at its end that `echo` and editors put there.
pub fn without_line_break(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mark_and_one_line_break_belong_to_the_file() {
        assert_eq!(decode(b"\xef\xbb\xbf\xef\xbb\xbfa").unwrap(), "\u{feff}a");
        assert_eq!(decode(b"a\xef\xbb\xbf").unwrap(), "a\u{feff}");
        for (text, rest) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", "")]
        {
            assert_eq!(without_line_break(text), rest);
        }
    }

    #[test]
    fn what_is_no_utf8_is_named() {
        for (bytes, word) in
            [(&b"\xff\xfea\0"[..], "UTF-16"), (b"\xfe\xff\0a", "UTF-16"), (b"a\xff", "UTF-8")]
        {
            assert!(format!("{:#}", decode(bytes).unwrap_err()).contains(word), "{bytes:?}");
        }
    }
}
