//! Requests that have broken other servers. Each is refused with a status and a reason, and the next request is served.

use std::io::{Read, Write};
use std::time::Duration;

use crate::support::{Answer, Running, Setup, Slow, message};
use dropcap_engine::EngineOptions;
use dropcap_server::ServerOptions;
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A server works on as if nothing had been.
fn still_serves(server: &Running) {
    let answer = server.ask(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 2}));
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    server.settle();
}

fn with(key: &str, value: Value) -> Value {
    let mut body = json!({"prompt": "Once", "max_tokens": 2});
    body[key] = value;
    body
}

#[test]
fn numbers_beyond_their_ranges_are_refused_by_name_and_value() {
    let server = Setup::default().start();
    for (key, values) in [
        ("max_tokens", vec![json!(-1), json!(1.5), json!("9"), json!([]), json!(0)]),
        ("n", vec![json!(0), json!(-1), json!(129), json!(u64::MAX)]),
        ("best_of", vec![json!(2), json!(1_000_000)]),
        ("logprobs", vec![json!(-1), json!(21), json!(1_000_000_000)]),
        ("temperature", vec![json!(-0.1), json!(1e300), json!("hot")]),
        ("top_p", vec![json!(0), json!(1.01), json!(-1)]),
        ("top_k", vec![json!(-2), json!(0.5)]),
        ("min_p", vec![json!(-0.01), json!(1.5)]),
        ("frequency_penalty", vec![json!(2.1), json!(-3), json!(1e39)]),
        ("presence_penalty", vec![json!(-2.1)]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!(1e30)]),
        ("seed", vec![json!(1e30), json!("1")]),
        ("logit_bias", vec![json!({"x": 1}), json!({"1": 101}), json!({"-1": 1}), json!([1])]),
        ("stop", vec![json!(vec!["x"; 17]), json!("x".repeat(1025)), json!([1])]),
        ("stream_options", vec![json!({"include_usage": true}), json!(1)]),
        ("suffix", vec![json!("x")]),
        ("prompt_logprobs", vec![json!(-1), json!(1)]),
        ("unheard_of", vec![json!(1)]),
    ] {
        for value in values {
            let (status, error) = server.refusal(COMPLETIONS, &with(key, value.clone()));
            assert_eq!(status, 400, "{key} = {value}: {error}");
            assert_eq!(error["type"], "invalid_request_error");
            assert_eq!(error["param"], key, "{value}: {error}");
            assert!(error["message"].as_str().unwrap().contains(key), "{error}");
        }
    }
    let many: serde_json::Map<String, Value> = (0..2000).map(|id| (id.to_string(), json!(0))).collect();
    assert_eq!(server.refusal(COMPLETIONS, &with("logit_bias", many.into())).0, 400);
    // More than the model has positions is capped there, as documented.
    for most in [json!(1u64 << 31), json!(1_000_000_000_000u64), json!(u64::MAX)] {
        let mut body = with("max_tokens", most);
        body["stop"] = json!(["e", "a"]);
        assert_eq!(server.ask(COMPLETIONS, &body)["choices"][0]["finish_reason"], "stop");
    }
    still_serves(&server);
}

