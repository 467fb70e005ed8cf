//! `dropcap serve`: a model behind the routes that clients of OpenAI's API know.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use dropcap_engine::{Engine, EngineOptions};
use dropcap_server::{AccessLog, ServedModel, Server, ServerOptions};

use crate::arguments::{MethodArguments, ModelArguments, StepArguments};
use crate::loading::Language;
use crate::size::human;
use crate::{loading, size, terminal};

/// Bodies of the largest size for which there is memory at once.
const BODIES: usize = 32;

/// Flags of `dropcap serve`, each of which a container may set as a variable.
#[derive(Args)]
#[command(
    mut_arg("method", |arg| arg.env("DROPCAP_METHOD")),
    mut_arg("chunk", |arg| arg.env("DROPCAP_CHUNK")),
    mut_arg("max_batch", |arg| arg.env("DROPCAP_MAX_BATCH")),
    after_help = "\
    Without a flag it serves a small model on this machine:\n\n  \
    curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n    \
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Once upon a time\"}], \"max_tokens\": 60}'\n\n\
    /openapi.json describes every route; `usage.kv` of an answer says what the model forgot.")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    method: MethodArguments,
    /// What requests call the model [default: as --model does].
    #[arg(long, value_name = "NAME", env = "DROPCAP_SERVED_NAME")]
    served_name: Option<String>,
    /// A Jinja file that makes texts of conversations [default: the model's own].
    #[arg(long, value_name = "FILE", env = "DROPCAP_CHAT_TEMPLATE")]
    chat_template: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 for every network, which wants an API key.
    #[arg(
        long,
        value_name = "IP",
        default_value = "127.0.0.1",
        env = "DROPCAP_HOST",
        help_heading = "Server"
    )]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080, env = "DROPCAP_PORT", help_heading = "Server")]
    port: u16,
    /// File with one API key a line; every route but /health then wants one, as a bearer token.
    #[arg(long, value_name = "FILE", env = "DROPCAP_API_KEY_FILE", help_heading = "Server")]
    api_key_file: Option<PathBuf>,
    /// Largest body of a request; all that are being read may take 32 times that.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = size::bytes, env = "DROPCAP_MAX_BODY", help_heading = "Server")]
    max_body: usize,
    /// Most connections at once; more are turned away.
    #[arg(long, value_name = "N", default_value = "4096", allow_negative_numbers = true, value_parser = size::positive, env = "DROPCAP_MAX_CONNECTIONS", help_heading = "Server")]
    max_connections: usize,
    /// Seconds that texts may go on after the first signal to end; the second cuts them.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 90,
        env = "DROPCAP_DRAIN_TIMEOUT",
        help_heading = "Server"
    )]
    drain_timeout: u64,
    /// Write no line for each request to standard error.
    #[arg(long, env = "DROPCAP_NO_ACCESS_LOG", help_heading = "Server")]
    no_access_log: bool,
    #[command(flatten)]
    step: StepArguments,
    /// Most sequences that wait; more are answered with 429.
    #[arg(long, value_name = "N", default_value = "512", allow_negative_numbers = true, value_parser = size::count, env = "DROPCAP_MAX_QUEUE", help_heading = "Machine")]
    max_queue: usize,
    /// Memory that may be kept of texts that are over, for later ones with the same beginning; 0 keeps nothing.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::bytes, env = "DROPCAP_PREFIX_CACHE", help_heading = "Machine")]
    prefix_cache: usize,
}

/// Serves a model until a signal.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let api_keys = match &arguments.api_key_file {
        Some(path) => keys(path)?,
        None => Vec::new(),
    };
    if api_keys.is_empty() && !arguments.host.is_loopback() {
        terminal::say("warning: everybody who reaches this address can use the model: give --api-key-file");
    }
    let options = ServerOptions {
        model_name: arguments.served_name.clone().unwrap_or_else(|| arguments.model.name()),
        api_keys,
        max_body: arguments.max_body,
        max_bodies: arguments.max_body.saturating_mul(BODIES),
        max_connections: arguments.max_connections,
        drain_timeout: Duration::from_secs(arguments.drain_timeout),
        ..ServerOptions::default()
    };
    raise_open_files();
    let name = options.model_name.clone();
    let log = if arguments.no_access_log {
        AccessLog::none()
    } else {
        AccessLog::to(Box::new(std::io::stderr())).context("the access log")?
    };
    let server = Server::bind(SocketAddr::new(arguments.host, arguments.port), options, log)?;
    let address = server.address();
    terminal::say(&format!("listening on http://{address}, loading {name}"));
    let load = move || load(&arguments, name);
    let ready = move || terminal::say(&format!("ready: http://{address}/v1"));
    server.run(load, ready, true)?;
    Ok(ExitCode::SUCCESS)
}

/// The engine, and what the routes need to know of its model.
fn load(arguments: &Arguments, name: String) -> Result<(Engine, ServedModel)> {
    let method = arguments.method.of(&arguments.model)?;
    let loaded = loading::load(&arguments.model, &method)?;
    let Language { tokenizer, generation, template } = loaded.language(arguments.chat_template.as_deref())?;
    let options =
        loaded.engine_options(&arguments.model.machine, arguments.step.chunk, arguments.step.max_batch);
    let (max_waiting, prefix_bytes) = (Some(arguments.max_queue), arguments.prefix_cache);
    let options = EngineOptions { max_waiting, prefix_bytes, ..options };
    let engine = loaded.engine(options, false)?;
    let cap = engine.usage()?.limit_bytes.map_or("no cap".to_owned(), |bytes| human(bytes as u64));
    let conversations =
        if template.is_some() { "" } else { "; it has no chat template, so no conversations" };
    terminal::say(&format!("method {method}, {cap} for keys and values{conversations}"));
    let sizes = (loaded.config.vocabulary, loaded.config.max_positions);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let model = ServedModel::new(name, method.to_string(), tokenizer, template, generation, sizes, created);
    Ok((engine, model))
}

/// One key a line; what follows no key is no key.
fn keys(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let keys: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if keys.is_empty() {
        bail!("{} holds no API key: write one a line", path.display());
    }
    Ok(keys)
}

/// Every connection is an open file, and systems allow a process few of them before it asks for more.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, the server turns connections away earlier.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
