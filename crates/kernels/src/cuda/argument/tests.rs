//! A kernel file that lays a structure out otherwise than the host does not compile.

use super::Argument as _;
use crate::cuda::{Library, NO_CONSTANTS, Source, Specialisation, compile};

kernel_struct! {
    struct Pair as Pair {
        first: u32,
        second: u32,
    }
}

kernel_struct! {
    struct Mixed as Mixed {
        pair: Pair,
        address: u64,
        many: [u32; 3],
        scale: f32,
    }
}

const PAIR: &str = "struct Pair { unsigned first, second; };";

fn compiles(mixed: &'static str) -> Result<(), String> {
    let source = Source {
        file: "a test",
        text: mixed,
        constants: NO_CONSTANTS,
        arguments: &[Pair::LAYOUT, Mixed::LAYOUT],
    };
    compile(&source, (8, 0), &Specialisation::NEUTRAL).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn a_structure_that_the_kernels_lay_out_otherwise_does_not_compile() {
    if let Err(error) = Library::Nvrtc.load() {
        assert!(std::env::var_os("DROPCAP_REQUIRE_NVRTC").is_none(), "{error}");
        eprintln!("SKIPPED: {error}");
        return;
    }
    let with = |fields: &str| -> Result<(), String> {
        compiles(format!("{PAIR} struct Mixed {{ {fields} }};").leak())
    };
    with("Pair pair; const float *address; unsigned many[3]; float scale;").unwrap();
    for (fields, said) in [
        ("const float *address; Pair pair; unsigned many[3]; float scale;", "in another order"),
        ("Pair pair; const float *address; float scale; unsigned many[3];", "in another order"),
        (
            "Pair pair; const float *address; unsigned many[2]; float scale; unsigned more;",
            "many has 12 bytes",
        ),
        ("alignas(16) Pair pair; const float *address; unsigned many[3]; float scale;", "aligned to 8"),
        ("Pair pair; const float *address; unsigned many[3]; double scale;", "scale has 4 bytes"),
        ("Pair pair; const float *address; unsigned many[3];", "scale"),
        ("Pair pair; const float *address; unsigned many[3]; float scale; unsigned more;", "32 bytes"),
        ("Pair pair; const float *address; unsigned many[3]; float factor;", "scale"),
    ] {
        let error = with(fields).unwrap_err();
        assert!(error.contains(said), "{fields}: {error}");
    }
}
