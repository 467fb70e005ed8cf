//! A hub on 127.0.0.1: the listing, the small files, and a second port that serves the large ones, as the
//! real hub's content network does. Written on sockets, because what is tested is how a connection may break.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// What goes wrong with one request for a file's bytes; a queue per file, each used once.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after this many bytes of the answer.
    DropAfter(usize),
    /// This status and header line instead of the file.
    Status(u16, &'static str),
    /// The file changes to this, hash and listing do not.
    Serve(Vec<u8>),
    /// The same, without saying how long it is.
    ServeUntilClose(Vec<u8>),
    /// The range that was asked for is ignored.
    WholeFile,
    /// Nothing is wrong, but it takes a while.
    Slow(Duration),
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    /// Whether it went to the second port.
    pub(crate) content_network: bool,
}

#[derive(Default)]
struct State {
    revisions: HashMap<String, String>,
    commits: HashMap<String, BTreeMap<String, Vec<u8>>>,
    faults: HashMap<String, VecDeque<Fault>>,
    listing: Option<String>,
    bare_listing: bool,
    seen: Vec<Seen>,
    stopped: bool,
    content_network: String,
}

/// The model that the hub has.
pub(crate) const MODEL: &str = "tiny-org/tiny-model";
pub(crate) const FIRST: &str = "1111111111111111111111111111111111111111";
pub(crate) const SECOND: &str = "2222222222222222222222222222222222222222";

