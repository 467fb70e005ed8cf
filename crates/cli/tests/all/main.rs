//! The command, run as a person runs it: one binary, because each more would be linked anew.
#![cfg(test)]

mod adapters;
mod bad_input;
mod compress;
mod device;
mod eval;
mod generate;
mod gguf;
mod inspect;
mod outputs;
mod profile;
mod ranges;
mod serve;
mod support;
mod tokenizer;
mod train;
mod verbs;
