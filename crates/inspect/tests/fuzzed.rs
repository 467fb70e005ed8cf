//! The fuzz body on seeded inputs.

use dropcap_inspect::fuzzing;

const VALID: &str = r#"{"header":{"version":2,"model":"m","method":"dcp","layers":2,"kv_heads":2,"granularity":"kv_head","vocabulary":50}}
{"sequence":{"id":1,"prompt_tokens":3}}
{"tokens":{"id":1,"first_position":0,"ids":[1,2,49],"texts":["a"," B","</script>"]}}
{"deaths":{"id":1,"layer":1,"head":0,"positions":[0,1],"expires_at":[2,3],"killers":[2,1],"scores":[-0.5,null]}}
{"end":{"id":1,"finish_reason":"stop","live":[6,4]}}
"#;
const PIECES: [&str; 12] =
    ["0", "1", "3", "4294967295", "1e9", "[", "]", "}", "\n", "null", "</SCRIPT>", "\"\\u003c\""];

#[test]
fn a_changed_trace_is_refused_or_becomes_a_page() {
    fuzzing::page(VALID.as_bytes());
    dropcap_mutation::changed(2000, &[VALID], &PIECES, fuzzing::page);
}
