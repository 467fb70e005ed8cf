//! Texts over the wire: whole and in pieces, with everything that clients ask about them.

use crate::support::Setup;
use dropcap_engine::{Engine, EngineOptions, Output, Request, TextStream};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
const PROMPT: &str = "Once upon a time there was a";

/// The greedy text of the engine itself, and its tokens.
fn greedy(prompt: &str, max_tokens: usize) -> (String, Vec<u32>) {
    let model = crate::support::carried();
    let options = EngineOptions::default();
    let mut engine =
        Engine::new(model.decoder.clone(), model.method("dcp"), model.team.clone(), options).unwrap();
    let prompt = crate::support::tokenizer().encode_prompt(prompt).unwrap();
    let mut stream = TextStream::new(crate::support::tokenizer(), &prompt, &[0], Vec::new()).unwrap();
    engine.submit(Request { prompt, max_tokens, stop_tokens: vec![0], ..Request::default() }).unwrap();
    let (mut text, mut ids) = (String::new(), Vec::new());
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Token { token, .. } = output {
                ids.push(token);
                text.push_str(&stream.push(token).unwrap().0);
            }
        }
    }
    text.push_str(&stream.finish().unwrap().0);
    (text, ids)
}

fn text_of(chunks: &[Value]) -> String {
    let texts = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    texts.map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[test]
fn a_text_is_the_engines_whole_and_in_pieces() {
    let server = Setup::default().start();
    let (text, ids) = greedy(PROMPT, 60);
    let body = json!({"model": "default", "prompt": PROMPT, "max_tokens": 60, "temperature": 0});
    let whole = server.ask(PATH, &body);
    assert_eq!(whole["choices"][0]["text"], text.as_str());
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["completion_tokens"], ids.len());
    let kv = &whole["usage"]["kv"];
    let number = |key: &str| kv[key].as_u64().unwrap();
    assert_eq!(kv["method"], "dcp");
    assert!(number("kept_entries") < number("logical_entries"), "{kv}");
    // So short a text takes whole pages all the same.
    assert!(number("bytes") > 0 && number("dense_bytes") > 0, "{kv}");

    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let chunks = server.stream(PATH, &streamed);
    assert_eq!(text_of(&chunks), text);
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = server.stream(PATH, &streamed);
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(60)));
    assert_eq!(text_of(&chunks), text);

    // The same prompt as tokens.
    let ids = crate::support::tokenizer().encode_prompt(PROMPT).unwrap();
    let mut by_ids = body.clone();
    by_ids["prompt"] = json!([ids, ids]);
    let both = server.ask(PATH, &by_ids);
    for index in 0..2 {
        assert_eq!(both["choices"][index]["text"], text.as_str());
        assert_eq!(both["choices"][index]["index"], index);
    }
    assert_eq!(both["usage"]["prompt_tokens"], 2 * ids.len());
    server.settle();
}

#[test]
fn a_text_ends_before_a_stop_string_and_its_sequence_with_it() {
    let server = Setup::default().start();
    let (text, _) = greedy(PROMPT, 60);
    let word = text.split_whitespace().nth(6).unwrap();
    let before = &text[..text.find(word).unwrap()];
    for stop in [json!(word), json!(["\u{1F600}", word, ""])] {
        let body = json!({"prompt": PROMPT, "max_tokens": 300, "temperature": 0, "stop": stop});
        let whole = server.ask(PATH, &body);
        assert_eq!(whole["choices"][0]["text"], before);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() < 60);
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        assert_eq!(text_of(&server.stream(PATH, &streamed)), before);
    }
    server.settle();
}

