use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, counts};
use crate::scorers::tests::kvpress::Layer;

#[test]
fn what_attention_told_stays_as_in_kvpress() {
    let golden = Golden::open("kvpress");
    for (index, layer) in Layer::all(&golden).iter().enumerate() {
        let (queries, keys) = (layer.queries.concat(), layer.keys.concat());
        let tensors =
            Tensors { queries: &queries, keys: &keys, kv_heads: layer.heads(), width: layer.width() };
        for press in ["tova", "observed_attention"] {
            for (ratio, by_layer) in golden.json["presses"][press].as_object().unwrap() {
                let removed: f64 = ratio[1..].parse().unwrap();
                let kept = (layer.tokens() as f64 * (1.0 - removed)) as usize;
                let mut played = Played::new(&format!("{press}@{kept}"), tensors);
                played.feed(layer.tokens(), Stage::PromptEnd);
                for head in 0..layer.heads() {
                    let what = format!("{press} {ratio}, layer {index}, head {head}");
                    assert_eq!(played.held(head).0, counts(&by_layer[index][head]), "{what}");
                }
            }
        }
    }
}
