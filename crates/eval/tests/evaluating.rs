//! Whole evaluations of the small model that the command carries.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dropcap_engine::evaluate as read_whole;
use dropcap_eval::{
    Compute, EvalError, Kind, LikelihoodTask, Method, Outcome, Progress, Recall, RecallKind, RecallTask,
    Record, Results, Subject, Task, Template, TextTask, Window, evaluate, report, summarize,
};
use dropcap_kernels::{DType, RowLoss, Team, cross_entropy};
use dropcap_methods::ModelFacts;
use dropcap_model::{Checkpoint, Decoder, Tokenizer};
use dropcap_policy::KeepAll;
use serde_json::json;

/// Log-probabilities of sums of f32 exponentials against f64.
const TOLERANCE: f64 = 1e-4;

const TEXT: &str = "Once upon a time there was a clockmaker who lived beside the river. Every evening he wound the great \
clock of the town, and every morning the baker set her ovens by it. One winter the river froze, and the clock stood still.\n\
<|endoftext|>\nThe baker slept too long. There was no bread, and nobody knew what time it was.";

fn subject(methods: &[&str]) -> Subject {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/default");
    let checkpoint = Checkpoint::open(&directory).unwrap();
    let (team, config) = (Arc::new(Team::new(2).unwrap()), checkpoint.config().clone());
    let facts = ModelFacts {
        layers: config.layers,
        hidden: config.hidden,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        family: config.family.to_string(),
        fingerprint: Some(checkpoint.fingerprint().unwrap()),
        directory: Some(directory.clone()),
    };
    let method = |spec: &&str| Method {
        name: (*spec).to_owned(),
        policy: dropcap_methods::build(&spec.parse().unwrap(), &facts).unwrap(),
    };
    Subject {
        compute: Compute::Host(Arc::new(Decoder::load(&team, &checkpoint, DType::F32).unwrap())),
        team,
        start: config.bos_token_id.or(config.eos_token_ids.first().copied()),
        stop_tokens: config.eos_token_ids.clone(),
        config,
        tokenizer: Arc::new(Tokenizer::open(&directory).unwrap()),
        template: None,
        kv_dtype: DType::F32.into(),
        kv_limit: Some(64 << 20),
        chunk: 64,
        max_batch: 8,
        methods: methods.iter().map(method).collect(),
    }
}

struct Quiet;
impl Progress for Quiet {
    fn begin(&mut self, _: &str, _: &str, _: usize, _: usize) {}
    fn advance(&mut self) {}
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn windows(results: &Results, method: &str) -> Vec<Window> {
    let mut own: Vec<&Record> = results.records().iter().filter(|record| record.method == method).collect();
    own.sort_by_key(|record| record.example);
    let window = |record: &&Record| match &record.outcome {
        Outcome::Window(window) => window.clone(),
        other => panic!("{other:?}"),
    };
    own.iter().map(window).collect()
}

/// Log-probability of each token of `ids` from `from` on, and whether it was the likeliest, the slow way.
fn log_probs(subject: &Subject, ids: &[u32], from: usize) -> Vec<(f64, bool)> {
    let Compute::Host(decoder) = &subject.compute else { panic!("on the host") };
    let pool = decoder.page_pool(&KeepAll, DType::F32, None).unwrap();
    let evaluation = read_whole(decoder, &subject.team, &KeepAll, &pool, ids, ids.len()).unwrap();
    let v = subject.config.vocabulary;
    let one = |position: usize| {
        let row = &evaluation.logits[(position - 1) * v..][..v];
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let own = row[ids[position] as usize];
        (f64::from(own) - sum.ln(), row.iter().all(|&logit| logit <= own))
    };
    (from..ids.len()).map(one).collect()
}

/// The project's cross-entropy of the logits of one pass over a whole text.
fn surprises(subject: &Subject, ids: &[u32]) -> Vec<f32> {
    let Compute::Host(decoder) = &subject.compute else { panic!("on the host") };
    let pool = decoder.page_pool(&KeepAll, DType::F32, None).unwrap();
    let mut logits = read_whole(decoder, &subject.team, &KeepAll, &pool, ids, ids.len()).unwrap().logits;
    let v = subject.config.vocabulary;
    logits.truncate((ids.len() - 1) * v);
    let mut losses = vec![RowLoss::default(); ids.len() - 1];
    cross_entropy(&subject.team, &mut logits, v, &ids[1..], None, 0.0, 1.0, &mut losses).unwrap();
    losses.iter().map(|loss| loss.cross_entropy).collect()
}

#[test]
fn a_method_that_keeps_everything_diverges_by_nothing_and_a_pruning_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let subject =
        subject(&["none", "streaming_llm(sinks=4, recent=9000)", "streaming_llm(sinks=1, recent=8)"]);
    let path = file(folder.path(), "text.txt", TEXT);
    let task = TextTask::open("text".into(), &path, &subject, 32, 0, None).unwrap();
    assert!(task.len() > 2);
    let mut results = Results::default();
    evaluate(&subject, &[Task::Text(task)], &mut results, &mut Quiet).unwrap();
    let [dense, all, pruned] = [0, 1, 2].map(|method| windows(&results, &subject.methods[method].name));
    for (dense, all) in dense.iter().zip(&all) {
        assert_eq!(dense.nats, all.nats);
        assert!(all.divergence.iter().all(|&nats| nats == 0.0));
        assert_eq!((all.same_top, all.memory.keep), (dense.nats.len(), 1.0));
    }
    assert!(pruned.iter().any(|window| window.divergence.iter().any(|&nats| nats > 1e-3)));
    assert!(pruned[0].memory.keep < 0.6, "{:?}", pruned[0].memory);
    let methods: Vec<&str> = subject.methods.iter().map(|method| &*method.name).collect();
    let lines = summarize(results.records(), &["text"], &methods);
    assert_eq!(lines.len(), 3);
    assert!(lines[2].measures.iter().any(|measure| measure.name == "KL 99 %" && measure.value > 0.0));
}

