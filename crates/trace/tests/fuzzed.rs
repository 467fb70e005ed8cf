//! The fuzz body on seeded inputs.

use dropcap_trace::fuzzing;

const VALID: &str = r#"{"header":{"version":2,"model":"m","method":"dcp","layers":2,"kv_heads":4,"granularity":"layer","vocabulary":50}}
{"sequence":{"id":1,"prompt_tokens":3}}
{"tokens":{"id":1,"first_position":0,"ids":[1,2,49],"texts":["a","\u001b","</script>"]}}
{"sequence":{"id":2,"prompt_tokens":0}}
{"deaths":{"id":1,"layer":1,"positions":[0,1],"expires_at":[2,3],"killers":[2,1],"scores":[-0.5,null]}}
{"end":{"id":1,"finish_reason":"stop","live":[3,1]}}
"#;
const PIECES: [&str; 14] = [
    "0",
    "1",
    "3",
    "4294967295",
    "18446744073709551616",
    "-1",
    "1e3",
    "[",
    "]",
    "{",
    "}",
    "\n",
    ",",
    "\"head\":1,",
];

#[test]
fn random_bytes_never_panic_the_reader() {
    dropcap_mutation::random_bytes(2000, fuzzing::trace);
}

#[test]
fn a_changed_trace_is_refused_or_written_again_as_it_was_read() {
    fuzzing::trace(VALID.as_bytes());
    dropcap_mutation::changed(8000, &[VALID], &PIECES, fuzzing::trace);
}
