//! Many clients at once.

use std::thread;

use crate::support::{Running, Setup};
use dropcap_engine::EngineOptions;
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
const CLIENTS: usize = 256;

/// Requests of mixed lengths, greedy.
fn requests() -> Vec<Value> {
    (0..CLIENTS)
        .map(|i| {
            let prompt: Vec<usize> = (0..1 + i * 37 % 90).map(|j| 1 + (i * 31 + j * 7) % 4000).collect();
            json!({"prompt": prompt, "max_tokens": 1 + i * 13 % 24, "temperature": 0})
        })
        .collect()
}

fn text(server: &Running, body: &Value, streams: bool) -> String {
    if !streams {
        return server.ask(PATH, body)["choices"][0]["text"].as_str().unwrap().to_owned();
    }
    let mut body = body.clone();
    body["stream"] = true.into();
    let chunks = server.stream(PATH, &body);
    chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect()
}

#[test]
fn hundreds_of_clients_at_once_get_what_each_gets_alone() {
    // Without forgetting the numbers have the same bits, however sequences are batched.
    let policy = || crate::support::carried().method("none");
    let engine = || EngineOptions { max_batch: 32, max_waiting: Some(CLIENTS), ..EngineOptions::default() };
    let requests = requests();
    let alone: Vec<String> = {
        let server = Setup { policy: policy(), engine: engine(), ..Setup::default() }.start();
        requests.iter().map(|body| text(&server, body, false)).collect()
    };
    // Once with room for all, once where texts wait for each other's memory, with beginnings kept beside.
    let model = crate::support::carried();
    let pool = model.decoder.page_pool(policy().as_ref(), dropcap_kernels::DType::F32, None).unwrap();
    let tight = 64 * pool.layout().bytes();
    for engine in [engine(), EngineOptions { kv_limit: Some(tight), prefix_bytes: tight / 2, ..engine() }] {
        let keeps = engine.prefix_bytes > 0;
        let server = Setup { policy: policy(), engine, ..Setup::default() }.start();
        thread::scope(|scope| {
            let clients: Vec<_> = requests
                .iter()
                .enumerate()
                .map(|(i, body)| {
                    (
                        i,
                        scope.spawn({
                            let server = &server;
                            move || text(server, body, i % 2 == 0)
                        }),
                    )
                })
                .collect();
            for (i, client) in clients {
                assert_eq!(client.join().unwrap(), alone[i], "{i}");
            }
        });
        if !keeps {
            server.settle();
        }
    }
}