#[test]
fn every_token_of_a_text_is_predicted_once_and_bit_for_bit_as_by_a_whole_pass() {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject(&["none"]);
    let path = file(folder.path(), "text.txt", TEXT);
    let task = TextTask::open("text".into(), &path, &subject, 300, 0, None).unwrap();
    let mut results = Results::default();
    evaluate(&subject, &[Task::Text(task)], &mut results, &mut Quiet).unwrap();
    for (text, window) in TEXT.split("\n<|endoftext|>\n").zip(windows(&results, "none")) {
        let start: Vec<u32> = subject.start.into_iter().collect();
        let ids = [start, subject.tokenizer.encode(text).unwrap()].concat();
        assert_eq!(window.nats, surprises(&subject, &ids));
        for (nats, (log_prob, _)) in window.nats.iter().zip(log_probs(&subject, &ids, 1)) {
            assert!((f64::from(*nats) + log_prob).abs() < TOLERANCE, "{nats} {log_prob}");
        }
        assert_eq!(window.bytes, text.len());
    }
}

#[test]
fn choices_in_ragged_batches_score_as_each_does_alone() {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject(&["none", "dcp"]);
    let rows = [
        json!({"context": "The cat sat on the", "choices": ["mat.", "moon and sang a song."], "gold": 0}),
        json!({"context": "", "choices": ["Once upon a time", "Zebra zebra"], "gold": 0}),
        json!({"context": "Two and two are  ", "choices": ["four", "five", "a"], "gold": 0, "delimiter": ""}),
        json!({"context": "word ".repeat(1200), "choices": ["a", "b"], "gold": 1}),
    ];
    let path = file(folder.path(), "c.jsonl", &rows.each_ref().map(ToString::to_string).join("\n"));
    let task = LikelihoodTask::open("choices".into(), Kind::Choices, &path, None).unwrap();
    let mut results = Results::default();
    evaluate(&subject, &[Task::Likelihood(task)], &mut results, &mut Quiet).unwrap();
    let dense = |example: usize| {
        let is_it = |record: &&Record| record.method == "none" && record.example == example;
        &results.records().iter().find(is_it).unwrap().outcome
    };
    for (example, row) in rows.iter().enumerate().take(3) {
        let Outcome::Likelihood(scored) = dense(example) else { panic!("scored") };
        let context = row["context"].as_str().unwrap();
        for (index, choice) in row["choices"].as_array().unwrap().iter().enumerate() {
            let joined = row["delimiter"].as_str().unwrap_or(" ");
            let whole = format!("{context}{joined}{}", choice.as_str().unwrap());
            let mut ids = subject.tokenizer.encode(&whole).unwrap();
            let mut from = subject.tokenizer.encode(context.trim_end()).unwrap().len();
            if context.is_empty() {
                ids.insert(0, subject.start.unwrap());
                from = 1;
            }
            let expected = log_probs(&subject, &ids, from);
            let sum: f64 = expected.iter().map(|token| token.0).sum();
            assert!((scored.log_likelihood[index] - sum).abs() < TOLERANCE, "{whole}: {sum} {scored:?}");
            assert_eq!(scored.greedy[index], expected.iter().all(|token| token.1));
        }
    }
    // The last one does not fit: it is counted, and neither cut nor forgotten.
    assert!(matches!(dense(3), Outcome::TooLong { tokens } if *tokens > subject.config.max_positions));
    let lines = summarize(results.records(), &["choices"], &["none", "dcp"]);
    assert_eq!((lines[0].examples, &lines[0].left_out.too_long[..]), (3, &[3][..]));
}

