//! Load on an OpenAI completions route, ours or another's: closed loop (so many clients, each waits for its answer) or open
//! loop (arrivals of a Poisson process, whatever is answered). Prints one JSON object.
//!
//!     load address=127.0.0.1:8080 clients=8 requests=64 words=200 max_tokens=64
//!
//! `rate=R` requests a second opens the loop, `ids=N` asks with N random token ids below 4000 instead of `words`, `seed`
//! chooses others, `model=NAME` names the model.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a tool that cannot go on should fail"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const WORDS: [&str; 12] =
    ["the", "old", "man", "and", "a", "house", "by", "sea", "night", "she", "came", "to"];
/// Over so long the best rate is taken, or over half of a shorter run.
const WINDOW: Duration = Duration::from_secs(5);

/// `name=value` arguments.
struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn read() -> Self {
        let pair = |argument: String| {
            let (name, value) =
                argument.split_once('=').unwrap_or_else(|| panic!("{argument}: write name=value"));
            (name.to_owned(), value.to_owned())
        };
        Self(std::env::args().skip(1).map(pair).collect())
    }

    fn text(&self, name: &str, default: &str) -> String {
        self.0.get(name).map_or(default, String::as_str).to_owned()
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.0.get(name).map_or(default, |value| value.parse().unwrap())
    }
}

/// Random numbers that are the same in every run (Steele, Lea, Flood 2014: splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One answer: when it was asked for, when each piece came, how many tokens it had.
struct Answer {
    asked: Instant,
    pieces: Vec<Instant>,
    tokens: usize,
}

/// A prompt of words or of ids, with which no other begins.
fn body(arguments: &Arguments, number: u64) -> String {
    let mut random = Random(number + 1000 * arguments.number("seed", 0) as u64);
    let (ids, words) = (arguments.number("ids", 0), arguments.number("words", 200));
    let prompt: Value = if ids > 0 {
        (0..ids).map(|_| 10 + random.next() % 3990).collect()
    } else {
        let words: Vec<_> = (0..words).map(|_| WORDS[random.next() as usize % WORDS.len()]).collect();
        words.join(" ").into()
    };
    json!({
        "model": arguments.text("model", "default"), "prompt": prompt,
        "max_tokens": arguments.number("max_tokens", 64), "temperature": 0, "ignore_eos": true,
        "stream": true, "stream_options": {"include_usage": true},
    })
    .to_string()
}

/// Sends a request and reads its answer to the end.
fn ask(address: &str, body: &str) -> Result<Answer, String> {
    let words = |error: std::io::Error| error.to_string();
    let asked = Instant::now();
    let mut stream = TcpStream::connect(address).map_err(words)?;
    stream.set_nodelay(true).map_err(words)?;
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(words)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(words)?;
    if !line.contains(" 200 ") {
        let mut rest = String::new();
        let _ = reader.read_to_string(&mut rest);
        return Err(format!("{} {}", line.trim(), rest.lines().last().unwrap_or_default()));
    }
    let mut answer = Answer { asked, pieces: Vec::new(), tokens: 0 };
    loop {
        line.clear();
        // Chunks of the transfer end where lines do.
        if reader.read_line(&mut line).map_err(words)? == 0 {
            return Err("the stream ended without its last word".to_owned());
        }
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data.starts_with("[DONE]") {
            answer.tokens = answer.tokens.max(answer.pieces.len());
            return Ok(answer);
        }
        if data.contains("\"error\"") {
            return Err(data.trim().to_owned());
        }
        if data.contains("\"usage\":{") {
            let chunk: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
            answer.tokens = chunk["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize;
        }
        if data.contains("\"text\":\"") && !data.contains("\"text\":\"\"") {
            answer.pieces.push(Instant::now());
        }
    }
}

/// The most sequences that ran at once, as the server's metrics say, if they do.
fn most_running(address: &str, over: &AtomicBool) -> Option<u64> {
    let running = || {
        let mut stream = TcpStream::connect(address).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.starts_with("vllm:num_requests_running"))?;
        line.rsplit_once(' ')?.1.parse::<u64>().ok()
    };
    let mut most = None;
    while !over.load(Ordering::Relaxed) {
        most = running().max(most);
        thread::sleep(Duration::from_millis(100));
    }
    most
}

