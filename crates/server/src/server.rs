//! A server from its first connection to its last: loading, serving, draining.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use dropcap_engine::Engine;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::auth::Keys;
use crate::body::Bodies;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::status::{State, Status};
use crate::wire::MAX_COMPRESSING;
use crate::worker::{self, Inbox, Job};
use crate::{AccessLog, ServedModel, ServerOptions, connection, routes};

/// How long answers that are being written may take when the server ends, and how long one whose engine has failed says so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a draining server looks whether it is done.
const TICK: Duration = Duration::from_millis(20);

/// What ends a server other than a signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address that cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; another program may have the port, choose one with --port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system refuses threads or timers.
    #[error("the system gives the server no threads: {0}")]
    System(#[from] std::io::Error),
    /// A step failed, or the engine panicked.
    #[error("the engine has failed, and nothing can be served any more: start the server again")]
    EngineFailed,
}

/// A server that listens, and says that it is loading until [`Server::run`] has a model.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
    log: AccessLog,
    shutdown: Shutdown,
}

/// Ends a server: a first signal lets what runs go on, a second cuts it.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<usize>>);

impl Shutdown {
    /// One more signal.
    pub fn signal(&self) {
        self.0.send_modify(|signals| *signals += 1);
    }
}

impl Server {
    /// Listens on an address.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn bind(address: SocketAddr, options: ServerOptions, log: AccessLog) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, options, log, shutdown: Shutdown(Arc::new(watch::Sender::new(0))) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Loads a model with `load`, on the thread that will run it, and serves it until a signal; `ready` is called when
    /// requests are served. Signals of the process end it where `signals` says so.
    ///
    /// # Errors
    /// What `load` fails with; an engine that fails; a system without threads.
    pub fn run<E: From<ServeError> + Send + 'static>(
        self,
        load: impl FnOnce() -> Result<(Engine, ServedModel), E> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
        signals: bool,
    ) -> Result<(), E> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServeError::System)?;
        let outcome = runtime.block_on(self.serve(load, ready, signals));
        // What is still open is cut.
        runtime.shutdown_background();
        outcome
    }

    async fn serve<E: From<ServeError> + Send + 'static>(
        self,
        load: impl FnOnce() -> Result<(Engine, ServedModel), E> + Send + 'static,
        ready: impl FnOnce() + Send + 'static,
        signals: bool,
    ) -> Result<(), E> {
        let listener = tokio::net::TcpListener::from_std(self.listener).map_err(ServeError::System)?;
        if signals {
            listen_to_signals(self.shutdown.clone()).map_err(ServeError::System)?;
        }
        let parts = Parts {
            status: Arc::default(),
            metrics: Arc::new(Metrics::new(&self.options.model_name)),
            keys: Arc::new(Keys::new(&self.options.api_keys)),
            bodies: Arc::new(Bodies::new(self.options.max_bodies)),
            options: Arc::new(self.options),
            log: Arc::new(self.log),
            in_flight: Arc::default(),
            router: Arc::default(),
        };
        let (inbox, jobs) = worker::channel();
        let (tell, mut engine) = oneshot::channel();
        let work = parts.clone();
        let thread = move || {
            // A panic leaves the channel without a word, which says the same as an error.
            let _ = tell.send(work.run_engine(load, ready, inbox, jobs));
        };
        std::thread::Builder::new().name("engine".to_owned()).spawn(thread).map_err(ServeError::System)?;

        let (close, closing) = watch::channel(());
        let mut connections = JoinSet::new();
        let room = Arc::new(Semaphore::new(parts.options.max_connections));
        let mut told = self.shutdown.0.subscribe();
        let (mut deadline, mut failed) = (None, None);
        let outcome = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => match room.clone().try_acquire_owned() {
                        Ok(place) => {
                            let served = connection::serve(stream, parts.clone(), closing.clone());
                            connections.spawn(async move {
                                served.await;
                                drop(place);
                            });
                        }
                        Err(_) => connection::turn_away(&stream),
                    },
                    // No file descriptors, for example; those that are open go on.
                    Err(_) => tokio::time::sleep(TICK).await,
                },
                Some(_) = connections.join_next() => {}
                outcome = &mut engine, if failed.is_none() => {
                    let outcome = outcome.unwrap_or_else(|_| Err(ServeError::EngineFailed.into()));
                    if parts.status.get() != State::Failed {
                        break outcome;
                    }
                    // Probes and clients hear why nothing is served any more, not only that nobody listens.
                    failed = Some(outcome);
                    deadline = Some(Instant::now() + LAST_WORDS);
                }
                Ok(()) = told.changed(), if failed.is_none() => {
                    if *told.borrow_and_update() > 1 {
                        break Ok(());
                    }
                    parts.status.advance(State::Draining);
                    deadline = Some(Instant::now() + parts.options.drain_timeout);
                }
                () = sleep_until((Instant::now() + TICK).min(deadline.unwrap_or_else(Instant::now))),
                    if deadline.is_some() =>
                {
                    let done = failed.is_none() && parts.in_flight.load(Ordering::Acquire) == 0;
                    if done || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        break failed.unwrap_or(Ok(()));
                    }
                }
            }
        };
        parts.metrics.connections.set(0);
        drop(listener);
        drop(close);
        let last = async { while connections.join_next().await.is_some() {} };
        // Whoever is not done by then is cut.
        let _ = timeout(LAST_WORDS, last).await;
        parts.log.flush(LAST_WORDS);
        outcome
    }
}

/// What the threads of a server share before there is a model.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) status: Arc<Status>,
    pub(crate) metrics: Arc<Metrics>,
    keys: Arc<Keys>,
    bodies: Arc<Bodies>,
    log: Arc<AccessLog>,
    /// Requests that are being answered.
    in_flight: Arc<AtomicUsize>,
    /// The routes, once there is a model.
    pub(crate) router: Arc<OnceLock<Router>>,
}

impl Parts {
    /// Loads the model and runs its engine to the end.
    fn run_engine<E: From<ServeError>>(
        &self,
        load: impl FnOnce() -> Result<(Engine, ServedModel), E>,
        ready: impl FnOnce(),
        inbox: Inbox,
        jobs: mpsc::Receiver<Job>,
    ) -> Result<(), E> {
        let (engine, model) = load()?;
        let service = Service {
            model: Arc::new(model),
            inbox,
            metrics: self.metrics.clone(),
            status: self.status.clone(),
            options: self.options.clone(),
            keys: self.keys.clone(),
            bodies: self.bodies.clone(),
            log: self.log.clone(),
            compressing: Arc::new(Semaphore::new(MAX_COMPRESSING)),
            in_flight: self.in_flight.clone(),
        };
        self.router.get_or_init(|| routes::router(service));
        self.status.advance(State::Ready);
        ready();
        // A panic of the engine ends its thread alone; the channels of its requests close, and the status says why.
        let whole = catch_unwind(AssertUnwindSafe(|| worker::run(engine, jobs, &self.metrics)));
        if matches!(whole, Ok(true)) {
            return Ok(());
        }
        self.status.advance(State::Failed);
        Err(ServeError::EngineFailed.into())
    }
}

/// Takes SIGTERM and SIGINT for signals to end.
fn listen_to_signals(shutdown: Shutdown) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                else => return,
            }
            shutdown.signal();
        }
    });
    Ok(())
}
