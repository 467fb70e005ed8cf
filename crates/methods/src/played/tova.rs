use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, count, places};

#[test]
fn tova_keeps_after_every_step_what_the_original_keeps() {
    let golden = Golden::open("tova");
    let (prompt, tokens) = (32, 46);
    for (name, case) in golden.cases("") {
        let kind = name.split('.').next().unwrap();
        let (queries, keys) = (golden.floats(&format!("{kind}.q")), golden.floats(&format!("{kind}.k")));
        let positions = golden.integers(&format!("{name}.kept"));
        let width = golden.shape(&format!("{name}.kept"))[1];
        let kv_heads = count(&case["kv_heads"]);
        let spec = format!("tova(recent=0, when=every_query)@{}", count(&case["cache_size"]));
        let mut played = Played::new(&spec, Tensors { queries: &queries, keys: &keys, kv_heads, width: 16 });
        for step in 0..=tokens - prompt {
            let (count, stage) = if step == 0 { (prompt, Stage::PromptEnd) } else { (1, Stage::Behind) };
            played.feed(count, stage);
            assert_eq!(played.held(0).0, places(&positions[step * width..][..width]), "{name}, step {step}");
        }
    }
}
