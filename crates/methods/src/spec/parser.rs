//! The grammar of [`super::MethodSpec`], read by hand in one pass.

use super::{Amount, MAX_SPEC_BYTES, MAX_TERMS, Term};
use crate::MethodError;

/// More parameters than any method has; keeps the duplicate check from being quadratic in hostile input.
const MAX_ARGUMENTS: usize = 32;
/// More methods within each other than make sense; keeps hostile input from exhausting the stack.
const MAX_DEPTH: usize = 4;

/// Where the parts of a term stand, as byte offsets in the text.
#[derive(Debug)]
pub(super) struct Places {
    name: usize,
    /// Those of the method within the parentheses.
    pub(super) inner: Option<Box<Places>>,
    /// One for each pair of the term.
    arguments: Vec<Place>,
    amount: usize,
}

#[derive(Debug)]
struct Place {
    key: String,
    at: usize,
    value: usize,
}

impl Places {
    /// Says where in the text that is which `error` complains of.
    pub(super) fn locate(&self, error: MethodError) -> MethodError {
        let place = |key: &str| self.arguments.iter().find(|place| place.key == key);
        let at = match &error {
            MethodError::NoAmount { .. } => Some(self.amount),
            MethodError::InnerAmount { .. } => self.inner.as_ref().map(|inner| inner.amount),
            MethodError::OutOfRange { key, .. } => place(key).map(|place| place.value),
            MethodError::UnknownParameter { key, .. } => place(key).map(|place| place.at),
            MethodError::CompressionRatio { .. } => place(super::COMPRESSION_RATIO).map(|place| place.at),
            _ => None,
        };
        error.at(at.unwrap_or(self.name))
    }
}

/// Reads a whole spec.
pub(super) fn parse(text: &str) -> Result<Vec<(Term, Places)>, MethodError> {
    if text.len() > MAX_SPEC_BYTES {
        return Err(MethodError::TooLong { limit: MAX_SPEC_BYTES, got: text.len() });
    }
    let mut parser = Parser { text, at: 0 };
    let mut terms = vec![parser.term(1)?];
    while parser.eat('&') {
        if terms.len() == MAX_TERMS {
            return Err(MethodError::TooManyTerms { limit: MAX_TERMS });
        }
        terms.push(parser.term(1)?);
    }
    match parser.peek() {
        None => Ok(terms),
        Some('@') if terms.last().is_some_and(|(term, _)| term.amount.is_some()) => {
            Err(parser.expected("`&` or the end (a method takes one amount)"))
        }
        Some(_) => Err(parser.expected("`(`, `@`, `&` or the end")),
    }
}

/// Whether a value may hold this character without quotes.
fn is_bare(character: char) -> bool {
    !character.is_whitespace() && !character.is_control() && !",()\"&@=\\".contains(character)
}

/// The value as the grammar wants it written.
pub(super) fn quoted_if_needed(value: &str) -> String {
    if !value.is_empty() && value.chars().all(is_bare) {
        return value.into();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// A term within `depth - 1` others.
    fn term(&mut self, depth: usize) -> Result<(Term, Places), MethodError> {
        if self.peek() == Some('(') {
            return Err(self.expected("a method's name (methods are joined by `&` without parentheses)"));
        }
        self.skip_space();
        let mut places = Places { name: self.at, inner: None, arguments: Vec::new(), amount: self.at };
        let name = self.name("a method's name")?.to_owned();
        let (mut inner, mut arguments) = (None, Vec::new());
        if self.eat('(') {
            let mut goes_on = true;
            if self.is_term() {
                if depth == MAX_DEPTH {
                    return Err(self.expected("a parameter (methods stand within each other up to 4 deep)"));
                }
                let (term, place) = self.term(depth + 1)?;
                (inner, places.inner) = (Some(Box::new(term)), Some(Box::new(place)));
                goes_on = self.eat(',');
                if !goes_on && !self.eat(')') {
                    return Err(self.expected("`,` or `)`"));
                }
            }
            if goes_on {
                arguments = self.arguments(&mut places.arguments)?;
            }
        }
        let amount = if self.eat('@') {
            self.skip_space();
            places.amount = self.at;
            let amount = self.take_while(is_bare);
            if amount.is_empty() {
                return Err(self.expected("a number of tokens or a share kept after the `@`"));
            }
            Some(Amount::parse(amount).map_err(|error| error.at(places.amount))?)
        } else {
            None
        };
        Ok((Term { name, inner, arguments, amount }, places))
    }

    /// Whether a method stands next, and no parameter: a name without `=`.
    fn is_term(&mut self) -> bool {
        let at = self.at;
        let found = self.name("").is_ok() && matches!(self.peek(), Some('(' | ')' | ',' | '@'));
        self.at = at;
        found
    }

    fn arguments(&mut self, places: &mut Vec<Place>) -> Result<Vec<(String, String)>, MethodError> {
        let mut arguments: Vec<(String, String)> = Vec::new();
        if self.eat(')') {
            return Ok(arguments);
        }
        loop {
            self.skip_space();
            let at = self.at;
            let key = self.name("a parameter's name or `)`")?;
            if !self.eat('=') {
                return Err(self.expected("`=` and a value"));
            }
            self.skip_space();
            places.push(Place { key: key.into(), at, value: self.at });
            let value = self.value()?;
            if arguments.iter().any(|(other, _)| other == key) {
                return Err(MethodError::Repeated { key: key.into() }.at(at));
            }
            if arguments.len() == MAX_ARGUMENTS {
                return Err(MethodError::TooManyArguments { limit: MAX_ARGUMENTS });
            }
            arguments.push((key.into(), value));
            if self.eat(')') {
                return Ok(arguments);
            }
            if !self.eat(',') {
                return Err(
                    self.expected("`,` or `)` (quote a value that holds spaces or any of , ( ) & @ = \\)")
                );
            }
        }
    }

    fn value(&mut self) -> Result<String, MethodError> {
        if !self.eat('"') {
            self.skip_space();
            let value = self.take_while(is_bare);
            return if value.is_empty() { Err(self.expected("a value")) } else { Ok(value.into()) };
        }
        let mut value = String::new();
        loop {
            value.push_str(self.take_while(|c| c != '"' && c != '\\' && !c.is_control()));
            match self.bump() {
                Some('"') => return Ok(value),
                Some('\\') => match self.bump() {
                    Some(escaped @ ('"' | '\\')) => value.push(escaped),
                    _ => return Err(self.expected("`\"` or `\\` after a `\\` within quotes")),
                },
                _ => return Err(self.expected("a closing `\"` (control characters are not allowed)")),
            }
        }
    }

    fn name(&mut self, expected: &'static str) -> Result<&'a str, MethodError> {
        self.skip_space();
        if !self.rest().starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
            return Err(self.expected(expected));
        }
        Ok(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.rest().chars().next()
    }

    /// Takes the next character, spaces included.
    fn bump(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn expected(&self, expected: &'static str) -> MethodError {
        let got = match self.rest().chars().next() {
            None => "the end".into(),
            // Escaped: a hostile spec must not write control characters to a terminal through the message.
            Some(next) => format!("`{}`", next.escape_debug()),
        };
        MethodError::Syntax { at: self.at, expected, got }
    }
}

#[cfg(test)]
mod tests;
