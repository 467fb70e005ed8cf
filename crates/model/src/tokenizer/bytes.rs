//! Tokens that are single bytes of a text, written as `<0xE4>`.

/// Puts one U+FFFD in the place of each broken sequence of byte tokens, as Unicode recommends, and leaves whole
/// characters as they are.
///
/// The library's decoder takes a run of byte tokens as a whole: one wrong byte turns every byte of it into U+FFFD.
pub(super) fn repaired(tokens: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut run = Vec::new();
    for token in tokens {
        match byte(&token) {
            Some(byte) => run.push(byte),
            None => {
                flush(&mut run, &mut out);
                out.push(token);
            }
        }
    }
    flush(&mut run, &mut out);
    out
}

fn flush(run: &mut Vec<u8>, out: &mut Vec<String>) {
    for part in run.utf8_chunks() {
        out.extend(part.valid().bytes().map(|byte| format!("<0x{byte:02X}>")));
        if !part.invalid().is_empty() {
            out.push(char::REPLACEMENT_CHARACTER.to_string());
        }
    }
    run.clear();
}

/// The byte of a byte token, by the library's rule.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}
