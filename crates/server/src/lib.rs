//! An OpenAI-compatible server over one engine.
//!
//! The engine has a thread of its own, which nothing else touches: requests become jobs in a bounded channel, and what comes
//! out of a step goes to the channel of its request. Everything of a request is checked before that, and whatever is wrong
//! with it is said with the parameter's name, the limit and the given value.

mod access_log;
mod account;
mod ask;
mod auth;
mod body;
mod choice;
mod connection;
mod error;
mod metrics;
mod model;
mod options;
mod parameters;
mod reading;
mod routes;
mod server;
mod service;
mod sse;
mod stall;
mod status;
pub mod wire;
mod worker;

pub use access_log::AccessLog;
pub use error::{ApiError, ErrorBody, ErrorDetails};
pub use model::ServedModel;
pub use options::ServerOptions;
pub use routes::openapi;
pub use server::{ServeError, Server, Shutdown};