/// Percentiles in milliseconds.
fn percentiles(mut seconds: Vec<f64>) -> Value {
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((share * seconds.len() as f64) as usize).min(seconds.len().saturating_sub(1));
        seconds.get(index).map(|seconds| (seconds * 1e5).round() / 100.0)
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)})
}

/// The most pieces that came in any window, a second.
fn best_rate(answers: &[Answer], run: Duration) -> f64 {
    let mut times: Vec<Instant> = answers.iter().flat_map(|answer| answer.pieces.iter().copied()).collect();
    times.sort_unstable();
    let window = WINDOW.min(run / 2);
    let (mut first, mut most) = (0, 0);
    for last in 0..times.len() {
        while times[last] - times[first] > window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most as f64 / window.as_secs_f64()
}

/// Pieces a second from the last answer's first piece to the first one's last: all stream then, and no prompt goes in. None
/// where there is no such time, as in every loop of more than one wave.
fn steady_rate(answers: &[Answer]) -> Option<f64> {
    let start = answers.iter().map(|answer| answer.pieces.first()).max()??;
    let end = answers.iter().map(|answer| answer.pieces.last()).min()??;
    let span = end.checked_duration_since(*start).filter(|span| !span.is_zero())?;
    let pieces = answers.iter().flat_map(|answer| &answer.pieces).filter(|&at| at > start && at <= end);
    Some((pieces.count() as f64 / span.as_secs_f64()).round())
}

fn main() {
    let arguments = Arguments::read();
    let (address, requests) = (arguments.text("address", "127.0.0.1:8080"), arguments.number("requests", 64));
    let rate: Option<f64> = arguments.0.get("rate").map(|rate| rate.parse().unwrap());
    let clients = arguments.number("clients", 8);
    // Whatever is made at the first request is not the server's speed.
    ask(&address, &body(&arguments, u64::MAX / 2)).unwrap_or_else(|error| panic!("{error}"));
    let (answers, errors) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let one = |number: usize| match ask(&address, &body(&arguments, number as u64)) {
        Ok(answer) => answers.lock().unwrap().push(answer),
        Err(error) => errors.lock().unwrap().push(error),
    };
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let start = Instant::now();
    let (running, seconds) = thread::scope(|scope| {
        let running = scope.spawn(|| most_running(&address, &over));
        thread::scope(|scope| match rate {
            Some(rate) => {
                let mut random = Random(7);
                for number in 0..requests {
                    let uniform = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
                    thread::sleep(Duration::from_secs_f64(-(1.0 - uniform).ln() / rate));
                    let one = &one;
                    scope.spawn(move || one(number));
                }
            }
            None => {
                for _ in 0..clients {
                    scope.spawn(|| {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= requests {
                                return;
                            }
                            one(number);
                        }
                    });
                }
            }
        });
        let seconds = start.elapsed();
        over.store(true, Ordering::Relaxed);
        (running.join().unwrap(), seconds)
    });
    let (answers, errors) = (answers.into_inner().unwrap(), errors.into_inner().unwrap());
    let first = |answer: &Answer| Some((*answer.pieces.first()? - answer.asked).as_secs_f64());
    let further = |answer: &Answer| {
        let span = *answer.pieces.last()? - *answer.pieces.first()?;
        (answer.tokens > 1).then(|| span.as_secs_f64() / (answer.tokens - 1) as f64)
    };
    let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
    let closed = format!("closed, {clients} clients");
    let report = json!({
        "loop": rate.map_or(closed, |rate| format!("open, {rate}/s")),
        "answers": answers.len(),
        "errors": errors.len(),
        "first_error": errors.first(),
        "seconds": (seconds.as_secs_f64() * 100.0).round() / 100.0,
        "tokens_per_second": (tokens as f64 / seconds.as_secs_f64()).round(),
        "best_tokens_per_second": best_rate(&answers, seconds).round(),
        "steady_tokens_per_second": steady_rate(&answers),
        "most_running": running,
        "ttft_ms": percentiles(answers.iter().filter_map(first).collect()),
        "tpot_ms": percentiles(answers.iter().filter_map(further).collect()),
    });
    println!("{report}");
}
