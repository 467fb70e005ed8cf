//! Sums over TCP through the first process: every other one has a connection to it and to nobody else.
//!
//! It needs nothing but a network, and its speed is that of the first process's link. Numbers travel as they lie in
//! memory, so all hosts must have the same byte order.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, sockopt};

use super::wire::{Head, Hello, Verb, reason};
use super::{Collective, CollectiveError, Meeting, World};

/// How long processes wait for each other at the start: images are pulled and models loaded at different speeds.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long a live connection may be silent: more than a step, an evaluation or a saved state takes.
const SILENCE: Duration = Duration::from_secs(1800);
/// A host that no longer answers is given up after 10 + 3 x 5 seconds.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// Bytes of an array that are in flight at once.
const CHUNK: usize = 4 << 20;
/// Between two looks for a process that is not there yet.
const RETRY: Duration = Duration::from_millis(100);
/// How long a stranger may take to say what it is.
const HELLO: Duration = Duration::from_secs(5);

/// A world whose processes are connected to the first one.
#[derive(Debug)]
pub struct Star {
    world: World,
    /// The first process: one connection for each other rank, in their order; any other: one to the first.
    links: Vec<TcpStream>,
    /// A chunk of another process.
    buffer: Vec<u8>,
    /// Why the world has fallen apart, if it has.
    over: Option<String>,
}

impl Star {
    /// Waits until all processes of `meeting` are connected. `run` is a digest of what they must have in common.
    ///
    /// # Errors
    /// Nobody there, or not everybody, within `patience`; processes of another run.
    pub fn meet(meeting: &Meeting, run: [u8; 32], patience: Duration) -> Result<Self, CollectiveError> {
        let Meeting { world, address, .. } = meeting;
        if world.is_first() {
            let listener = listen(address)
                .map_err(|source| CollectiveError::Listen { address: address.clone(), source })?;
            Self::receive(&listener, world.size, run, patience)
        } else {
            Self::join(*world, address, run, patience)
        }
    }

