use proptest::prelude::*;

use super::*;

fn firsts(text: &str, language: Language) -> Vec<&str> {
    chunks(text, language)
        .iter()
        .map(|chunk| text[chunk.clone()].trim_start().lines().next().unwrap())
        .collect()
}

#[test]
fn functions_of_rust_have_their_comments_and_attributes() {
    let text = r##"//! Docs.
use std::io;

/// A type {
#[derive(Debug)]
pub struct A<'a> { x: &'a str }

const X: &[char] = &['{', '\'', '}'];

impl<'a> A<'a> {
    /// Says "}".
    pub(crate) const fn one(&self) -> &'static str {
        let f = |x: u8| { x };
        r#"}"}"#
    }

    #[must_use]
    unsafe extern "C" fn two() {}
}

mod tests {
    #[test]
    fn three() { assert!(true); }
}
macro_rules! four { () => {}; }
"##;
    assert_eq!(
        firsts(text, Language::Rust),
        [
            "//! Docs.",
            "/// A type {",
            "const X: &[char] = &['{', '\\'', '}'];",
            "impl<'a> A<'a> {",
            "/// Says \"}\".",
            "#[must_use]",
            "mod tests {",
            "#[test]",
            "macro_rules! four { () => {}; }",
        ]
    );
}

#[test]
fn functions_of_other_languages_are_found_and_branches_are_none() {
    let cases: [(Language, &str, &[&str]); 4] = [
        (
            Language::C,
            "#define F(x) { \\\n  x }\nstruct S {\n  int x;\n};\n\nint main(int n, char **v)\n{\n  if (n) { return 1; }\n}\n\
             namespace a {\nvoid B::c() const {\n  for (;;) {}\n}\n}\nint t[] = { 1 };\n",
            &[
                "#define F(x) { \\",
                "int main(int n, char **v)",
                "namespace a {",
                "void B::c() const {",
                "int t[] = { 1 };",
            ],
        ),
        (
            Language::Java,
            "package p;\n\n@A({1})\npublic class B extends C {\n  int x = 1;\n\n  // d\n  @Override public <T> void d(T t) throws E {\n    \
             new F() { void g() {} };\n  }\n}\n",
            &["package p;", "@A({1})", "// d"],
        ),
        (
            Language::JavaScript,
            "import a from 'a';\nexport const f = async (x) => {\n  if (x) { y(`{${x}`); }\n};\nfunction g() {}\nclass H {\n  i() {\n  }\n}\n",
            &[
                "import a from 'a';",
                "export const f = async (x) => {",
                "function g() {}",
                "class H {",
                "i() {",
            ],
        ),
        (
            Language::Go,
            "package p\n\n// T is.\ntype T struct {\n\tx int\n}\n\nfunc (t *T) F(a interface{}) error {\n\treturn nil\n}\n",
            &["package p", "func (t *T) F(a interface{}) error {"],
        ),
    ];
    for (language, text, expected) in cases {
        assert_eq!(firsts(text, language), expected, "{language:?}");
    }
}

#[test]
fn functions_of_python_end_where_other_code_begins() {
    let text = "import a\n\n# About f.\n@b\nasync def f(x):\n    \"\"\"\ndef no():\n    \"\"\"\n    return {\n        1,\n    }\n\nclass C:\n    def g(self): pass\n\n\
                if __name__ == \"__main__\":\n    f(1)\n";
    assert_eq!(
        firsts(text, Language::Python),
        ["import a", "# About f.", "class C:", "def g(self): pass", "if __name__ == \"__main__\":"]
    );
}

#[test]
fn paragraphs_of_prose_are_chunks_and_fences_are_whole() {
    let text = "\nOne\ntwo.\n\n\n# Three\n\n```\na\n\nb\n```\n\n---\n\nlast";
    assert_eq!(firsts(text, Language::Text), ["One", "# Three", "```", "last"]);
}

proptest! {
    #[test]
    fn chunks_are_all_of_any_text(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "(", ")", "[", "]", "\"", "'", "`", "/*", "*/", "//", "#", "\\", "r#\"", "\n", "\r\n", "\n\n", " ", "fn f() ",
                "def g():", "class A ", "if (x) ", "é", "漢", "```\n", "=>", ";", "'a", "impl ", "    ", "extern \"C\" ", "x = 1",
            ]),
            0..60,
        ),
    ) {
        let text = pieces.concat();
        for language in [
            Language::C, Language::Go, Language::Java, Language::JavaScript, Language::Python, Language::Rust, Language::Text,
        ] {
            let chunks = chunks(&text, language);
            prop_assert_eq!(chunks.iter().map(|chunk| &text[chunk.clone()]).collect::<String>(), text.as_str());
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            let fences = Fences::of(&text);
            prop_assert!(chunks.iter().all(|chunk| !fences.hold(chunk.start)));
        }
    }
}
