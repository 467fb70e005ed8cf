//! Server-sent events: chunks as they come, comments while nothing does.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::ApiError;
use crate::account::Account;

/// Chunks that may wait for a slow reader; behind them waits what the engine has generated.
const CHUNKS: usize = 16;

/// Where chunks go.
#[derive(Debug)]
pub(crate) struct Chunks(mpsc::Sender<Bytes>);

/// The client has gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Chunks {
    /// Sends a chunk, when there is room for it.
    pub(crate) async fn send(&self, chunk: &impl Serialize) -> Result<(), Gone> {
        // Our own types have no keys but texts, so they are always JSON.
        let json = serde_json::to_string(chunk).unwrap_or_default();
        self.frame(format!("data: {json}\n\n")).await
    }

    /// Ends the stream well.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.frame("data: [DONE]\n\n".to_owned()).await
    }

    /// Tells what went wrong; the stream ends without its last word.
    pub(crate) async fn fail(&self, error: &ApiError) -> Result<(), Gone> {
        self.frame(format!("data: {}\n\n", error.body())).await
    }

    async fn frame(&self, frame: String) -> Result<(), Gone> {
        self.0.send(frame.into()).await.map_err(|_| Gone)
    }

    /// Waits for `next` as long as somebody reads, with a comment now and then that keeps the connection alive.
    pub(crate) async fn while_read<T>(
        &self,
        keep_alive: Duration,
        next: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let mut next = std::pin::pin!(next);
        loop {
            tokio::select! {
                biased;
                found = &mut next => return Ok(found),
                () = self.0.closed() => return Err(Gone),
                () = tokio::time::sleep(keep_alive) => self.frame(": keep-alive\n\n".to_owned()).await?,
            }
        }
    }
}

struct Frames {
    receiver: mpsc::Receiver<Bytes>,
    /// Its line is written when the stream is gone.
    _account: Arc<Account>,
}

impl Stream for Frames {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

/// A response whose chunks `write` sends, as long as somebody reads.
pub(crate) fn response<F>(account: Arc<Account>, write: impl FnOnce(Chunks) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS);
    tokio::spawn(write(Chunks(sender)));
    let mut response = Response::new(Body::from_stream(Frames { receiver, _account: account }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would otherwise hold chunks back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
