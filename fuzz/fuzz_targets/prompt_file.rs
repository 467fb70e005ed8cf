#![no_main]
#![allow(dead_code, reason = "the command uses the rest of its files")]

// The command has no library.
#[path = "../../crates/cli/src/prompts.rs"]
mod prompts;
#[path = "../../crates/cli/src/terminal.rs"]
mod terminal;
#[path = "../../crates/cli/src/utf8.rs"]
mod utf8;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = prompts::from_lines("fuzz", bytes);
});