#[test]
fn a_continuation_without_a_token_of_its_own_is_left_out_and_named_and_the_others_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject(&["none"]);
    let tokens = |text: &str| subject.tokenizer.encode(text).unwrap().len();
    // A word that is one token, and so is its beginning: what comes after that has no token.
    let words = ["there", "where", "other", "another", "before", "because", "little", "something"];
    let (begin, end) = words
        .iter()
        .flat_map(|word| (1..word.len()).map(|at| word.split_at(at)))
        .find(|(begin, end)| tokens(begin) == tokens(&format!("{begin}{end}")))
        .unwrap();
    let rows = [
        json!({"context": "One and", "choices": ["two", "three"], "gold": 0}),
        json!({"context": begin, "choices": [" was a fox", end], "gold": 0, "delimiter": ""}),
    ];
    let path = file(folder.path(), "c.jsonl", &rows.each_ref().map(ToString::to_string).join("\n"));
    let task = LikelihoodTask::open("choices".into(), Kind::Choices, &path, None).unwrap();
    let mut results = Results::default();
    evaluate(&subject, &[Task::Likelihood(task)], &mut results, &mut Quiet).unwrap();
    let outcome = |example| &results.records().iter().find(|one| one.example == example).unwrap().outcome;
    assert!(matches!(outcome(0), Outcome::Likelihood(_)));
    assert_eq!(outcome(1), &Outcome::NoToken { choice: 1 });
    let lines = summarize(results.records(), &["choices"], &["none"]);
    assert_eq!((lines[0].examples, &lines[0].left_out.no_token[..]), (1, &[1][..]));
    let table = report::markdown(&lines);
    assert!(table.contains("Left out of choices: 1 with a continuation that has no token"), "{table}");
}

/// A template that writes down what it was asked to put.
#[derive(Debug)]
struct Form(Arc<Tokenizer>, Mutex<Vec<Vec<String>>>);

impl Template for Form {
    fn encode(&self, messages: &[String]) -> Result<Vec<u32>, EvalError> {
        self.1.lock().unwrap().push(messages.to_vec());
        let said: String = messages.iter().map(|message| format!("<says> {message} <end>\n")).collect();
        Ok(self.0.encode(&format!("{said}<says>"))?)
    }
}

#[test]
fn questions_come_in_the_models_template_and_methods_prune_before_them() {
    let mut subject = subject(&["streaming_llm(sinks=1, when=prefill_end)@0.2"]);
    let form = Arc::new(Form(subject.tokenizer.clone(), Mutex::default()));
    subject.template = Some(form.clone());
    let keep = |aware| {
        let recall = Recall {
            kind: RecallKind::SecondQuestion,
            length: 200,
            depths: vec![0.5],
            facts: 2,
            prompts: 1,
            seed: 0,
            aware,
            haystack: None,
        };
        let task = RecallTask::generate("ask".into(), &recall, &subject).unwrap();
        let mut results = Results::default();
        evaluate(&subject, &[Task::Recall(task)], &mut results, &mut Quiet).unwrap();
        let Outcome::Answers(answers) = &results.records()[0].outcome else { panic!("answers") };
        assert!((150..=210).contains(&answers.tokens), "{}", answers.tokens);
        let said = form.1.lock().unwrap().last().unwrap().clone();
        assert_eq!((said.len(), &said[1]), (3, &answers.turns[0].written));
        assert!(said[0].contains("secret number") && said[0].ends_with('?'), "{said:?}");
        assert!(said[2].starts_with("Question: ") && said[2].ends_with('?'), "{said:?}");
        answers.memory.keep
    };
    assert!(keep(false) > keep(true) + 0.02, "only what precedes the question is cut");
}