#[test]
fn an_echoed_prompt_is_told_token_by_token_as_harnesses_read_it() {
    let server = Setup::default().start();
    let ids = crate::support::tokenizer().encode_prompt(PROMPT).unwrap();
    let body =
        json!({"prompt": [ids], "max_tokens": 1, "temperature": 0, "logprobs": 3, "echo": true, "seed": 1});
    let whole = server.ask(PATH, &body);
    let choice = &whole["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with(PROMPT));
    let told = &choice["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(told[list].as_array().unwrap().len(), ids.len() + 1, "{list}");
    }
    assert!(told["token_logprobs"][0].is_null() && told["top_logprobs"][0].is_null());
    for place in 1..=ids.len() {
        let logprob = told["token_logprobs"][place].as_f64().unwrap();
        let top = told["top_logprobs"][place].as_object().unwrap();
        assert_eq!(top.len(), 3);
        let largest = top.values().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
        assert!(logprob <= largest && largest <= 0.0);
        let token = told["tokens"][place].as_str().unwrap();
        assert_eq!(top.get(token).map_or(logprob, |value| value.as_f64().unwrap()), logprob);
        let start = told["text_offset"][place].as_u64().unwrap() as usize;
        let text: String = choice["text"].as_str().unwrap().chars().skip(start).collect();
        assert!(text.starts_with(token), "{token:?} at {start}");
    }
    // The generated token is the likeliest.
    let last = told["top_logprobs"][ids.len()].as_object().unwrap();
    assert!(last.values().all(|value| value.as_f64() <= told["token_logprobs"][ids.len()].as_f64()));

    let mut none = body.clone();
    none["max_tokens"] = 0.into();
    let scored = server.ask(PATH, &none);
    assert_eq!(scored["choices"][0]["text"], PROMPT);
    let lists =
        |answer: &Value| answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap().clone();
    assert_eq!(lists(&scored)[..], lists(&whole)[..ids.len()]);

    let mut streamed = body;
    streamed["stream"] = true.into();
    let chunks = server.stream(PATH, &streamed);
    assert_eq!(text_of(&chunks), choice["text"].as_str().unwrap());
    assert_eq!(chunks[0]["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), ids.len());
}

#[test]
fn choices_differ_by_their_seeds_and_come_again_with_them() {
    let server = Setup::default().start();
    let body = json!({"prompt": PROMPT, "max_tokens": 20, "temperature": 1.0, "n": 3, "seed": 11});
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let first = texts(&server.ask(PATH, &body));
    assert!(first[0] != first[1] && first[1] != first[2]);
    assert_eq!(texts(&server.ask(PATH, &body)), first);
    let mut streamed = body;
    streamed["stream"] = true.into();
    let chunks = server.stream(PATH, &streamed);
    for (index, text) in first.iter().enumerate() {
        let own = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        let own: String = own
            .filter(|choice| choice["index"] == index)
            .map(|choice| choice["text"].as_str().unwrap())
            .collect();
        assert_eq!(&own, text);
    }
}

#[test]
fn what_changes_logits_changes_the_text() {
    let server = Setup::default().start();
    let ids = greedy(PROMPT, 2).1;
    let base = json!({"prompt": PROMPT, "max_tokens": 8, "temperature": 0});
    let text = |change: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        server.ask(PATH, &body)["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let plain = text(json!({}));
    let banned = text(json!({"logit_bias": {ids[0].to_string(): -100}}));
    assert_ne!(banned, plain);
    let forced = text(json!({"logit_bias": {ids[1].to_string(): 100}, "max_tokens": 4}));
    let token = crate::support::tokenizer().decode(&[ids[1]]).unwrap();
    assert_eq!(forced, token.repeat(4));
    assert_ne!(text(json!({"frequency_penalty": 2, "max_tokens": 60})), text(json!({"max_tokens": 60})));
}

#[test]
fn the_description_names_every_route_and_texts_go_to_tokens_and_back() {
    let server = Setup::default().start();
    let described = server.get("/openapi.json").json();
    for path in [
        PATH,
        "/v1/chat/completions",
        "/v1/compress",
        "/v1/models",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
    ] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
    let tokens = server.ask("/tokenize", &json!({"prompt": PROMPT}));
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    assert_eq!(server.ask("/detokenize", &json!({"tokens": tokens["tokens"]}))["prompt"], PROMPT);
    let models = server.get("/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("default"), &json!(crate::support::carried().decoder.config().max_positions))
    );
    assert_eq!(server.get("/v1/models/default").json()["id"], "default");
    assert_eq!(server.get("/v1/models/a/b").status, 404);
    assert_eq!(server.refusal(PATH, &json!({"model": "other", "prompt": "a"})).0, 404);
}

#[test]
fn a_request_may_keep_less_than_the_server_and_is_told_so() {
    let policy = crate::support::carried().method("streaming_llm@96");
    let server = Setup { policy, ..Setup::default() }.start();
    let ask = |budget: Option<u32>| {
        let mut body = json!({"prompt": vec![7; 150], "max_tokens": 4, "ignore_eos": true});
        if let Some(budget) = budget {
            body["kv_budget"] = budget.into();
        }
        server.ask(PATH, &body)["usage"]["kv"].clone()
    };
    let (own, servers) = (ask(Some(32)), ask(None));
    assert_eq!((&own["budget"], &servers["budget"]), (&json!(32), &json!(96)));
    // The next token would have pushed one out.
    let layers = crate::support::carried().decoder.config().layers;
    assert_eq!((&own["kept_entries"], &servers["kept_entries"]), (&json!(layers * 31), &json!(layers * 95)));
    for (budget, words) in [
        (json!(97), "between 5 and 96"),
        (json!(0), "between 5 and 96"),
        (json!(1_u64 << 40), "1099511627776"),
        (json!(-1), "-1"),
    ] {
        let (status, error) = server.refusal(PATH, &json!({"prompt": "a", "kv_budget": budget}));
        assert_eq!((status, error["param"].as_str()), (400, Some("kv_budget")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    // The carried model's own method has no budget.
    let (status, error) = Setup::default().start().refusal(PATH, &json!({"prompt": "a", "kv_budget": 9}));
    assert_eq!((status, error["param"].as_str()), (400, Some("kv_budget")), "{error}");
    assert!(error["message"].as_str().unwrap().contains("has no budget"), "{error}");
}

const COMPRESS: &str = "/v1/compress";

/// Paragraphs of a few dozen tokens each.
fn paragraphs(count: usize) -> String {
    let of = |number: usize| {
        let animal = ["cat", "dog", "bird", "frog", "bear"][number % 5];
        format!("Once there was a {animal} with {number} friends. They went to the big park and played.\n\n")
    };
    (0..count).map(of).collect()
}

#[test]
fn a_text_is_made_shorter_as_the_command_does_it() {
    use dropcap_compress::{Compressed, Language, ModelJudge, longcodezip, perplexity};
    let policy = crate::support::carried().method("none");
    let server = Setup { policy: policy.clone(), ..Setup::default() }.start();
    let (text, question) = (paragraphs(30), "Who had a frog for a friend in the park?");
    let model = crate::support::carried();
    let engine = EngineOptions::default();
    let engine =
        dropcap_engine::Engine::new(model.decoder.clone(), policy, model.team.clone(), engine).unwrap();
    let positions = model.decoder.config().max_positions;
    let mut judge = ModelJudge::new(engine, crate::support::tokenizer(), positions, |_| {}).unwrap();
    let budget = "0.25".parse().unwrap();
    let same = |answer: &Value, kept: &Compressed| {
        // Through text, where numbers of the wire come from too.
        let spans: Value = serde_json::from_str(&serde_json::to_string(&kept.spans).unwrap()).unwrap();
        assert_eq!((&answer["spans"], &answer["text"]), (&spans, &json!(kept.text(&text))));
        assert_eq!(answer["tokens_before"], kept.tokens_before);
        assert_eq!(answer["tokens_after"], kept.tokens_after);
        assert_eq!(answer["judged"], kept.judged);
        assert!(kept.spans.len() > 1 && kept.tokens_after * 4 <= kept.tokens_before);
        assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize >= kept.tokens_before);
    };
    let asked = server.ask(COMPRESS, &json!({"text": text, "budget": 0.25, "instruction": question}));
    same(&asked, &longcodezip(&mut judge, &text, question, Language::Text, budget).unwrap());
    assert_eq!((&asked["method"], &asked["budget"]), (&json!("longcodezip"), &json!("0.25")));
    let asked = server.ask(COMPRESS, &json!({"text": text, "budget": "0.25"}));
    same(&asked, &perplexity(&mut judge, &text, "", budget).unwrap());
    server.settle();
}

#[test]
fn sentences_stay_by_given_vectors_and_a_text_that_fits_stays_whole() {
    let server = Setup::default().start();
    let text = "Cats sleep. Dogs bark. Cats purr. Dogs run. Birds sing.\n\n";
    let vector =
        |text: &str| json!({"text": text, "vector": if text.contains("Cats") { [1, 0] } else { [0, 1] }});
    let sentences =
        ["Cats sleep.", "Dogs bark.", "Cats purr.", "Dogs run.", "Birds sing.", "What do Cats do?"];
    let vectors: Vec<Value> = sentences.into_iter().map(vector).collect();
    let mut body = json!({
        "text": text, "budget": 0.6, "method": "context", "instruction": "What do Cats do?", "vectors": vectors, "percentile": 50,
    });
    let answer = server.ask(COMPRESS, &body);
    assert_eq!(answer["text"], "Cats sleep. Cats purr. ");
    assert_eq!(answer["spans"][0], json!({"start": 0, "end": 12, "score": 1.0}));
    assert_eq!(answer["usage"]["prompt_tokens"], 0);
    body["budget"] = json!("1K");
    let answer = server.ask(COMPRESS, &body);
    assert_eq!((&answer["text"], &answer["judged"]), (&json!(text), &json!(0)));
    body["vectors"] = json!([vector("Cats sleep."), vector("What do Cats do?")]);
    body["budget"] = json!(0.6);
    let (status, error) = server.refusal(COMPRESS, &body);
    assert_eq!((status, &error["param"]), (400, &json!("vectors")));
    assert!(error["message"].as_str().unwrap().contains("Dogs bark."), "{error}");
}

#[test]
fn what_cannot_be_made_shorter_is_refused_by_the_parameters_name() {
    let server = Setup::default().start();
    let text = paragraphs(4);
    for (key, value, words) in [
        ("budget", json!(0), "budget is 0"),
        ("budget", json!(-1), "budget is -1"),
        ("budget", json!(1.5), "budget is 1.5"),
        ("budget", json!("half"), "budget is half"),
        ("budget", json!([1]), "expected a number of tokens"),
        ("instruction", json!(" "), "give one"),
        ("instruction", json!("word ".repeat(2000)), "half of them"),
        ("method", json!("tapruning"), "unknown variant"),
        ("language", json!("cobol"), "cobol"),
        ("vectors", json!([]), "for the method context"),
        ("percentile", json!(50), "for the method context"),
        ("model", json!("other"), "no model"),
        ("prompt", json!("a"), "unknown field"),
        ("text", json!("word ".repeat(200_000)), "131072"),
    ] {
        let mut body = json!({"text": text, "budget": 0.5, "instruction": "Who?", "method": "longcodezip"});
        body[key] = value;
        let (status, error) = server.refusal(COMPRESS, &body);
        assert!(matches!(status, 400 | 404), "{key}: {status} {error}");
        assert_eq!(error["param"], key, "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    let context = json!({"text": text, "budget": 0.5, "instruction": "Who?", "method": "context"});
    for (key, value) in [
        ("vectors", json!([{"text": "a", "vector": []}])),
        ("vectors", json!([{"text": "a", "vector": [1]}, {"text": "b", "vector": [1, 2]}])),
        ("vectors", Value::Null),
        ("percentile", json!(101)),
        ("floor", json!(-2)),
        ("volume", json!(0)),
    ] {
        let mut body = context.clone();
        body["vectors"] = json!([{"text": "a", "vector": [1]}]);
        body[key] = value;
        let (status, error) = server.refusal(COMPRESS, &body);
        assert_eq!((status, &error["param"]), (400, &json!(key)), "{error}");
    }
}

#[test]
fn long_texts_hold_up_nobody_and_those_whose_clients_go_are_given_up() {
    let policy = std::sync::Arc::new(crate::support::Slow(std::time::Duration::from_millis(1)));
    let server = Setup { policy, ..Setup::default() }.start();
    let body =
        json!({"text": paragraphs(1000), "budget": 0.5, "instruction": "Who had a frog for a friend?"});
    let request = crate::support::message(COMPRESS, "", body.to_string().as_bytes());
    let begin = || {
        let mut stream = server.connect();
        std::io::Write::write_all(&mut stream, &request).unwrap();
        stream
    };
    let short = || server.post(COMPRESS, &json!({"text": "Once.", "budget": 100}));
    let mut texts = Vec::new();
    // One that comes while the short one has a place may be turned away itself.
    while short().status != 429 {
        assert!(texts.len() < 100, "all places are free again");
        texts.push(begin());
    }
    assert_eq!(short().json()["error"]["code"], "queue_full");
    let answer = server.ask(PATH, &json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true}));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    // None of them has ended meanwhile.
    assert_eq!(short().status, 429);
    drop(texts);
    server.wait_until("their places are free", || short().status == 200);
    server.settle();
}
