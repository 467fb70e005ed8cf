use std::sync::Arc;

use dropcap_cache::{Lane, NEVER, PagePool};
use dropcap_kernels::{DType, PageLayout, Team};
use proptest::prelude::*;

use super::*;
use crate::conformance::{Scene, check, lifetimes};
use crate::{BirthGates, Both, Floors, HeadSet, PromptBudget, Protected, Stage, VoteGates};

const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 3, sequences: 1, prompt: 70, decoded: 20, seed: 4 };

fn gates(bias: f32) -> Action {
    let (team, mut gates) = (Team::new(1).unwrap(), VoteGates::new(2, 1));
    let matrix = [0.3, -0.5, 0.2, 0.7, 0.1, -0.4];
    for _ in 0..SCENE.layers {
        gates.push(&team, [&matrix, &matrix], &[bias], SCENE.hidden).unwrap();
    }
    Action::Vote { gates: Arc::new(gates), decides: true }
}

/// One gate for the layer, or one per head.
fn birth_gates(bias: f32, heads: usize) -> Action {
    let (team, mut gates) = (Team::new(1).unwrap(), BirthGates::new(heads));
    let matrix = [0.3, -0.5, 0.2, 0.7, 0.1, -0.4];
    for _ in 0..SCENE.layers {
        gates.push(&team, [&matrix[..heads * SCENE.hidden]], &vec![bias; heads], SCENE.hidden).unwrap();
    }
    Action::BirthGate { gates: Arc::new(gates) }
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let action = prop_oneof![
        (0..9_u32, 0..40_u32).prop_map(|(sinks, recent)| Action::Window { sinks, recent }),
        (0..9_u32, 0..40_u32).prop_map(|(sinks, recent)| Action::WindowBehind { sinks, recent }),
        (0.0..=1.0).prop_map(|keep| Action::Share { keep }),
        (-0.5..0.5_f32).prop_map(gates),
        (-0.5..0.5_f32, 1..3_usize).prop_map(|(bias, heads)| birth_gates(bias, heads)),
        Just(Action::Inherit),
        (0..9_u32, 1..90_u32).prop_map(|(sinks, tokens)| {
            Action::PromptCut(PromptCut { sinks, budget: PromptBudget::Tokens(tokens) })
        }),
    ];
    let floors = (0..4_u32, 0..9_u32).prop_map(|(sinks, recent)| Floors { sinks, recent });
    let head = || proptest::collection::vec(any::<bool>(), SCENE.kv_heads);
    let heads = proptest::option::of(proptest::collection::vec(head(), SCENE.layers).prop_map(HeadSet::new));
    let rule = (action, floors, heads).prop_map(|(action, floors, heads)| Rule { action, floors, heads });
    proptest::collection::vec(rule, 0..4)
}

/// Where an entry ends by rules that look at no hidden state, in the words of [`Action`].
fn end_by_hand(rules: &[Rule], layer: usize, head: usize, position: u32) -> u32 {
    let wished = |action: &Action| match action {
        Action::Window { sinks, recent } if position >= *sinks => position + recent,
        Action::WindowBehind { sinks, recent } if position >= *sinks => {
            // Nothing of the prompt ends within it.
            let n = SCENE.prompt as u32;
            if position < n { n.max(position + recent) } else { position + recent }
        }
        Action::Share { keep } => {
            let stay = |n: u32| (f64::from(n) * keep).floor();
            if stay(position + 1) > stay(position) { NEVER } else { position + 1 }
        }
        Action::PromptCut(cut) => {
            let (n, PromptBudget::Tokens(kept)) = (SCENE.prompt as u32, cut.budget) else { return NEVER };
            let newest = kept.max(cut.sinks + 1).min(n).saturating_sub(cut.sinks);
            if position >= cut.sinks && position < n - newest { n } else { NEVER }
        }
        _ => NEVER,
    };
    let acts = |rule: &&Rule| rule.heads.as_ref().is_none_or(|heads| heads.of(layer)[head]);
    let ends = rules.iter().filter(acts).map(|rule| wished(&rule.action).max(rule.floors.of(position)));
    ends.min().unwrap_or(NEVER)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_rules_conform_alone_and_combined(first in some_rules(), second in some_rules()) {
        let both = Both::new(Rules::new(first), Protected::new(Rules::new(second), 2, 6));
        let conforms = check(&both, &Scene { sequences: 2, ..SCENE });
        prop_assert!(conforms.is_ok(), "{:?}", conforms);
    }

    #[test]
    fn every_entry_ends_where_the_first_of_the_rules_says(rules in some_rules()) {
        let blind = |rule: &Rule| {
            !matches!(rule.action, Action::Vote { .. } | Action::BirthGate { .. } | Action::Inherit)
        };
        let rules: Vec<Rule> = rules.into_iter().filter(blind).collect();
        for (&(_, layer, head, position), life) in &lifetimes(&Rules::new(rules.clone()), &SCENE).unwrap() {
            prop_assert_eq!(life.0, end_by_hand(&rules, layer, head, position), "layer {}, head {}, position {}", layer, head, position);
        }
    }
}

#[test]
fn asking_for_rules_copies_no_gates() {
    let rules = Rules::new(vec![Rule::new(gates(0.0))]);
    let policy = Both::new(&rules, Protected::new(&rules, 1, 1));
    let [first, second] = policy.rules().unwrap() else { panic!("one rule of each") };
    let (Action::Vote { gates: first, .. }, Action::Vote { gates: second, .. }) =
        (&first.action, &second.action)
    else {
        panic!("votes")
    };
    assert!(Arc::ptr_eq(first, second));
    assert_eq!(policy.rules().map(<[Rule]>::as_ptr), policy.rules().map(<[Rule]>::as_ptr));
}

/// A lower layer may free its dead late, when a fork shares their page and the pool is full. What it tells then
/// happened before this step.
#[test]
fn a_death_that_is_told_late_ends_the_entry_above_now() {
    let pool = PagePool::new(PageLayout::new(1, 1, vec![], DType::F32).unwrap(), None);
    let mut lanes = [Lane::new(&pool)];
    lanes[0].append(0, 10, &[0.0; 10], &[0.0; 10], 1, None).unwrap();
    let spans = [Span { first_row: 0, queries: 2, first_position: 8, stage: Stage::Prompt, budget: None }];
    let died = [vec![
        Death { position: 2, expires_at: 5, killer: 5 },
        Death { position: 3, expires_at: 6, killer: 4 },
        Death { position: 4, expires_at: 9, killer: 9 },
    ]];
    let team = Team::new(1).unwrap();
    let seen = Observation {
        team: &team,
        layer: 1,
        hidden: &[],
        spans: &spans,
        died_below: &died,
        first_channel: 0,
    };
    let mut editors = [LaneEditor::new(&mut lanes, &spans[0])];
    Rules::new(vec![Rule::new(Action::Inherit)]).decide(&seen, &mut editors).unwrap();
    let lives: Vec<_> =
        lanes[0].expires_at().iter().copied().zip(lanes[0].killers().iter().copied()).collect();
    assert_eq!(lives[2..5], [(8, 5), (8, 4), (9, 9)]);
    assert!(lives[..2].iter().chain(&lives[5..]).all(|&life| life == (NEVER, NEVER)));
}
