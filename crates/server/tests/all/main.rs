//! The server over the wire: one binary, because each more would be linked with the whole engine again.
#![cfg(test)]

mod chat;
mod completions;
mod crowds;
mod disconnects;
mod guards;
mod hostile;
mod not_finite;
mod support;
