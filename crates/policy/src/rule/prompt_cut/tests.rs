use proptest::prelude::*;

use super::*;

#[test]
fn a_share_means_the_decimal_that_was_written() {
    for percent in 1..=100_u32 {
        let share = format!("{}.{:02}", percent / 100, percent % 100).parse().unwrap();
        for n in 0..3000 {
            let exact = (n * percent / 100).max(5).min(n);
            assert_eq!(PromptBudget::Share(share).kept(n, 4), exact, "{percent} % of {n}");
        }
    }
}

#[test]
fn short_prompts_lose_nothing() {
    for n in 0..=5 {
        assert_eq!(PromptBudget::Share(0.01).kept(n, 4), n);
        assert_eq!(PromptBudget::Tokens(1).kept(n, 4), n);
    }
    assert_eq!(PromptBudget::Tokens(512).kept(511, 4), 511);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_prompt_keeps_at_least_its_sinks_and_newest_token_and_at_most_itself(
        n in any::<u32>(), sinks in any::<u32>(), share in any::<f64>(), tokens in any::<u32>(),
    ) {
        for budget in [PromptBudget::Share(share), PromptBudget::Tokens(tokens)] {
            let kept = budget.kept(n, sinks);
            prop_assert!(kept <= n && kept >= n.min(sinks.saturating_add(1)));
            let dropped = PromptCut { sinks, budget }.dropped(n, None);
            prop_assert_eq!(dropped.len(), (n - kept) as usize);
            prop_assert!(dropped.is_empty() || dropped.start == sinks);
        }
    }
}
