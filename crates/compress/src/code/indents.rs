//! Definitions of Python: what is indented below `def` and `class`.

/// Where definitions begin, with decorators and comments above them, and where the code behind them begins.
pub(super) fn borders(text: &str, code: &[u8]) -> Vec<usize> {
    let mut borders = Vec::new();
    // Where the lines begin that touch the next one from above: they may be about it.
    let mut above: Option<usize> = None;
    let mut within: Option<usize> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let masked = &code[at..at + line.len()];
        let begin = masked.trim_ascii_start();
        let indent = masked.len() - begin.len();
        let is_definition =
            ["def ", "class ", "async def "].iter().any(|word| begin.starts_with(word.as_bytes()));
        let is_about = line.trim_start().starts_with('#') || begin.starts_with(b"@");
        if is_definition {
            borders.push(above.unwrap_or(at));
            within = Some(indent);
        } else if begin.first().is_some_and(u8::is_ascii_alphabetic)
            && within.is_some_and(|outer| indent <= outer)
        {
            borders.push(above.unwrap_or(at));
            within = None;
        }
        above = is_about.then(|| above.unwrap_or(at));
        at += line.len();
    }
    borders
}
