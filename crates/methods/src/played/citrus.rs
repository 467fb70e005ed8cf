use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, count, counts};

/// The stand-in model of the vectors: every token has fixed queries and keys.
const D: usize = 8;
const VOCABULARY: usize = 96;

/// Rows of `ids` in one layer, `[heads, n, d]`.
fn rows(table: &[f32], layer: usize, heads: usize, ids: &[usize]) -> Vec<f32> {
    let row = |head: usize, id: usize| &table[((layer * VOCABULARY + id) * heads + head) * D..][..D];
    (0..heads).flat_map(|head| ids.iter().flat_map(move |&id| row(head, id))).copied().collect()
}

#[test]
fn citrus_selects_chunk_by_chunk_as_the_original() {
    let golden = Golden::open("citrus");
    let (queries, keys) = (golden.floats("table.q"), golden.floats("table.k"));
    for (name, case) in golden.cases("standard") {
        let (context, instruction) = (counts(&case["context"]), counts(&case["instruction"]));
        let ids = [context.as_slice(), &instruction].concat();
        let spec = format!("citrus(chunk={})@{}", count(&case["chunk_size"]), count(&case["k"]));
        for layer in 0..2 {
            let (queries, keys) = (rows(&queries, layer, 4, &ids), rows(&keys, layer, 2, &ids));
            let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: 2, width: D };
            for chunk in [context.len(), 33, 1] {
                let mut played = Played::new(&spec, tensors);
                for part in context.chunks(chunk) {
                    let end = played.tokens() + part.len() == context.len();
                    played.feed(part.len(), if end { Stage::PromptEnd } else { Stage::Prompt });
                }
                // The original runs its instruction twice; the second time there is nothing left to drop.
                played.feed(instruction.len(), Stage::PromptEnd);
                let held: Vec<usize> = played.held(0).0.into_iter().map(|place| ids[place]).collect();
                assert_eq!(held, counts(&case["final"][layer]), "{name}, layer {layer}, chunks of {chunk}");
            }
        }
    }
}
