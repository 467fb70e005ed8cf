//! How a server guards itself.

use std::time::Duration;

/// How a server guards itself, and what it calls its model.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What requests call the model.
    pub model_name: String,
    /// Keys of which a request must carry one; none lets everybody in.
    pub api_keys: Vec<String>,
    /// Largest body of a request, in bytes.
    pub max_body: usize,
    /// Bytes of all bodies that are being read or have not become tokens yet; more are turned away until some are done.
    pub max_bodies: usize,
    /// Most connections at once; more are turned away.
    pub max_connections: usize,
    /// How long the head of a request may take, and how long a connection may be idle.
    pub head_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long a client may take to read before its connection is cut.
    pub stall_timeout: Duration,
    /// How long a quiet stream goes without a comment that keeps it alive.
    pub keep_alive: Duration,
    /// How long requests that run may go on after the first signal to end.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            model_name: "default".to_owned(),
            api_keys: Vec::new(),
            max_body: 8 << 20,
            max_bodies: 256 << 20,
            max_connections: 4096,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(90),
        }
    }
}