    /// The first process of `size`, waiting at `listener`.
    pub(super) fn receive(
        listener: &TcpListener,
        size: usize,
        run: [u8; 32],
        patience: Duration,
    ) -> Result<Self, CollectiveError> {
        let begun = Instant::now();
        let mut links: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
        let failed = |source| CollectiveError::Listen { address: "its own port".to_owned(), source };
        listener.set_nonblocking(true).map_err(failed)?;
        while links.iter().any(Option::is_none) {
            match listener.accept() {
                Ok((stream, _)) => {
                    if let Some((rank, stream)) = greet(stream, size, run)? {
                        let place = links.get_mut(rank - 1).filter(|place| place.is_none());
                        let Some(place) = place else {
                            return Err(CollectiveError::Stranger {
                                reason: format!("two processes say that they are number {rank} of {size}"),
                            });
                        };
                        *place = Some(stream);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if begun.elapsed() > patience {
                        let missing: Vec<usize> =
                            (1..size).filter(|&rank| links[rank - 1].is_none()).collect();
                        let came = size - missing.len();
                        return Err(CollectiveError::Missing { came, size, missing, waited: patience });
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Self::of(World { rank: 0, size }, links.into_iter().flatten().collect()))
    }

    fn join(world: World, address: &str, run: [u8; 32], patience: Duration) -> Result<Self, CollectiveError> {
        let begun = Instant::now();
        let hello = Hello { rank: world.rank as u64, size: world.size as u64, run };
        loop {
            let attempt = TcpStream::connect(address).and_then(|mut stream| {
                tend(&stream)?;
                hello.write(&mut stream)?;
                Ok(stream)
            });
            match attempt {
                Ok(stream) => return Ok(Self::of(world, vec![stream])),
                Err(source) if begun.elapsed() > patience => {
                    return Err(CollectiveError::NoFirst {
                        address: address.to_owned(),
                        waited: patience,
                        source,
                    });
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    fn of(world: World, links: Vec<TcpStream>) -> Self {
        Self { world, links, buffer: Vec::new(), over: None }
    }

    fn total<T: Pod + AddAssign>(&mut self, verb: Verb, values: &mut [T]) -> Result<(), CollectiveError> {
        let head = Head { verb, length: size_of_val(values) as u64 };
        self.guarded(|star| {
            star.agree(head)?;
            let chunk = CHUNK / size_of::<T>();
            for part in values.chunks_mut(chunk) {
                if star.world.is_first() { star.add_up(verb, part)? } else { star.exchange(verb, part)? }
            }
            Ok(())
        })
    }

    /// Runs a verb; where it fails, the world is over for everybody.
    fn guarded(
        &mut self,
        verb: impl FnOnce(&mut Self) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        if let Some(reason) = &self.over {
            return Err(CollectiveError::Ended { reason: reason.clone() });
        }
        let result = verb(self);
        if let Err(error) = &result {
            self.end(&error.to_string());
        }
        result
    }

    /// Says once what is asked for, and holds it against what the others ask for.
    fn agree(&mut self, head: Head) -> Result<(), CollectiveError> {
        let World { size, .. } = self.world;
        if !self.world.is_first() {
            return self
                .links
                .iter_mut()
                .try_for_each(|link| head.write(link))
                .map_err(|e| lost(0, size, &e));
        }
        for (rank, link) in (1..).zip(&mut self.links) {
            let asked = Head::read(link).map_err(|e| lost(rank, size, &e))?;
            if asked.verb == Verb::End {
                return Err(CollectiveError::Lost { rank, size, reason: reason(link, asked.length) });
            }
            if asked != head {
                return Err(CollectiveError::Apart { rank, asked: asked.says(), expected: head.says() });
            }
        }
        Ok(())
    }

    /// The first process's side of a chunk: takes in every other's, in the order of ranks, and gives the sum back.
    fn add_up<T: Pod + AddAssign>(&mut self, verb: Verb, part: &mut [T]) -> Result<(), CollectiveError> {
        let size = self.world.size;
        self.buffer.resize(size_of_val(part), 0);
        for (rank, link) in (1..).zip(&mut self.links) {
            link.read_exact(&mut self.buffer).map_err(|e| lost(rank, size, &e))?;
            for (sum, more) in part.iter_mut().zip(self.buffer.chunks_exact(size_of::<T>())) {
                *sum += bytemuck::pod_read_unaligned(more);
            }
        }
        self.give(verb, bytemuck::cast_slice(part))
    }

    /// Sends the same bytes to all others.
    fn give(&mut self, verb: Verb, bytes: &[u8]) -> Result<(), CollectiveError> {
        let size = self.world.size;
        let head = Head { verb, length: bytes.len() as u64 };
        for (rank, link) in (1..).zip(&mut self.links) {
            let sent = head.write(link).and_then(|()| link.write_all(bytes));
            sent.map_err(|e| lost(rank, size, &e))?;
        }
        Ok(())
    }

    /// Any other process's side of a chunk.
    fn exchange<T: Pod>(&mut self, verb: Verb, part: &mut [T]) -> Result<(), CollectiveError> {
        let size = self.world.size;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(part);
        let expected = Head { verb, length: bytes.len() as u64 };
        for link in &mut self.links {
            link.write_all(bytes).map_err(|e| lost(0, size, &e))?;
            check(link, expected, size)?;
            link.read_exact(bytes).map_err(|e| lost(0, size, &e))?;
        }
        Ok(())
    }

    /// Tells the others why there is nothing more to wait for.
    fn end(&mut self, why: &str) {
        let head = Head { verb: Verb::End, length: why.len() as u64 };
        for link in &mut self.links {
            // A process that is gone cannot be told; the others' sockets are independent of its.
            let _ = head.write(link).and_then(|()| link.write_all(why.as_bytes()));
            let _ = link.shutdown(std::net::Shutdown::Write);
        }
        self.over = Some(why.to_owned());
    }
}

impl Collective for Star {
    fn world(&self) -> World {
        self.world
    }

    fn sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        self.total(Verb::Sum, values)
    }

    fn sum_exact(&mut self, values: &mut [f64]) -> Result<(), CollectiveError> {
        self.total(Verb::SumExact, values)
    }

    fn share(&mut self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError> {
        self.guarded(|star| {
            star.agree(Head { verb: Verb::Share, length: 0 })?;
            if star.world.is_first() {
                return star.give(Verb::Share, bytes);
            }
            let size = star.world.size;
            for link in &mut star.links {
                let head = Head::read(link).map_err(|e| lost(0, size, &e))?;
                let length = expect(link, head, Verb::Share)?;
                bytes.clear();
                // Read as it comes, so that nothing is allocated from a claim.
                let got = link.take(length).read_to_end(bytes).map_err(|e| lost(0, size, &e))?;
                if (got as u64) < length {
                    return Err(lost(0, size, &io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Ok(())
        })
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        self.guarded(|star| {
            let (size, first) = (star.world.size, usize::from(star.world.is_first()));
            let mut links = (first..).zip(&mut star.links);
            links.try_for_each(|(rank, link)| match is_open(link) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    let head = Head::read(link).map_err(|e| lost(rank, size, &e))?;
                    let reason = reason(link, head.length);
                    Err(match rank {
                        0 => CollectiveError::Ended { reason },
                        _ => CollectiveError::Lost { rank, size, reason },
                    })
                }
                Err(error) => Err(lost(rank, size, &error)),
            })
        })
    }
}

/// Listens on all of this host's addresses: the name that others use for it may be a service's. Where that name is the
/// host itself, nobody else can reach it.
fn listen(address: &str) -> io::Result<TcpListener> {
    let named: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    if named.iter().any(|one| one.ip().is_loopback()) {
        return TcpListener::bind(&named[..]);
    }
    let port = named.first().map_or(0, SocketAddr::port);
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

/// A connection that waits long for numbers, and not long for a host that is gone.
fn tend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let (idle, interval, count) = KEEP_ALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(())
}

/// Who has connected; `None` for a connection that says nothing sensible, as port scanners do.
fn greet(
    mut stream: TcpStream,
    size: usize,
    run: [u8; 32],
) -> Result<Option<(usize, TcpStream)>, CollectiveError> {
    let hello = tend(&stream)
        .and_then(|()| stream.set_read_timeout(Some(HELLO)))
        .and_then(|()| Hello::read(&mut stream))
        .and_then(|hello| stream.set_read_timeout(Some(SILENCE)).map(|()| hello));
    let Ok(Some(hello)) = hello else { return Ok(None) };
    let stranger = |reason| Err(CollectiveError::Stranger { reason });
    if hello.size != size as u64 {
        return stranger(format!("it counts {} processes, and this one {size}", hello.size));
    }
    if hello.run != run {
        return stranger("its configuration, model or text is another one".to_owned());
    }
    match usize::try_from(hello.rank) {
        Ok(rank) if (1..size).contains(&rank) => Ok(Some((rank, stream))),
        _ => stranger(format!("it says that it is number {} of {size}", hello.rank)),
    }
}

/// Whether nobody has ended a connection; looks at what has come and leaves it there. False where the next message is an end.
fn is_open(link: &TcpStream) -> io::Result<bool> {
    let mut head = [0; Head::BYTES];
    match net::recv(link, &mut head, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((Head::BYTES.., _)) => Ok(Head::read(&mut &head[..])?.verb != Verb::End),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The length of a message that must be of this verb.
fn expect(link: &mut TcpStream, head: Head, verb: Verb) -> Result<u64, CollectiveError> {
    if head.verb == Verb::End {
        return Err(CollectiveError::Ended { reason: reason(link, head.length) });
    }
    if head.verb != verb {
        return Err(CollectiveError::Apart { rank: 0, asked: head.says(), expected: verb.name().to_owned() });
    }
    Ok(head.length)
}

fn check(link: &mut TcpStream, expected: Head, size: usize) -> Result<(), CollectiveError> {
    let head = Head::read(link).map_err(|e| lost(0, size, &e))?;
    let length = expect(link, head, expected.verb)?;
    if length != expected.length {
        return Err(CollectiveError::Apart { rank: 0, asked: head.says(), expected: expected.says() });
    }
    Ok(())
}

fn lost(rank: usize, size: usize, error: &io::Error) -> CollectiveError {
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "its connection closed: it has ended or was killed".to_owned()
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("it was silent for {} s, or its host no longer answers", SILENCE.as_secs())
        }
        _ => error.to_string(),
    };
    CollectiveError::Lost { rank, size, reason }
}
