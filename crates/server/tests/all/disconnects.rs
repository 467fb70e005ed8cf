//! Clients that go: their memory is free with the next step.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::support::{Setup, Slow, message};
use dropcap_engine::EngineOptions;
use dropcap_server::ServerOptions;
use serde_json::json;

const PATH: &str = "/v1/completions";

#[test]
fn whoever_goes_at_whatever_stage_leaves_nothing_behind() {
    let engine = EngineOptions { chunk: 16, max_batch: 2, ..EngineOptions::default() };
    let server = Setup { engine, ..Setup::default() }.start();
    let long =
        json!({"prompt": vec![7; 400], "max_tokens": 100, "ignore_eos": true, "stream": true}).to_string();
    let request = message(PATH, "", long.as_bytes());
    let whole = json!({"prompt": vec![7; 400], "max_tokens": 100, "ignore_eos": true}).to_string();
    let whole = message(PATH, "", whole.as_bytes());
    for round in 0..12 {
        let mut stream = server.connect();
        match round % 6 {
            // In the midst of the head, of the body, of the prompt, of the queue.
            0 => stream.write_all(&request[..20]).unwrap(),
            1 => stream.write_all(&request[..request.len() - 5]).unwrap(),
            2 => stream.write_all(&whole).unwrap(),
            3 => {
                let others: Vec<_> = (0..4)
                    .map(|_| {
                        let mut other = server.connect();
                        other.write_all(&request).unwrap();
                        other
                    })
                    .collect();
                stream.write_all(&request).unwrap();
                drop(others);
            }
            // In the midst of the text.
            4 => {
                stream.write_all(&request).unwrap();
                let mut some = [0; 700];
                stream.read_exact(&mut some).unwrap();
            }
            // Only its own end: a half-closed connection is one that nobody waits for.
            _ => {
                stream.write_all(&request).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            }
        }
        drop(stream);
    }
    server.settle();
    let answer = server.ask(PATH, &json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true}));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    server.settle();
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("finished_reason=\"cancelled\""), "{metrics}");
}

#[test]
fn a_client_that_does_not_read_is_cut_and_holds_nothing_up() {
    let options = ServerOptions {
        stall_timeout: Duration::from_millis(200),
        keep_alive: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let server = Setup { options, ..Setup::default() }.start();
    // Log-probabilities make its stream larger than what the system holds for a connection.
    let body = json!({"prompt": "a", "n": 40, "max_tokens": 250, "logprobs": 20, "ignore_eos": true, "stream": true});
    let mut stream = server.connect();
    stream.write_all(&message(PATH, "", body.to_string().as_bytes())).unwrap();
    let answer = server.ask(PATH, &json!({"prompt": "Once", "max_tokens": 3, "ignore_eos": true}));
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    server.settle();
    // Its connection is closed although it never reads; only this question's own is open.
    server.wait_until("it is cut", || server.metric("dropcap_http_connections") <= 1.0);
}

#[test]
fn a_quiet_stream_is_kept_alive_by_comments() {
    let options = ServerOptions { keep_alive: Duration::from_millis(1), ..ServerOptions::default() };
    let policy = std::sync::Arc::new(Slow(Duration::from_millis(10)));
    let server = Setup { options, policy, ..Setup::default() }.start();
    let body = json!({"prompt": "a", "max_tokens": 3, "ignore_eos": true, "stream": true});
    let answer = server.post(PATH, &body);
    assert!(answer.text().contains(": keep-alive\n\n"));
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
}
