//! Keys, probes, signals, and an engine that fails.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Answer, Setup, Slow, message};
use dropcap_policy::{EvictionPolicy, LaneEditor, Observation, PolicyError};
use dropcap_server::{AccessLog, ServeError, ServerOptions};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
const ROUTES: [(&str, &str); 10] = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/compress"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/default"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/no/such/route"),
];

#[test]
fn every_route_but_the_probe_wants_a_key() {
    let options = ServerOptions { api_keys: vec!["right".to_owned()], ..ServerOptions::default() };
    let server = Setup { options, ..Setup::default() }.start();
    for (method, path) in ROUTES {
        for key in ["", "Authorization: Bearer wrong\r\n", "Authorization: right\r\n", "X-Api-Key: right\r\n"]
        {
            for path in [path.to_owned(), format!("{path}?api_key=right")] {
                let head = format!(
                    "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}Content-Length: 0\r\n\r\n"
                );
                let answer = server.raw(head.as_bytes());
                assert_eq!(answer.status, 401, "{method} {path} with {key:?}");
                assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
                assert_eq!(answer.header("www-authenticate"), Some("bearer"));
            }
        }
    }
    assert_eq!(server.get("/health").status, 200);
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let right = message(PATH, "Authorization: Bearer right\r\n", body.as_bytes());
    assert_eq!(server.raw(&right).status, 200);
}

#[test]
fn a_server_listens_before_it_serves_and_says_so() {
    let setup = Setup { loading: Duration::from_secs(1), ..Setup::default() };
    let server = setup.begin();
    for answer in [server.get("/health"), server.post(PATH, &json!({"prompt": "a"}))] {
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json()["error"]["type"], "unavailable_error");
        assert!(answer.header("retry-after").is_some());
    }
    server.wait_until("it is ready", || server.get("/health").status == 200);
    assert_eq!(server.post(PATH, &json!({"prompt": "a", "max_tokens": 1})).status, 200);
}

/// A stream of which the beginning has been read.
fn begun(server: &crate::support::Running, tokens: usize) -> std::net::TcpStream {
    let body = json!({"prompt": "a", "max_tokens": tokens, "ignore_eos": true, "stream": true}).to_string();
    let mut stream = server.connect();
    stream.write_all(&message(PATH, "", body.as_bytes())).unwrap();
    let mut first = [0; 16];
    stream.read_exact(&mut first).unwrap();
    stream
}

#[test]
fn the_first_signal_lets_texts_end_and_takes_no_new_ones() {
    let server = Setup::default().start();
    let stream = begun(&server, 500);
    server.shutdown.signal();
    server.wait_until("it drains or has ended", || matches!(server.get("/health").status, 503 | 0));
    let refused = server.post(PATH, &json!({"prompt": "a"})).status;
    assert!(refused == 503 || refused == 0, "{refused}");
    let mut rest = Vec::new();
    let mut stream = stream;
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"));
    assert!(server.join().is_ok());
}

#[test]
fn the_second_signal_cuts_and_so_does_the_end_of_patience() {
    for patience in [Duration::from_secs(600), Duration::ZERO] {
        let options = ServerOptions { drain_timeout: patience, ..ServerOptions::default() };
        // A step takes so long that the text cannot end meanwhile.
        let policy = Arc::new(Slow(Duration::from_millis(5)));
        let server = Setup { options, policy, ..Setup::default() }.start();
        let mut stream = begun(&server, 500);
        server.shutdown.signal();
        if patience > Duration::ZERO {
            server.shutdown.signal();
        }
        assert!(server.join().is_ok());
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"));
    }
}

/// Keeps everything, slowly, until a test lets it break.
#[derive(Debug)]
struct Breaks {
    broken: AtomicBool,
    panics: bool,
}

impl EvictionPolicy for Breaks {
    fn decide(&self, seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        std::thread::sleep(Duration::from_millis(2));
        if !self.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        assert!(!self.panics, "the engine broke");
        Err(PolicyError::Mismatch { what: "teeth", layer: seen.layer, expected: 1, got: 2 })
    }
}

/// What a probe hears until nobody listens any more.
fn probed(address: std::net::SocketAddr) -> Vec<Answer> {
    let mut heard = Vec::new();
    while let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        heard.push(Answer::read(stream));
        std::thread::sleep(Duration::from_millis(20));
    }
    heard
}

