use dropcap_policy::conformance::{Scene, lifetimes};

use crate::registry::tests::facts;

const NEVER: u32 = u32::MAX;
const PROMPT: u32 = 52;
const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 8, sequences: 1, prompt: PROMPT as usize, decoded: 30, seed: 1 };

/// Where the entry of each layer, head and position ends under the specification; layer 0's head 1 and layer 1's head 0 stream.
fn ends(arguments: &str) -> impl Iterator<Item = (bool, u32, u32)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("full_attention_heads.tsv"), "0.9\t0.1\n-0.5\t1.5\n").unwrap();
    let spec = format!("duo_attention({arguments})").parse().unwrap();
    let policy = crate::build(&spec, &facts(2, 8, Some(folder.path()))).unwrap();
    let lives = lifetimes(&policy, &SCENE).unwrap();
    lives.into_iter().map(|((_, layer, head, position), life)| (layer != head, position, life.0))
}

#[test]
fn streaming_heads_hold_sinks_and_a_window_and_the_others_everything() {
    for (streams, position, end) in ends("sinks=4, recent=8") {
        let expected = if streams && position >= 4 { position + 8 } else { NEVER };
        assert_eq!(end, expected, "streams: {streams}, position {position}");
    }
}

#[test]
fn from_the_end_of_the_prompt_on_they_hold_as_many_rows_as_the_original() {
    // mit-han-lab/duo-attention@fe93c314, one_way_reordered, sink 4, recent 8: 12 rows after the prompt and after every step,
    // the query itself beside them while it attends.
    let ends: Vec<_> = ends("sinks=4, recent=8, when=prefill_end").collect();
    for query in 0..PROMPT + 29 {
        let seen = |streaming: bool| {
            let live = |(streams, position, end): &&(bool, u32, u32)| {
                *streams == streaming && *position <= query && query < *end
            };
            ends.iter().filter(live).count() as u32 / 2
        };
        assert_eq!(seen(false), query + 1);
        assert_eq!(seen(true), if query < PROMPT { query + 1 } else { 13 }, "query {query}");
    }
}

#[test]
fn no_sparsity_keeps_everything_and_all_of_it_streams_everywhere() {
    assert!(ends("sparsity=0").all(|(_, _, end)| end == NEVER));
    assert!(ends("sparsity=1, sinks=0, recent=3").all(|(_, position, end)| end == position + 3));
}

#[test]
fn a_profile_that_is_missing_or_of_another_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |text: &str| {
        std::fs::write(folder.path().join("heads"), text).unwrap();
        let spec = "duo_attention(profile=heads)".parse().unwrap();
        crate::build(&spec, &facts(2, 8, Some(folder.path()))).unwrap_err().to_string()
    };
    assert!(refusal("1\t0\n1\t0\n1\t0\n").contains("the model has 2 layers of 2 KV heads"));
    assert!(refusal("1\t0\n1\tone\n").contains("line 2"));
    let spec = "duo_attention".parse().unwrap();
    let missing = crate::build(&spec, &facts(2, 8, Some(folder.path()))).unwrap_err().to_string();
    assert!(missing.contains("full_attention_heads.tsv"), "{missing}");
}
