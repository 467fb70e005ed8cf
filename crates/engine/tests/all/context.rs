//! Where a prompt ends, and texts that are read side by side.

use crate::support::Model;
use dropcap_engine::{Engine, EngineOptions, Finished, LogProbs, Output, PromptLogProbs, Reading, Request};
use dropcap_kernels::DType;

const FOLDER: &str = "llama_kvpress/llama";
/// Cuts prompts to half of their tokens where they end.
const CUTS: &str = "streaming_llm(sinks=2, when=prefill_end)@0.5";

fn ids(model: &Model, count: usize) -> Vec<u32> {
    let vocabulary = model.decoder.config().vocabulary as u32;
    (0..count as u32).map(|i| (i * 7919 + 13) % vocabulary).collect()
}

/// What the engine makes of one request, and the log-probabilities that it tells.
fn run(model: &Model, chunk: usize, request: Request) -> (Finished, Vec<f32>) {
    let options = EngineOptions { chunk, ..EngineOptions::default() };
    let (decoder, team) = (model.decoder.clone(), model.team.clone());
    let mut engine = Engine::new(decoder, model.method(CUTS), team, options).unwrap();
    engine.submit(request).unwrap();
    let mut told = Vec::new();
    loop {
        for output in engine.step().unwrap() {
            match output {
                Output::Prompt { log_probs, .. } => told.extend(log_probs.iter().map(|token| token.log_prob)),
                Output::Finished(finished) => return (finished, told),
                Output::Token { .. } => {}
                Output::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_prompt_is_cut_where_its_context_ends_and_what_follows_stays() {
    let model = Model::open(FOLDER);
    let (prompt, layers) = (ids(&model, 40), model.decoder.config().layers as u64);
    let request = |context| Request { prompt: prompt.clone(), max_tokens: 5, context, ..Request::default() };
    // The last generated token is never fed.
    for (context, live) in [(None, 20 + 4), (Some(40), 20 + 4), (Some(24), 12 + 16 + 4), (Some(99), 20 + 4)] {
        let mut texts = Vec::new();
        for chunk in [5, 64] {
            let (finished, _) = run(&model, chunk, request(context));
            assert_eq!(finished.report.live_entries, live * layers, "{context:?} by {chunk}");
            assert_eq!(finished.report.logical_entries, 44 * layers);
            texts.push(finished.token_ids);
        }
        assert_eq!(texts[0], texts[1]);
    }
}

#[test]
fn what_follows_the_context_is_scored_under_what_was_kept() {
    let model = Model::open(FOLDER);
    let (prompt, context, policy) = (ids(&model, 40), 24, model.method(CUTS));
    let log_probs = LogProbs { prompt: Some(PromptLogProbs { from: context, top: 0 }), generated: None };
    let request = Request { prompt: prompt.clone(), log_probs, context: Some(context), ..Request::default() };
    let (_, told) = run(&model, 64, request);
    let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
    let mut reading = Reading::on_host(&model.decoder, &model.team, policy.as_ref(), &pool, prompt.len());
    let mut rows = Vec::new();
    for (part, ends) in [(&prompt[..context], true), (&prompt[context..], false)] {
        reading.feed(part, ends, 0).unwrap();
        rows.extend_from_slice(reading.logits(0..part.len()).unwrap());
    }
    let v = model.decoder.config().vocabulary;
    assert_eq!(told.len(), prompt.len() - context);
    for (position, told) in (context..).zip(told) {
        let row = &rows[(position - 1) * v..][..v];
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = f64::from(row[prompt[position] as usize]) - sum.ln();
        assert!((f64::from(told) - expected).abs() < 1e-5, "{position}: {told} {expected}");
    }
}

#[test]
fn texts_read_side_by_side_are_what_each_is_alone() {
    let model = Model::open(FOLDER);
    let text = ids(&model, 70);
    let policies = ["none", "streaming_llm(sinks=2, recent=9)"].map(|spec| model.method(spec));
    let pools =
        policies.each_ref().map(|policy| model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap());
    let mut readings: Vec<Reading<'_>> = policies
        .iter()
        .zip(&pools)
        .map(|(policy, pool)| {
            Reading::on_host(&model.decoder, &model.team, policy.as_ref(), pool, text.len())
        })
        .collect();
    let mut logits = [Vec::new(), Vec::new()];
    for part in text.chunks(32) {
        for (reading, logits) in readings.iter_mut().zip(&mut logits) {
            reading.feed(part, false, 0).unwrap();
            // In pieces, as somebody who compares takes them.
            for row in 0..part.len() {
                logits.extend_from_slice(reading.logits(row..row + 1).unwrap());
            }
        }
    }
    for ((reading, logits), policy) in readings.into_iter().zip(logits).zip(&policies) {
        let alone = model.evaluate(policy.as_ref(), &text, 32);
        assert!(logits == alone.logits, "bit for bit");
        let evaluation = reading.finish().unwrap();
        assert_eq!(evaluation.expires_at, alone.expires_at);
        assert_eq!(evaluation.report, alone.report);
    }
}

#[test]
fn a_reading_refuses_more_than_its_text_and_rows_that_it_has_not() {
    let model = Model::open(FOLDER);
    let policy = model.method("none");
    let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
    let mut reading = Reading::on_host(&model.decoder, &model.team, policy.as_ref(), &pool, 8);
    assert!(reading.feed(&[], false, 0).is_err());
    reading.feed(&ids(&model, 6), false, 2).unwrap();
    assert!(reading.logits(0..7).is_err() && reading.logits(1..3).is_err());
    assert_eq!(reading.logits(2..6).unwrap().len(), 4 * model.decoder.config().vocabulary);
    assert!(reading.feed(&ids(&model, 3), true, 0).is_err());
    reading.feed(&ids(&model, 2), true, 0).unwrap();
}
