use dropcap_policy::conformance::{Scene, check, lifetimes};

use super::*;

const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 12, sequences: 2, prompt: 200, decoded: 50, seed: 3 };

#[test]
fn it_conforms() {
    check(&simulate(0.2, SCENE.layers, SCENE.hidden, 8).unwrap(), &SCENE).unwrap();
}

#[test]
fn of_n_tokens_the_asked_share_stays() {
    for keep in [0.05, 0.2, 0.5, 1.0] {
        let policy = simulate(keep, SCENE.layers, SCENE.hidden, 8).unwrap();
        let lives = lifetimes(&policy, &SCENE).unwrap();
        let stay = lives.iter().filter(|(key, life)| key.0 == 0 && key.1 == 1 && life.0 == u32::MAX).count();
        // The newest token may still be there on its way out.
        let expected = (250.0 * keep).floor() as usize;
        assert!(stay == expected || stay == expected + 1, "{keep}: {stay}");
    }
}

#[test]
fn a_share_out_of_range_is_clamped() {
    for keep in [-1.0, f64::NAN, 2.0] {
        check(&simulate(keep, SCENE.layers, SCENE.hidden, 8).unwrap(), &SCENE).unwrap();
    }
}
