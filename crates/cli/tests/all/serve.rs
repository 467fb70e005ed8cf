//! `dropcap serve` and `dropcap chat` as processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{dropcap, failure, text};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A server with the carried model, and where it listens.
fn serve(flags: &[&str]) -> (Child, String, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("dropcap"))
        .args(["serve", "--device", "cpu", "--port", "0"])
        .args(flags)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready: ") {
        assert!(errors.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let address = said.split("ready: http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    (child, address, errors)
}

fn post(address: &str, body: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_carried_model_is_served_without_a_flag_and_a_signal_ends_it_well() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "\n first-key \nsecond-key\n").unwrap();
    let (mut child, address, mut errors) = serve(&["--api-key-file", text(&keys)]);
    let body = r#"{"prompt": "Once upon a time", "max_tokens": 5, "ignore_eos": true}"#;
    for key in ["first-key", "second-key"] {
        let answer = post(&address, body, key);
        assert!(answer.contains("200 OK") && answer.contains("\"method\":\"dcp\""), "{answer}");
    }
    assert!(post(&address, body, "third-key").contains("401"));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    let mut log = String::new();
    errors.read_to_string(&mut log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["status"] == 200).count(), 2, "{log}");
    assert!(!log.contains("Once") && !log.contains("-key"), "{log}");
}

/// A stream of which the beginning has come.
fn begun(address: &str, tokens: usize) -> TcpStream {
    let body = format!(r#"{{"prompt": "Once", "max_tokens": {tokens}, "ignore_eos": true, "stream": true}}"#);
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    stream
}

/// The status of `/health`; none where nobody listens any more.
fn health(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn one_signal_lets_texts_end_and_two_cut_them() {
    // Two short texts, or two that cannot end meanwhile.
    for (signals, tokens, whole) in [
        (&[Signal::TERM][..], 100, 2),
        (&[Signal::INT], 100, 2),
        (&[Signal::TERM, Signal::TERM], 1000, 0),
        (&[Signal::TERM, Signal::INT], 1000, 0),
    ] {
        let (mut child, address, _errors) = serve(&["--no-access-log", "--threads", "1"]);
        let streams = [(); 2].map(|()| begun(&address, tokens));
        for &signal in signals {
            kill_process(Pid::from_child(&child), signal).unwrap();
            // A second one before the first is seen would be one.
            while health(&address).is_some_and(|status| status == "200") {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert!(child.wait().unwrap().success(), "{signals:?}");
        let ended_well = |mut stream: TcpStream| {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            String::from_utf8_lossy(&rest).contains("[DONE]")
        };
        let well = streams.into_iter().map(ended_well).filter(|&well| well).count();
        assert_eq!(well, whole, "{signals:?}");
    }
}

#[test]
fn what_keeps_a_server_from_starting_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("keys");
    std::fs::write(&empty, "\n\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (flags, words) in [
        (["--port", port.as_str()], "choose one with --port"),
        (["--api-key-file", "/no/such/file"], "/no/such/file"),
        (["--api-key-file", text(&empty)], "holds no API key"),
        (["--chat-template", "/no/such/template"], "/no/such/template"),
        (["--method", "dcp(gates=/no/such/gates)"], "/no/such/gates"),
    ] {
        let port: &[&str] = if flags[0] == "--port" { &[] } else { &["--port", "0"] };
        let errors = failure(&[&["serve", "--device", "cpu"], &flags[..], port].concat());
        assert!(errors.contains(words), "{errors}");
    }
}

#[test]
fn a_conversation_answers_saves_and_forgets() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("talk.json");
    let lines = format!(
        "Once upon a time\n\nAnd then\n/save {}\n/reset\n/what\n/save /no/such/folder/x\n/exit\nnever\n",
        saved.display()
    );
    let run = dropcap(&["chat", "--device", "cpu", "-n", "8", "--system", "A tale."])
        .write_stdin(lines)
        .output()
        .unwrap();
    let errors = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{errors}");
    assert_eq!(errors.matches("completion tokens").count(), 2, "{errors}");
    assert!(errors.contains("is forgotten") && errors.contains("/no/such/folder"), "{errors}");
    assert!(!String::from_utf8(run.stdout).unwrap().trim().is_empty());
    let talk: Value = serde_json::from_slice(&std::fs::read(saved).unwrap()).unwrap();
    let roles: Vec<&str> = talk.as_array().unwrap().iter().map(|one| one["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
}

#[test]
fn an_interrupted_answer_ends_and_the_conversation_goes_on() {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("dropcap"))
        .args(["chat", "--device", "cpu", "-n", "900", "--temperature", "2", "--top-p", "1"])
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let shown = Arc::new(AtomicUsize::new(0));
    let count = shown.clone();
    let reader = std::thread::spawn(move || {
        let mut some = [0; 256];
        while let Ok(length @ 1..) = output.read(&mut some) {
            count.fetch_add(length, Ordering::Relaxed);
        }
    });
    for _ in 0..2 {
        let before = shown.load(Ordering::Relaxed);
        input.write_all(b"Once upon a time\n").unwrap();
        while shown.load(Ordering::Relaxed) < before + 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let mut account = String::new();
        errors.read_line(&mut account).unwrap();
        let tokens = account.split(" completion tokens").next().unwrap().rsplit(' ').next().unwrap();
        assert!(tokens.parse::<usize>().unwrap() < 800, "{account}");
        // The rest of the answer is in the pipe; none of it is to be taken for the next one's beginning.
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
}

#[test]
fn a_conversation_without_a_template_names_the_flag() {
    let folder = crate::support::copy("gpt2_dcp", 97);
    let errors = failure(&["chat", "--device", "cpu", "--model", text(folder.path())]);
    assert!(errors.contains("--chat-template"), "{errors}");
}
