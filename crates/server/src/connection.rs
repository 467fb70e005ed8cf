//! One connection: its requests, within limits of size and time.

use std::convert::Infallible;
use std::pin::pin;

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::ApiError;
use crate::server::Parts;
use crate::stall::Impatient;

/// Most bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// Most headers of a request.
const HEADERS: usize = 100;

/// Answers the requests of a connection, until it is closed or `closing` has no sender any more and none is being answered.
pub(crate) async fn serve(stream: TcpStream, parts: Parts, mut closing: watch::Receiver<()>) {
    // Tokens are small, and each is wanted at once.
    let _ = stream.set_nodelay(true);
    parts.metrics.connections.inc();
    let service = service_fn(|request: Request<Incoming>| answer(&parts, request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(parts.options.head_timeout)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES);
    let io = Impatient::new(stream, parts.options.stall_timeout);
    let mut connection = pin!(http.serve_connection(io, service));
    // What fails on the way concerns this connection alone, and its client knows.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    parts.metrics.connections.dec();
}

async fn answer(parts: &Parts, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    match parts.router.get() {
        Some(router) => TowerToHyperService::new(router.clone()).call(request).await,
        None => Ok(ApiError::unavailable(parts.status.get().reason()).into_response()),
    }
}

/// Tells a client that there is no room for its connection.
pub(crate) fn turn_away(stream: &TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    // It need not hear of it.
    let _ = stream.try_write(ANSWER);
}