#[test]
fn prompts_that_are_no_prompts_are_refused() {
    let server = Setup::default().start();
    let config = crate::support::carried().decoder.config();
    for (prompt, param) in [
        (json!([]), None),
        (json!([[]]), None),
        (json!([config.vocabulary]), Some("prompt")),
        (json!([1_000_000_000]), Some("prompt")),
        (json!([-1]), None),
        (json!([1.5]), None),
        (json!([["a"]]), None),
        (json!({"a": 1}), None),
        (json!(vec!["a"; 129]), Some("n")),
        (json!(vec![7; config.max_positions + 1]), Some("prompt")),
    ] {
        let answer = server.post(COMPLETIONS, &json!({"prompt": prompt, "max_tokens": 1}));
        // An empty list of tokens begins with the model's start token, as an empty text does.
        if prompt == json!([]) || prompt == json!([[]]) {
            assert!(answer.status == 200 || answer.status == 400);
            continue;
        }
        assert_eq!(answer.status, 400, "{prompt}: {}", answer.text());
        if let Some(param) = param {
            assert_eq!(answer.json()["error"]["param"], param, "{prompt}");
        }
    }
    let long = json!({"prompt": "word ".repeat(2000), "max_tokens": 1});
    let (status, error) = server.refusal(COMPLETIONS, &long);
    assert_eq!((status, error["code"].as_str()), (400, Some("context_length_exceeded")));
    let words = error["message"].as_str().unwrap();
    assert!(words.contains(&config.max_positions.to_string()) && words.contains("tokens"), "{words}");
    assert_eq!(server.ask(COMPLETIONS, &json!({"prompt": "", "max_tokens": 1}))["usage"]["prompt_tokens"], 1);
    still_serves(&server);
}

#[test]
fn texts_that_tokenizers_choke_on_are_refused_for_their_length_and_hold_nobody_up() {
    let server = Setup::default().start();
    let one_of_each = ('!'..='~').collect::<String>();
    for unit in ["a", "^", " ", "\u{200b}", "<|endoftext|>", &one_of_each, "🏳️‍🌈"] {
        let text = unit.repeat(1_000_000 / unit.len());
        for (path, body) in [
            (COMPLETIONS, json!({"prompt": text, "max_tokens": 1})),
            (CHAT, json!({"messages": [{"role": "user", "content": text}], "max_tokens": 1})),
        ] {
            let answer = server.post(path, &body);
            // A template may strip white space, and then nothing of the text is left.
            let is_nothing = path == CHAT && unit.trim().is_empty() && answer.status == 200;
            assert!(answer.status == 400 || is_nothing, "{path} {unit:?}: {}", answer.text());
        }
    }
    let server_limit = json!({"prompt": "a".repeat(10_000_000), "max_tokens": 1});
    assert_eq!(server.refusal(COMPLETIONS, &server_limit).0, 413);
    still_serves(&server);
}

#[test]
fn conversations_that_are_none_are_refused() {
    let server = Setup::default().start();
    let message = |role: &str, content: Value| json!([{"role": role, "content": content}]);
    for messages in [
        json!([]),
        json!("hello"),
        message("wizard", json!("a")),
        message("user", Value::Null),
        message("user", json!([{"type": "image_url", "image_url": {"url": "http://x"}}])),
        message("user", json!(7)),
        json!([{"role": "user", "content": "a", "color": "red"}]),
        Value::Array(vec![json!({"role": "user", "content": "a"}); 100_000]),
    ] {
        let (status, error) = server.refusal(CHAT, &json!({"messages": messages}));
        assert_eq!(status, 400, "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    for (key, value) in [
        ("response_format", json!({"type": "json_object"})),
        ("response_format", json!({"type": "json_schema", "json_schema": {}})),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({"type": "function"})),
        ("top_logprobs", json!(3)),
        ("top_logprobs", json!(21)),
        ("top_logprobs", json!(u64::MAX)),
        ("top_logprobs", json!(-1)),
        ("chat_template_kwargs", json!({"messages": []})),
        ("tools", json!([{"type": "x".repeat(300_000)}])),
    ] {
        let mut body = json!({"messages": message("user", json!("a")), "max_tokens": 1});
        body[key] = value;
        let (status, error) = server.refusal(CHAT, &body);
        assert_eq!((status, error["param"].as_str()), (400, Some(key)), "{error}");
    }
    still_serves(&server);
}

