//! `docs/methods.md`, generated from [`METHODS`].

use std::fmt::Write;

use crate::method::Ranks;
use crate::{METHODS, Method, ParameterKind};

/// The command that writes `docs/methods.md` anew.
const REGENERATE: &str = "cargo run -q -p dropcap-methods --example methods_md > docs/methods.md";

/// The whole of `docs/methods.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_markdown(&mut out);
    out
}

/// How a method is written with all its defaults, such as `streaming_llm(sinks=4, recent=508, when=rolling)`, and with a
/// budget where it must have one.
pub(crate) fn usage(method: &Method) -> String {
    let inner = matches!(method.ranks, Ranks::Around(_)).then(|| "snapkv".to_owned());
    let pairs = method.parameters.iter().map(|parameter| format!("{}={}", parameter.name, parameter.default));
    let items: Vec<String> = inner.into_iter().chain(pairs).collect();
    let items = if items.is_empty() { String::new() } else { format!("({})", items.join(", ")) };
    let budget = if matches!(method.ranks, Ranks::No) { "" } else { "@0.2" };
    format!("{}{items}{budget}", method.name)
}

fn values(kind: ParameterKind) -> String {
    match kind {
        ParameterKind::Count { least, most } => format!("{least} to {most}"),
        ParameterKind::Fraction => "0 to 1".into(),
        ParameterKind::Number { most } => format!("above 0, up to {most}"),
        ParameterKind::Share => "above 0, up to 1".into(),
        ParameterKind::Flag => "true, false".into(),
        ParameterKind::File => "a path".into(),
        ParameterKind::Choice(words) => words.join(", "),
    }
}

fn write_markdown(out: &mut String) -> std::fmt::Result {
    writeln!(out, "# Methods\n")?;
    writeln!(
        out,
        "<!-- Generated from METHODS in crates/methods. Do not edit; run:\n     {REGENERATE} -->\n"
    )?;
    writeln!(
        out,
        "A method says which entries leave the cache, and when. It is named by a specification such as"
    )?;
    writeln!(out, "`streaming_llm(sinks=4, recent=508)`; the grammar is in [formats.md](formats.md).\n")?;
    writeln!(
        out,
        "Those that rank entries take any budget, `@1024` or `@0.2`, and `ada(...)`, `pyramid(...)`, `squeeze(...)` and `headkv(...)` around them. They"
    )?;
    writeln!(
        out,
        "free memory when the prompt ends, a layer at a time, and until then a prompt is held densely; with `when=every_query` also"
    )?;
    writeln!(
        out,
        "after every token from there on, or with `every=16` whenever the text has a multiple of 16 tokens, counted from its beginning;"
    )?;
    writeln!(
        out,
        "a share is then one of all tokens so far: of n, floor(n * share). Of equal scores the later token stays; one that is not a"
    )?;
    writeln!(
        out,
        "number goes first. What is dropped is gone, and positions stay those of the text, but for `key_rerotation(...)`. They run on a GPU"
    )?;
    writeln!(
        out,
        "too, where a score takes 4 bytes beside each entry, in the page, and attention's sums behind the prompt room for the scores of one"
    )?;
    writeln!(
        out,
        "layer of a decode step. A device refuses by name what it cannot carry out: two methods that rank behind `&`, one that ranks all heads"
    )?;
    writeln!(
        out,
        "alike beside one that forgets per head, `ada` by the original's count, and `headkv` around `nacl`, of which each head draws from the"
    )?;
    writeln!(out, "mean of all.\n")?;
    writeln!(out, "| method | what it does | `@amount` |\n|---|---|---|")?;
    for method in METHODS {
        let amount = method.amount.unwrap_or("-");
        writeln!(out, "| [`{0}`](#{0}) | {1} | {amount} |", method.name, method.summary)?;
    }
    for method in METHODS {
        writeln!(out, "\n## {}\n\n{}\n", method.name, method.summary)?;
        writeln!(out, "    {}\n", usage(method))?;
        for paragraph in method.details.split("\n\n") {
            writeln!(out, "{paragraph}\n")?;
        }
        writeln!(out, "Source: {}.", method.source)?;
        if method.parameters.is_empty() {
            continue;
        }
        writeln!(out, "\n| parameter | default | values | meaning |\n|---|---|---|---|")?;
        for parameter in method.parameters {
            let values = values(parameter.kind);
            writeln!(
                out,
                "| `{}` | `{}` | {values} | {} |",
                parameter.name, parameter.default, parameter.help
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MethodSpec;

    #[test]
    fn the_checked_in_page_is_the_generated_one() {
        let checked_in = include_str!("../../../docs/methods.md");
        assert!(checked_in == markdown(), "docs/methods.md is out of date; run: {REGENERATE}");
    }

    #[test]
    fn every_usage_line_is_a_valid_spec() {
        for method in METHODS {
            let spec: MethodSpec = usage(method).parse().unwrap();
            assert_eq!(spec.to_string(), usage(method));
        }
    }
}