#[test]
fn an_engine_that_fails_ends_its_texts_with_an_error_and_the_server_with_it() {
    for panics in [false, true] {
        let policy = Arc::new(Breaks { broken: AtomicBool::new(false), panics });
        let server = Setup { policy: policy.clone(), ..Setup::default() }.start();
        let mut stream = begun(&server, 500);
        let body = json!({"prompt": "a", "max_tokens": 500, "ignore_eos": true}).to_string();
        let mut whole = server.connect();
        whole.write_all(&message(PATH, "", body.as_bytes())).unwrap();
        server.wait_until("both run", || server.metric("vllm:num_requests_running") == 2.0);
        let address = server.address;
        let probe = std::thread::spawn(move || probed(address));
        policy.broken.store(true, Ordering::Relaxed);
        assert_eq!(Answer::read(whole).status, 500);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest).into_owned();
        assert!(rest.contains("server_error") && !rest.contains("[DONE]"), "{rest}");
        assert!(matches!(server.join(), Err(ServeError::EngineFailed)));
        let heard = probe.join().unwrap();
        let failed: Vec<_> = heard.iter().filter(|answer| answer.status == 503).collect();
        assert!(!failed.is_empty(), "{heard:?}");
        assert!(failed.iter().all(|answer| answer.json()["error"]["code"] == "failed"), "{failed:?}");
    }
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request_and_no_word_of_anybody() {
    let sink = Sink::default();
    let options = ServerOptions { api_keys: vec!["right-key".to_owned()], ..ServerOptions::default() };
    let log = AccessLog::to(Box::new(sink.clone())).unwrap();
    let server = Setup { options, log, ..Setup::default() }.start();
    let body = |stream: bool| {
        json!({"prompt": "a secret", "max_tokens": 3, "ignore_eos": true, "stream": stream}).to_string()
    };
    let key = "Authorization: Bearer right-key\r\nX-Request-Id: mine-";
    for (number, bytes) in [body(false), body(true), "not json".to_owned()].iter().enumerate() {
        let answer = server.raw(&message(PATH, &format!("{key}{number}\r\n"), bytes.as_bytes()));
        assert_eq!(answer.header("x-request-id"), Some(format!("mine-{number}").as_str()));
    }
    server.raw(&message("/v1/completions?api_key=right-key", "", b"{}"));
    let lines = || -> Vec<Value> {
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    server.wait_until("all lines are there", || lines().len() == 4);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("secret") && !text.contains("right-key"), "{text}");
    for line in lines() {
        assert_eq!((&line["method"], &line["path"]), (&json!("POST"), &json!(PATH)));
        let id = line["request_id"].as_str().unwrap();
        match id {
            "mine-0" | "mine-1" => {
                assert_eq!((&line["status"], &line["complete"]), (&json!(200), &json!(true)), "{line}");
                assert_eq!(line["usage"]["completion_tokens"], 3);
            }
            "mine-2" => assert_eq!(line["status"], 400),
            _ => assert_eq!(line["status"], 401),
        }
    }
}

/// A log whose sink takes nothing while a test holds it.
struct Stuck(Arc<Mutex<()>>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        drop(self.0.lock().unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_takes_no_lines_holds_nobody_up() {
    let held = Arc::new(Mutex::new(()));
    let stuck = held.lock().unwrap();
    let log = AccessLog::to(Box::new(Stuck(held.clone()))).unwrap();
    let server = Setup { log, ..Setup::default() }.start();
    for _ in 0..20 {
        server.ask(PATH, &json!({"prompt": "a", "max_tokens": 1}));
    }
    assert_eq!(server.metric("dropcap_log_lines_lost_total"), 0.0, "so few can wait");
    server.shutdown.signal();
    assert!(server.join().is_ok());
    drop(stuck);
}

/// A log on a disk that is full.
struct Full;

impl Write for Full {
    fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_cannot_be_written_costs_no_answer() {
    let server = Setup { log: AccessLog::to(Box::new(Full)).unwrap(), ..Setup::default() }.start();
    for _ in 0..20 {
        server.ask(PATH, &json!({"prompt": "a", "max_tokens": 1}));
    }
    server.shutdown.signal();
    assert!(server.join().is_ok());
}

#[test]
fn a_request_id_that_is_no_id_is_replaced() {
    let server = Setup::default().start();
    for id in ["", &"x".repeat(1000)] {
        let head =
            format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: {id}\r\n\r\n");
        let answer: Answer = server.raw(head.as_bytes());
        assert!(answer.header("x-request-id").unwrap().starts_with("req-"));
    }
}