#[test]
fn bodies_that_are_no_json_are_refused() {
    let server = Setup::default().start();
    let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{\"prompt\": \"a\", \"prompt\": \"b\"}",
        b"{\"prompt\": \"\\ud800\"}",
        b"{\"prompt\": \"\xff\xfe\"}",
        b"{\"temperature\": NaN}",
        b"{\"temperature\": 1e999}",
        b"{\"prompt\": \"a\"} trailing",
        b"\0\0\0\0",
        deep.as_bytes(),
    ] {
        for path in [COMPLETIONS, CHAT, "/tokenize", "/detokenize"] {
            let answer = server.post_bytes(path, body);
            assert_eq!(answer.status, 400, "{path}: {}", String::from_utf8_lossy(body));
            assert!(answer.json()["error"]["message"].is_string());
        }
    }
    // What is odd but a text is one.
    for text in ["\0", "\u{200b}\u{202e}", "<|endoftext|>", "\u{fdd0}", "🏳️‍🌈"] {
        server.ask(COMPLETIONS, &with("prompt", json!(text)));
    }
    still_serves(&server);
}

#[test]
fn a_body_has_a_bound_a_kind_and_a_time() {
    let options = ServerOptions {
        max_body: 1 << 16,
        body_timeout: Duration::from_millis(200),
        ..ServerOptions::default()
    };
    let server = Setup { options, ..Setup::default() }.start();
    let long = json!({"prompt": "a".repeat(1 << 17)}).to_string();
    assert_eq!(server.post_bytes(COMPLETIONS, long.as_bytes()).status, 413);
    let chunk = format!("{:x}\r\n{}\r\n0\r\n\r\n", long.len(), long);
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(server.raw(format!("{head}{chunk}").as_bytes()).status, 413);
    let zipped = message(COMPLETIONS, "Content-Encoding: gzip\r\n", b"\x1f\x8b");
    assert_eq!(server.raw(&zipped).status, 415);
    let form = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(server.raw(form).status, 415);
    // A body that never ends, and one that comes too slowly.
    let slow = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{\"prompt\"";
    assert_eq!(server.raw(slow).status, 408);
    still_serves(&server);
}

#[test]
fn bodies_that_fill_their_memory_turn_others_away_until_they_are_done() {
    let options = ServerOptions { max_bodies: 1000, ..ServerOptions::default() };
    let server = Setup { options, ..Setup::default() }.start();
    let body = json!({"prompt": "Once", "max_tokens": 2, "stop": ["x".repeat(600)]}).to_string();
    let request = message(COMPLETIONS, "", body.as_bytes());
    // All but the last byte has come, and stays: unless the request beside it was first, and this one was turned away.
    let mut slow = server.connect();
    let mut patience = Duration::from_millis(20);
    loop {
        slow.write_all(&request[..request.len() - 1]).unwrap();
        std::thread::sleep(patience);
        let answer = server.post_bytes(COMPLETIONS, body.as_bytes());
        if answer.status == 429 {
            assert_eq!(answer.json()["error"]["code"], "bodies_full");
            assert!(answer.header("retry-after").is_some());
            break;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        patience *= 2;
        assert!(patience < Duration::from_secs(60), "there is room all the time");
        slow = server.connect();
    }
    assert!(server.metric("dropcap_admission_rejected_total") >= 1.0);
    // Small ones find theirs beside it.
    server.ask(COMPLETIONS, &json!({"prompt": "Once", "max_tokens": 2}));
    slow.write_all(&request[request.len() - 1..]).unwrap();
    assert_eq!(Answer::read(slow).status, 200);
    // Whoever goes in the midst of a body leaves its room behind.
    for _ in 0..3 {
        let mut gone = server.connect();
        gone.write_all(&request[..request.len() - 1]).unwrap();
        drop(gone);
        server.wait_until("there is room", || server.post_bytes(COMPLETIONS, body.as_bytes()).status == 200);
    }
    still_serves(&server);
}

#[test]
fn heads_have_bounds_and_a_time() {
    let options = ServerOptions { head_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    let server = Setup { options, ..Setup::default() }.start();
    let wide = format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: a\r\n".repeat(10_000));
    for head in [wide, many] {
        let status = server.raw(head.as_bytes()).status;
        assert!(status == 431 || status == 0, "{status}");
    }
    for head in ["GARBAGE\r\n\r\n", "GET /health HTTP/9.9\r\n\r\n", "GET  HTTP/1.1\r\n\r\n"] {
        let status = server.raw(head.as_bytes()).status;
        assert!(status == 400 || status == 0, "{head:?}: {status}");
    }
    // A head that stops, and a connection that says nothing, are closed.
    for bytes in [&b"GET /health HTTP/1.1\r\nHo"[..], b""] {
        let mut stream = server.connect();
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert_eq!(server.raw(b"DELETE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").status, 405);
    assert_eq!(server.get("/v1/nothing").status, 404);
    assert_eq!(server.get("/../etc/passwd").status, 404);
    still_serves(&server);
}

#[test]
fn connections_beyond_the_bound_are_turned_away_and_room_comes_back() {
    let options = ServerOptions { max_connections: 8, ..ServerOptions::default() };
    let server = Setup { options, ..Setup::default() }.start();
    // One that was closed may count a moment longer, so connections are opened until one is turned away.
    let open = std::cell::RefCell::new(Vec::new());
    server.wait_until("there is no room", || {
        let mut stream = server.connect();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut status = [0; 12];
        match stream.read_exact(&mut status) {
            Ok(()) => status == *b"HTTP/1.1 503",
            Err(_) => {
                open.borrow_mut().push(stream);
                false
            }
        }
    });
    assert!(open.borrow().len() >= 7, "{} of 8 were let in", open.borrow().len());
    drop(open);
    server.wait_until("there is room again", || server.get("/health").status == 200);
    still_serves(&server);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let engine = EngineOptions { max_batch: 1, max_waiting: Some(1), ..EngineOptions::default() };
    let policy = std::sync::Arc::new(Slow(Duration::from_millis(2)));
    let server = Setup { engine, policy, ..Setup::default() }.start();
    let long = json!({"prompt": "Once", "max_tokens": 500, "ignore_eos": true, "stream": true}).to_string();
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(&message(COMPLETIONS, "", long.as_bytes())).unwrap();
            let mut first = [0; 64];
            let _ = stream.read(&mut first).unwrap();
            stream
        })
        .collect();
    let answer = server.post(COMPLETIONS, &json!({"prompt": ["a", "b", "c"], "max_tokens": 2}));
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    drop(held);
    server.wait_until("there is room", || {
        server.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1})).status == 200
    });
    still_serves(&server);
}

