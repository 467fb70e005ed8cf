use super::*;
use crate::record::Answer;

fn record(method: &str, example: usize, outcome: Outcome) -> Record {
    Record { task: "task".into(), method: method.into(), example, outcome }
}

fn value<'a>(lines: &'a [Line], method: &str, name: &str) -> &'a Measure {
    let line = lines.iter().find(|line| line.method == method).unwrap();
    line.measures.iter().find(|measure| measure.name == name).unwrap()
}

fn scored(log_likelihood: &[f64], characters: &[usize]) -> Outcome {
    Outcome::Likelihood(Likelihood {
        log_likelihood: log_likelihood.to_vec(),
        characters: characters.to_vec(),
        greedy: vec![false; characters.len()],
        memory: Memory { keep: 0.5, held_bytes: 10, dense_bytes: 20 },
        gold: 0,
    })
}

#[test]
fn accuracies_are_counted_and_compared_example_by_example() {
    let records = [
        record("none", 0, scored(&[-1.0, -2.0], &[1, 9])),
        record("none", 1, scored(&[-1.0, -2.0], &[5, 5])),
        record("none", 2, Outcome::TooLong { tokens: 99 }),
        record("none", 3, Outcome::NoToken { choice: 1 }),
        record("dcp", 1, scored(&[-3.0, -2.0], &[5, 5])),
        record("dcp", 0, scored(&[-1.0, -2.0], &[1, 9])),
    ];
    let lines = summarize(&records, &["task"], &["none", "dcp"]);
    assert_eq!((lines[0].examples, lines[0].left_out.count(), lines[1].examples), (2, 2, 2));
    assert_eq!(lines[0].left_out, LeftOut { too_long: vec![2], no_token: vec![3] });
    assert_eq!(value(&lines, "none", "acc").value, 1.0);
    assert_eq!(value(&lines, "none", "acc_norm").value, 0.5);
    let pruned = value(&lines, "dcp", "acc");
    assert_eq!((pruned.value, pruned.to_dense), (0.5, Some((-0.5, 0.5))));
    assert_eq!((lines[1].keep, lines[1].held_bytes), (0.5, 10.0));
}

#[test]
fn a_text_has_the_perplexity_of_all_its_tokens_and_each_position_its_own() {
    let ln = |x: f32| x.ln();
    let window = |first, nats: Vec<f32>, divergence| {
        let keep_by_lane = vec![vec![0.25, 0.75]];
        Outcome::Window(Window {
            first,
            nats,
            divergence,
            bytes: 8,
            same_top: 1,
            keep_by_lane,
            ..Window::default()
        })
    };
    let records = [
        record("none", 0, window(0, vec![ln(2.0); 4], vec![])),
        record("none", 1, window(2, vec![ln(8.0); 2], vec![])),
        record("dcp", 0, window(0, vec![ln(4.0); 4], vec![0.0, 1.0, 2.0, 3.0])),
        record("dcp", 1, window(2, vec![ln(8.0); 2], vec![4.0, 5.0])),
    ];
    let lines = summarize(&records, &["task"], &["none", "dcp"]);
    let near = |measure: &Measure, expected: f64| {
        assert!((measure.value - expected).abs() < 1e-5, "{measure:?} is not {expected}");
    };
    // (4 ln 2 + 2 ln 8) / 6 is ln of 2^(10/6).
    near(value(&lines, "none", "perplexity"), 2_f64.powf(10.0 / 6.0));
    near(value(&lines, "none", "bits per byte"), 10.0 / 16.0);
    near(value(&lines, "none", "perplexity at 0 to 0"), 2.0);
    near(value(&lines, "none", "perplexity at 2 to 2"), 4.0);
    near(value(&lines, "dcp", "KL mean"), 2.5);
    near(value(&lines, "dcp", "KL median"), 2.5);
    near(value(&lines, "dcp", "same top token"), 2.0 / 6.0);
    let (difference, _) = value(&lines, "dcp", "loss").to_dense.unwrap();
    assert!((difference - 2_f64.ln() / 2.0).abs() < 1e-6, "{difference}");
    let (difference, _) = value(&lines, "dcp", "perplexity").to_dense.unwrap();
    // (4 ln 4 + 2 ln 8) / 6 is ln of 2^(14/6).
    assert!((difference - 2_f64.powf(14.0 / 6.0) + 2_f64.powf(10.0 / 6.0)).abs() < 1e-4, "{difference}");
    assert_eq!(lines[0].keep_by_lane, [[0.25, 0.75]]);
    assert!(lines[0].measures.iter().all(|measure| !measure.name.starts_with("KL")));
}

#[test]
fn answers_are_told_apart_by_turn_and_depth() {
    let answers = |depth, shares: &[f64]| {
        let turns = shares.iter().map(|&share| Answer { share, ..Answer::default() }).collect();
        Outcome::Answers(Answers { depth, turns, ..Answers::default() })
    };
    let records =
        [record("none", 0, answers(0.1, &[1.0, 1.0])), record("none", 1, answers(0.9, &[1.0, 0.0]))];
    let lines = summarize(&records, &["task"], &["none"]);
    assert_eq!(value(&lines, "none", "right, question 1").value, 1.0);
    assert_eq!(value(&lines, "none", "right, question 2").value, 0.5);
    assert_eq!(value(&lines, "none", "all right, depth 0.9").value, 0.0);
    assert!(value(&lines, "none", "right, question 1").interval.unwrap().0 < 0.5);
}
