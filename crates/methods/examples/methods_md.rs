//! Prints docs/methods.md.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(dropcap_methods::docs::markdown().as_bytes())
}
