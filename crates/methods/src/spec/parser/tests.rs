use super::*;

fn one(text: &str) -> Term {
    let mut terms = parse(text).unwrap();
    assert_eq!(terms.len(), 1);
    terms.remove(0).0
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_name_alone_is_a_spec() {
    let term = one("  none ");
    assert_eq!((term.name(), term.arguments().len(), term.amount()), ("none", 0, None));
    assert_eq!(one("none()"), one("none"));
}

#[test]
fn pairs_and_an_amount_are_read() {
    let term = one("streaming_llm( sinks = 4 ,recent=508 ) @ 0.5");
    assert_eq!(term.arguments(), [("sinks".into(), "4".into()), ("recent".into(), "508".into())]);
    assert_eq!(term.amount(), Some(Amount::Share(0.5)));
}

#[test]
fn a_method_stands_within_another() {
    let term = one("ada( snapkv(window = 32) , floor=0.2)@0.5");
    let inner = term.inner().unwrap();
    assert_eq!((inner.name(), inner.arguments().len(), inner.amount()), ("snapkv", 1, None));
    assert_eq!((term.arguments().len(), term.amount()), (1, Some(Amount::Share(0.5))));
    assert_eq!(term.to_string(), "ada(snapkv(window=32), floor=0.2)@0.5");
    assert_eq!(one("ada(snapkv)"), one(" ada ( snapkv ) "));
    assert_eq!(one("ada(snapkv@0.2)").inner().unwrap().amount(), Some(Amount::Share(0.2)));
    for text in ["ada(a b)", "ada(a, b)", "ada(a & b)", "ada(x=1, a)", "ada(a"] {
        assert!(matches!(parse(text), Err(MethodError::Syntax { .. })), "{text}");
    }
}

#[test]
fn quotes_hold_what_the_grammar_uses() {
    let term = one(r#"dcp(gates="a, (b) & \"c\" @ d=\\e.safetensors")"#);
    assert_eq!(term.arguments()[0].1, r#"a, (b) & "c" @ d=\e.safetensors"#);
}

#[test]
fn plain_paths_need_no_quotes() {
    let term = one("dcp(gates=../runs/run-7/größe_é.v1.safetensors)");
    assert_eq!(term.arguments()[0].1, "../runs/run-7/größe_é.v1.safetensors");
}

#[test]
fn terms_are_joined_by_an_ampersand() {
    let names: Vec<_> = parse("a&b @2K&c(x=1)").unwrap().into_iter().map(|(term, _)| term.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn a_syntax_error_says_where_and_what() {
    assert!(message("").contains("a method's name, got the end"), "{}", message(""));
    assert!(message("dcp(gates=a b)").contains("byte 12"), "{}", message("dcp(gates=a b)"));
    assert!(message("dcp(gates=\"a)").contains("closing"), "{}", message("dcp(gates=\"a)"));
    assert!(message("dcp gates").contains("`&` or the end"), "{}", message("dcp gates"));
    for text in [
        "(a)",
        "a &",
        "a(",
        "a(b",
        "a(b=",
        "a(b=c",
        "a(b=c,",
        "a@",
        "a@@1",
        "a(b=\"\\n\")",
        "&",
        "a(=1)",
        "9a",
    ] {
        assert!(matches!(parse(text), Err(MethodError::Syntax { .. })), "{text}");
    }
}

#[test]
fn a_second_amount_is_refused_where_it_stands() {
    for text in ["a@1@2", "a @ 0.5 @ 0.5"] {
        let message = message(text);
        assert!(message.contains("one amount") && !message.contains("`(`"), "{text}: {message}");
        assert!(message.contains(&format!("at byte {}:", text.rfind('@').unwrap())), "{text}: {message}");
    }
}

#[test]
fn control_characters_never_reach_the_message() {
    assert!(!message("dcp\u{1b}[31m").contains('\u{1b}'));
    assert!(matches!(parse("dcp(gates=\"a\0b\")"), Err(MethodError::Syntax { .. })));
}

#[test]
fn a_key_given_twice_is_refused() {
    assert_eq!(
        message("a(b=1, b=1)"),
        "at byte 7 of the method: the parameter `b` is given twice; give it once"
    );
}

#[test]
fn length_and_count_are_capped() {
    assert!(matches!(parse(&"a".repeat(MAX_SPEC_BYTES + 1)), Err(MethodError::TooLong { .. })));
    assert!(parse(&["a"; MAX_TERMS].join("&")).is_ok());
    assert!(matches!(parse(&["a"; MAX_TERMS + 1].join("&")), Err(MethodError::TooManyTerms { .. })));
    let many: Vec<String> = (0..=MAX_ARGUMENTS).map(|i| format!("k{i}=1")).collect();
    assert!(matches!(parse(&format!("a({})", many.join(","))), Err(MethodError::TooManyArguments { .. })));
    assert!(parse("a(b(c(d)))").is_ok());
    for text in ["a(b(c(d(e))))".into(), "a(".repeat(MAX_SPEC_BYTES / 2)] {
        assert!(matches!(parse(&text), Err(MethodError::Syntax { .. })), "depth is capped");
    }
    assert!(matches!(parse(&"(".repeat(MAX_SPEC_BYTES)), Err(MethodError::Syntax { at: 0, .. })));
}
