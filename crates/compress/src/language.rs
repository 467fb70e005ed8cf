//! How a text is written.

use std::path::Path;
use std::str::FromStr;

use crate::CompressError;

/// How a text is written, as far as its borders depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// C and C++.
    C,
    /// Go.
    Go,
    /// Java and languages that look like it.
    Java,
    /// JavaScript and TypeScript.
    JavaScript,
    /// Python.
    Python,
    /// Rust.
    Rust,
    /// Prose, Markdown, and whatever is none of the others: paragraphs.
    Text,
}

/// Every language with its name and the endings of its files.
const NAMES: [(Language, &str, &[&str]); 7] = [
    (Language::C, "c", &["c", "h", "cc", "cpp", "cxx", "hh", "hpp", "hxx", "cu", "cuh"]),
    (Language::Go, "go", &["go"]),
    (Language::Java, "java", &["java", "kt", "cs", "scala"]),
    (Language::JavaScript, "javascript", &["js", "mjs", "cjs", "jsx", "ts", "mts", "tsx"]),
    (Language::Python, "python", &["py", "pyi"]),
    (Language::Rust, "rust", &["rs"]),
    (Language::Text, "text", &["txt", "md"]),
];

impl Language {
    /// What the name of a file says; prose where it says nothing.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let known = |endings: &&[&str]| ending.as_deref().is_some_and(|ending| endings.contains(&ending));
        NAMES.iter().find(|(_, _, endings)| known(endings)).map_or(Self::Text, |(language, ..)| *language)
    }

    /// What a comment of a line begins with.
    pub(crate) fn comment(self) -> &'static str {
        match self {
            Self::Python | Self::Text => "#",
            _ => "//",
        }
    }
}

impl FromStr for Language {
    type Err = CompressError;

    fn from_str(text: &str) -> Result<Self, CompressError> {
        let given = text.to_lowercase();
        let is_it =
            |(_, name, endings): &&(Self, &str, &[&str])| *name == given || endings.contains(&&*given);
        NAMES.iter().find(is_it).map(|(language, ..)| *language).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(_, name, _)| *name).collect();
            CompressError::Language { given: text.to_owned(), known: known.join(", ") }
        })
    }
}