#[test]
fn an_evaluation_that_was_stopped_ends_with_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let window = "streaming_llm(sinks=2, recent=40)";
    let subject = subject(&["none", window]);
    let path = file(folder.path(), "text.txt", TEXT);
    let tasks = || {
        let recall = Recall {
            kind: RecallKind::SecondQuestion,
            length: 150,
            depths: vec![0.2, 0.8],
            facts: 2,
            prompts: 4,
            seed: 3,
            aware: false,
            haystack: None,
        };
        [
            Task::Text(TextTask::open("text".into(), &path, &subject, 32, 0, None).unwrap()),
            Task::Recall(RecallTask::generate("ask".into(), &recall, &subject).unwrap()),
        ]
    };
    let measure = |directory: &Path| {
        let mut results = Results::open(directory, &json!({"seed": 3})).unwrap();
        evaluate(&subject, &tasks(), &mut results, &mut Quiet).unwrap();
        // As printed: a number that went through JSON may differ in its last bit. What is held is left out: texts that are read at
        // the same time share the pages of their beginnings.
        let table = report::markdown(&summarize(results.records(), &["text", "ask"], &["none", window]));
        let rows = table.lines().map(|line| line.split('|').enumerate().filter(|(column, _)| *column != 6));
        rows.map(|row| row.map(|(_, cell)| cell).collect::<Vec<_>>().join("|")).collect::<Vec<_>>()
    };
    let directory = folder.path().join("out");
    let whole = measure(&directory);
    let log = directory.join("examples.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 10);
    // Every third example was not reached, and the last line was being written.
    let kept: Vec<&str> =
        lines.iter().enumerate().filter(|(i, _)| i % 3 != 1).map(|(_, line)| *line).collect();
    fs::write(&log, format!("{}\n{{\"task\":\"te", kept.join("\n"))).unwrap();
    assert_eq!(measure(&directory), whole);
}

#[test]
fn a_method_that_cuts_prompts_is_blind_behind_the_context_and_not_before_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let subject = subject(&["none", "streaming_llm(sinks=1, when=prefill_end)@0.2"]);
    let path = file(folder.path(), "text.txt", TEXT);
    for (context, differs) in [(0, false), (24, true)] {
        let task = TextTask::open("text".into(), &path, &subject, 32, context, None).unwrap();
        let mut results = Results::default();
        evaluate(&subject, &[Task::Text(task)], &mut results, &mut Quiet).unwrap();
        for window in windows(&results, &subject.methods[1].name) {
            assert!(window.first >= context);
            assert_eq!(window.divergence.iter().any(|&nats| nats > 1e-4), differs, "{context}: {window:?}");
        }
    }
    // A question outside the prompt is not cut, and one inside is.
    let ask = |aware| {
        let recall = Recall {
            kind: RecallKind::Needle,
            length: 200,
            depths: vec![0.1],
            facts: 1,
            prompts: 1,
            seed: 0,
            aware,
            haystack: None,
        };
        let task = RecallTask::generate("needle".into(), &recall, &subject).unwrap();
        let mut results = Results::default();
        evaluate(&subject, &[Task::Recall(task)], &mut results, &mut Quiet).unwrap();
        match &results.records()[1].outcome {
            Outcome::Answers(answers) => answers.memory.keep,
            other => panic!("{other:?}"),
        }
    };
    assert!(ask(false) > ask(true) + 0.02, "the question of about twenty tokens stays whole");
}

#[test]
fn a_context_is_as_long_as_asked_with_its_answer_at_its_depth() {
    let subject = subject(&["none"]);
    for (_, kind) in RecallKind::ALL {
        let recall = Recall {
            kind,
            length: 250,
            depths: vec![0.0, 1.0],
            facts: 3,
            prompts: 2,
            seed: 1,
            aware: false,
            haystack: None,
        };
        let task = RecallTask::generate(format!("{kind:?}"), &recall, &subject).unwrap();
        let mut results = Results::default();
        evaluate(&subject, &[Task::Recall(task)], &mut results, &mut Quiet).unwrap();
        for record in results.records() {
            let Outcome::Answers(answers) = &record.outcome else { panic!("{record:?}") };
            // A little less than asked, because sentences are whole; joints of sentences may save a token each.
            let range = if kind == RecallKind::MultiTurn { 40..=250 } else { 190..=260 };
            assert!(range.contains(&answers.tokens), "{kind:?}: {} tokens", answers.tokens);
            assert!(answers.turns.iter().all(|turn| !turn.expected.is_empty()));
            assert_eq!(answers.depth, if record.example == 0 { 0.0 } else { 1.0 });
        }
    }
}

#[test]
fn lengths_that_cannot_be_are_refused_before_anything_runs() {
    let subject = subject(&["none"]);
    let recall = |length| Recall {
        kind: RecallKind::Needle,
        length,
        depths: vec![0.5],
        facts: 1,
        prompts: 1,
        seed: 0,
        aware: false,
        haystack: None,
    };
    let short = RecallTask::generate("needle 10".into(), &recall(10), &subject);
    assert!(matches!(short, Err(EvalError::TooShort { .. })));
    let long = RecallTask::generate("needle".into(), &recall(subject.config.max_positions), &subject);
    assert!(matches!(long, Err(EvalError::TooLong { .. })), "{long:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "t.txt", TEXT);
    let window = TextTask::open("t".into(), &path, &subject, subject.config.max_positions + 1, 0, None);
    assert!(matches!(window, Err(EvalError::TooLong { .. })));
}