#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub whose `main` is a one-file model at [`FIRST`].
    pub(crate) fn start() -> Self {
        let ports = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let [endpoint, content_network] =
            [0, 1].map(|i: usize| format!("http://{}", ports[i].local_addr().unwrap()));
        let state = Arc::new(Mutex::new(State { content_network, ..State::default() }));
        for (content_network, port) in ports.into_iter().enumerate() {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in port.incoming().flatten() {
                    let state = Arc::clone(&state);
                    thread::spawn(move || answer(stream, &state, content_network == 1));
                }
            });
        }
        let hub = Self { endpoint, state };
        hub.publish("main", FIRST, one_file_model());
        hub
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn publish(&self, revision: &str, commit: &str, files: BTreeMap<String, Vec<u8>>) {
        let mut state = self.state();
        state.revisions.insert(revision.to_owned(), commit.to_owned());
        state.commits.insert(commit.to_owned(), files);
    }

    /// `file` may also be `listing`.
    pub(crate) fn fault(&self, file: &str, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.entry(file.to_owned()).or_default().extend(faults);
    }

    pub(crate) fn replace_listing(&self, text: &str) {
        self.state().listing = Some(text.to_owned());
    }

    /// From now on the listing has names only, as some mirrors send it.
    pub(crate) fn list_names_only(&self) {
        self.state().bare_listing = true;
    }

    /// From now on every connection is closed at once.
    pub(crate) fn stop(&self) {
        self.state().stopped = true;
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// The requests for bytes of `file` since the last call of [`Hub::seen`].
    pub(crate) fn requests_for(seen: &[Seen], file: &str) -> usize {
        let wanted = |seen: &&Seen| {
            seen.method == "GET" && !seen.content_network && seen.path.ends_with(&format!("/{file}"))
        };
        seen.iter().filter(|seen| seen.path.contains("/resolve/")).filter(wanted).count()
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The blob's name: the hash of a large file, something else of 40 digits for a small one.
pub(crate) fn etag(name: &str, bytes: &[u8]) -> String {
    if is_large(name) { sha256(bytes) } else { sha256(bytes)[..40].to_owned() }
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

pub(crate) fn weights(seed: u32) -> Vec<u8> {
    (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

pub(crate) fn one_file_model() -> BTreeMap<String, Vec<u8>> {
    let files = [
        (".gitattributes", b"*.safetensors filter=lfs".to_vec()),
        ("README.md", b"# tiny".to_vec()),
        ("config.json", b"{\"model_type\":\"gpt2\"}".to_vec()),
        ("generation_config.json", b"{}".to_vec()),
        ("model.safetensors", weights(1)),
        ("pytorch_model.bin", weights(2)),
        ("tokenizer.json", vec![b' '; 70_000]),
    ];
    files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

pub(crate) fn sharded_model(shards: [&str; 2]) -> BTreeMap<String, Vec<u8>> {
    let mut files = one_file_model();
    files.remove("model.safetensors");
    let index =
        format!(r#"{{"weight_map":{{"a":"{}","b":"{}","c":"{}"}}}}"#, shards[0], shards[1], shards[0]);
    files.insert("model.safetensors.index.json".to_owned(), index.into_bytes());
    for (seed, shard) in [3, 4].into_iter().zip(shards) {
        files.insert(shard.to_owned(), weights(seed));
    }
    files
}

fn answer(stream: TcpStream, state: &Mutex<State>, content_network: bool) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let (method, path) =
        first.split_once(' ').map(|(method, rest)| (method, rest.split(' ').next().unwrap()))?;
    let mut headers = HashMap::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut state = state.lock().unwrap();
    if state.stopped {
        return stream.shutdown(Shutdown::Both).ok();
    }
    let range =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (method, path) = (method.to_owned(), path.to_owned());
    state.seen.push(Seen { method: method.clone(), path: path.clone(), headers, content_network });
    let reply = Reply { stream, head: method == "HEAD" };

    if let Some(revision) = path.strip_prefix(&format!("/api/models/{MODEL}/revision/")) {
        let revision = revision.strip_suffix("?blobs=true")?.replace("%2F", "/");
        if let Some(Fault::Status(status, header)) = pop(&mut state, "listing") {
            return reply.send(status, header, b"<html>no</html>");
        }
        let commit = state.revisions.get(&revision).cloned().unwrap_or(revision);
        let Some(files) = state.commits.get(&commit) else {
            return reply.send(404, "X-Error-Code: RevisionNotFound", b"");
        };
        let text = state.listing.clone().unwrap_or_else(|| list(&commit, files, state.bare_listing));
        return reply.send(200, "Content-Type: application/json", text.as_bytes());
    }
    if path.starts_with("/api/") {
        return reply.send(404, "X-Error-Code: RepoNotFound", b"");
    }
    let (commit, name) = match path.strip_prefix(&format!("/{MODEL}/resolve/")) {
        Some(rest) => rest.split_once('/')?,
        None => path.strip_prefix("/signed/")?.split_once('?')?.0.split_once('/')?,
    };
    let Some(bytes) = state.commits.get(commit).and_then(|files| files.get(name)).cloned() else {
        return reply.send(404, "X-Error-Code: EntryNotFound", b"");
    };
    let tag = etag(name, &bytes);
    if is_large(name) && !content_network {
        let header = format!(
            "Location: {}/signed/{commit}/{name}?signature=s3cret\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \
             \"{tag}\"\r\nX-Linked-Size: {}",
            state.content_network,
            bytes.len()
        );
        return reply.send(302, &header, b"");
    }
    let fault = if reply.head { None } else { pop(&mut state, name) };
    drop(state);
    let header = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {commit}");
    reply.send_file(&header, bytes, range, fault)
}

fn pop(state: &mut State, name: &str) -> Option<Fault> {
    state.faults.get_mut(name).and_then(VecDeque::pop_front)
}

fn list(commit: &str, files: &BTreeMap<String, Vec<u8>>, bare: bool) -> String {
    let siblings: Vec<String> = files
        .iter()
        .map(|(name, bytes)| match (bare, is_large(name)) {
            (true, _) => format!(r#"{{"rfilename":"{name}"}}"#),
            (false, true) => format!(
                r#"{{"rfilename":"{name}","size":{0},"blobId":"{1}","lfs":{{"sha256":"{2}","size":{0},"pointerSize":9}}}}"#,
                bytes.len(),
                "f".repeat(40),
                sha256(bytes)
            ),
            (false, false) => {
                format!(r#"{{"rfilename":"{name}","size":{},"blobId":"{}"}}"#, bytes.len(), etag(name, bytes))
            }
        })
        .collect();
    format!(r#"{{"id":"{MODEL}","sha":"{commit}","gated":false,"siblings":[{}]}}"#, siblings.join(","))
}

struct Reply {
    stream: TcpStream,
    head: bool,
}

impl Reply {
    fn send(mut self, status: u16, header: &str, body: &[u8]) -> Option<()> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{header}\r\n\r\n"
        );
        self.stream.write_all(head.as_bytes()).ok()?;
        self.stream.write_all(if self.head { b"" } else { body }).ok()
    }

    fn send_file(
        self,
        header: &str,
        bytes: Vec<u8>,
        range: Option<usize>,
        fault: Option<Fault>,
    ) -> Option<()> {
        let (mut bytes, mut range, mut most, mut length_said) = (bytes, range, usize::MAX, true);
        match fault {
            None => {}
            Some(Fault::Status(status, header)) => return self.send(status, header, b"<html>no</html>"),
            Some(Fault::DropAfter(count)) => most = count,
            Some(Fault::Serve(other)) => bytes = other,
            Some(Fault::ServeUntilClose(other)) => (bytes, length_said) = (other, false),
            Some(Fault::WholeFile) => range = None,
            Some(Fault::Slow(pause)) => thread::sleep(pause),
        }
        let total = bytes.len();
        let start = range.unwrap_or(0);
        if start >= total && start > 0 {
            return self.send(416, &format!("Content-Range: bytes */{total}"), b"");
        }
        let mut head = format!(
            "HTTP/1.1 {} X\r\nConnection: close\r\n{header}\r\n",
            if range.is_some() { 206 } else { 200 }
        );
        if range.is_some() {
            write!(head, "Content-Range: bytes {start}-{}/{total}\r\n", total - 1).unwrap();
        }
        if length_said {
            write!(head, "Content-Length: {}\r\n", total - start).unwrap();
        }
        let mut stream = self.stream;
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        let body = if self.head { &[] } else { &bytes[start..] };
        stream.write_all(&body[..body.len().min(most)]).ok()?;
        stream.shutdown(Shutdown::Both).ok()
    }
}
