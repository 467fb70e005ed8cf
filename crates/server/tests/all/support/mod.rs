//! A server with the carried model on a port of its own, and a client that sends exactly the bytes it is told to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dropcap_engine::{Engine, EngineOptions};
use dropcap_kernels::DType;
use dropcap_model::chat::{ChatTemplate, template_of};
use dropcap_model::{GenerationConfig, Tokenizer};
use dropcap_policy::{EvictionPolicy, LaneEditor, Observation, PolicyError};
use dropcap_server::{AccessLog, ServeError, ServedModel, Server, ServerOptions, Shutdown};
use serde_json::Value;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

#[path = "../../../../engine/tests/support/model.rs"]
mod model;
pub use model::Model;

/// The carried model, loaded once for all servers of a test binary.
pub fn carried() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::at(&directory(), DType::F32))
}

/// The carried model's tokenizer.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER.get_or_init(|| Arc::new(Tokenizer::open(&directory()).unwrap())).clone()
}

/// Where the carried model is.
pub fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/default"))
}

/// What a test's server is made of.
pub struct Setup {
    pub model: &'static Model,
    pub policy: Arc<dyn EvictionPolicy>,
    pub engine: EngineOptions,
    pub options: ServerOptions,
    /// A template in the place of the model's own, or none at all.
    pub template: Option<Option<String>>,
    pub log: AccessLog,
    /// How long the model takes to load.
    pub loading: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            model: carried(),
            policy: carried().method("dcp"),
            engine: EngineOptions::default(),
            options: ServerOptions::default(),
            template: None,
            log: AccessLog::none(),
            loading: Duration::ZERO,
        }
    }
}

/// Keeps everything, and takes so long over each layer that a text is still under way when a test looks.
#[derive(Debug)]
pub struct Slow(pub Duration);

impl EvictionPolicy for Slow {
    fn decide(&self, _seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        std::thread::sleep(self.0);
        Ok(())
    }
}

/// A server that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Setup {
    /// Starts it, and waits until it is ready.
    pub fn start(self) -> Running {
        let running = self.begin();
        running.wait_until("the server is ready", || running.get("/health").status == 200);
        running
    }

    /// Starts it.
    pub fn begin(self) -> Running {
        let Setup { model, policy, engine, options, template, log, loading } = self;
        let name = options.model_name.clone();
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), options, log).unwrap();
        let (address, shutdown) = (server.address(), server.shutdown());
        let load = move || {
            std::thread::sleep(loading);
            let engine = Engine::new(model.decoder.clone(), policy, model.team.clone(), engine).unwrap();
            let config = model.decoder.config();
            let generation = GenerationConfig::open(&directory(), config).unwrap();
            let template = match template {
                None => template_of(&directory(), None, &tokenizer(), &generation).unwrap(),
                Some(source) => source.map(|source| ChatTemplate::new(source, None, None).unwrap()),
            };
            let sizes = (config.vocabulary, config.max_positions);
            let served =
                ServedModel::new(name, "dcp".to_owned(), tokenizer(), template, generation, sizes, 0);
            Ok((engine, served))
        };
        let thread = std::thread::spawn(move || server.run(load, || {}, false));
        Running { address, shutdown, thread: Some(thread) }
    }
}

impl Running {
    /// Waits for its end, and says how it came.
    pub fn join(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits until something holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes, and reads until the server closes the connection.
    pub fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A server that refuses early may have closed its end already.
        let _ = stream.write_all(bytes);
        Answer::read(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_bytes(path, body.to_string().as_bytes())
    }

    pub fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        self.raw(&message(path, "", body))
    }

    /// What a request that must succeed is answered with.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    /// The chunks of a stream that must end well.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let mut events = answer.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{body}: {}", answer.text());
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// What must be refused, and why.
    pub fn refusal(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self.post(path, body);
        (answer.status, answer.json()["error"].clone())
    }

    /// The number of a metric; of all its labels together.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        values.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }

    /// Waits until nothing runs, and checks that nothing is held then.
    pub fn settle(&self) {
        self.wait_until("nothing runs", || {
            self.metric("vllm:num_requests_running") + self.metric("vllm:num_requests_waiting") == 0.0
        });
        assert_eq!(self.metric("dropcap_kv_bytes_held"), 0.0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.signal();
        self.shutdown.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A request with a body.
pub fn message(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// 0 where there was none.
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(mut stream: TcpStream) -> Answer {
        let mut bytes = Vec::new();
        // A reset after an early refusal still leaves what came before it.
        let _ = stream.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(end) = end else { return Answer { status: 0, head: String::new(), body: bytes } };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let body = bytes[end + 4..].to_vec();
        let body = if head.contains("transfer-encoding: chunked") { dechunked(&body) } else { body };
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
        Answer { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The data of a stream's events.
    pub fn events(&self) -> Vec<String> {
        self.text().split("\n\n").filter_map(|event| Some(event.strip_prefix("data: ")?.to_owned())).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size.split(';').next().unwrap(), 16).unwrap();
        let rest = &bytes[end + 2..];
        if size == 0 || rest.len() < size {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        bytes = &rest[(size + 2).min(rest.len())..];
    }
    body
}