#[test]
fn a_text_that_can_never_fit_is_refused_with_both_numbers() {
    let model = crate::support::carried();
    let policy = model.method("none");
    let pool = model.decoder.page_pool(policy.as_ref(), dropcap_kernels::DType::F32, None).unwrap();
    let page = pool.layout().bytes();
    let layers = model.decoder.config().layers;
    // Two pages for each layer.
    let engine = EngineOptions { kv_limit: Some(2 * layers * page), ..EngineOptions::default() };
    let server = Setup { policy, engine, ..Setup::default() }.start();
    let (status, error) = server.refusal(COMPLETIONS, &json!({"prompt": vec![7; 65], "max_tokens": 1}));
    assert_eq!((status, error["code"].as_str()), (400, Some("context_length_exceeded")));
    let words = error["message"].as_str().unwrap();
    let (needed, room) = (format!("{} pages", 3 * layers), format!("room for {} pages", 2 * layers));
    assert!(words.contains(&needed) && words.contains(&room), "{words}");
    // One that outgrows the memory is given as far as it came, and says why.
    let answer =
        server.ask(COMPLETIONS, &json!({"prompt": vec![7; 40], "max_tokens": 100, "ignore_eos": true}));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(choice["finish_details"].as_str().unwrap().contains("out of memory"), "{choice}");
    still_serves(&server);
}
