use dropcap_policy::Stage;

use super::{Played, Tensors};
use crate::golden::{Golden, count, places};

const D: usize = 16;

#[test]
fn nacl_keeps_sinks_recent_the_best_of_its_proxies_and_as_many_drawn_as_the_original() {
    let golden = Golden::open("nacl");
    for (name, case) in golden.cases("case") {
        let setting = |name: &str| count(&case[name]);
        let (n, heads, proxies) = (setting("n"), setting("heads"), setting("proxy_tokens"));
        let (sinks, recent, top) = (setting("sink_tokens"), setting("recent"), setting("top"));
        let (total, drawn) = (setting("total"), setting("random"));
        let keys = golden.floats(&format!("{name}.k"));
        // Only the proxies' queries are told.
        let mut queries = vec![0.0; heads * n * D];
        let told = golden.floats(&format!("{name}.q_proxy"));
        for (all, told) in queries.chunks_exact_mut(n * D).zip(told.chunks_exact(proxies * D)) {
            all[(n - proxies) * D..].copy_from_slice(told);
        }
        let tensors = Tensors { queries: &queries, keys: &keys, kv_heads: heads, width: D };
        let held = |chance: f64, budget: usize| {
            let settings = format!("proxies={proxies}, sinks={sinks}, recent={recent}, chance={chance}");
            let mut played = Played::new(&format!("nacl({settings})@{budget}"), tensors);
            played.feed(n, Stage::PromptEnd);
            (0..heads).map(|head| played.held(head).0).collect::<Vec<_>>()
        };
        let best = golden.integers(&format!("{name}.top"));
        let certain = |head: usize| {
            let mut all = places(&best[head * top..][..top]);
            all.extend((0..sinks).chain(n - recent..n));
            all.sort_unstable();
            all
        };
        for (head, held) in held(0.0, total - drawn).into_iter().enumerate() {
            assert_eq!(held, certain(head), "{name}, head {head}");
        }
        // A little more than the share, for the rounding down.
        let chance = (drawn as f64 + 0.5) / (top + drawn) as f64;
        for (head, held) in held(chance, total).into_iter().enumerate() {
            assert_eq!(held.len(), total, "{name}, head {head}");
            assert!(certain(head).iter().all(|place| held.contains(place)), "{name}, head {head}: {held:?}");
        }
    }
}
