//! Messages between two processes: a verb, a length, and as many bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Sum,
    SumExact,
    Share,
    /// The job is over; the bytes say why.
    End,
}

impl Verb {
    const ALL: [Self; 4] = [Self::Sum, Self::SumExact, Self::Share, Self::End];

    fn code(self) -> u8 {
        match self {
            Self::Sum => 1,
            Self::SumExact => 2,
            Self::Share => 3,
            Self::End => 4,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sum => "a sum",
            Self::SumExact => "an exact sum",
            Self::Share => "what process 0 holds",
            Self::End => "an end",
        }
    }
}

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) verb: Verb,
    /// Bytes that follow.
    pub(super) length: u64,
}

impl Head {
    /// Its length on the wire.
    pub(super) const BYTES: usize = 9;

    pub(super) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.verb.code();
        bytes[1..].copy_from_slice(&self.length.to_le_bytes());
        to.write_all(&bytes)
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; Self::BYTES];
        from.read_exact(&mut bytes)?;
        let [code, length @ ..] = bytes;
        let verb = Verb::ALL.into_iter().find(|verb| verb.code() == code).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("a message of the unknown kind {code}"))
        })?;
        Ok(Self { verb, length: u64::from_le_bytes(length) })
    }

    pub(super) fn says(self) -> String {
        format!("{} of {} bytes", self.verb.name(), self.length)
    }
}

/// Longest reason that is read from a process that ends the job, in bytes.
const LONGEST_REASON: u64 = 4096;

/// The words of a message that ends the job.
pub(super) fn reason(from: &mut TcpStream, length: u64) -> String {
    let mut words = Vec::new();
    // What cannot be read is left out: the message is on its way to a person either way.
    let _ = from.take(length.min(LONGEST_REASON)).read_to_end(&mut words);
    String::from_utf8_lossy(&words).into_owned()
}

/// Bytes that come before a process's first message: what it is and where it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) rank: u64,
    pub(super) size: u64,
    /// A digest of what all processes must have in common.
    pub(super) run: [u8; 32],
}

/// Version 1 of the protocol.
const MAGIC: [u8; 8] = *b"dropcol1";

impl Hello {
    pub(super) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = [0; 56];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.rank.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..].copy_from_slice(&self.run);
        to.write_all(&bytes)
    }

    /// The hello of a connection, or `None` for one that speaks something else.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = [0; 56];
        from.read_exact(&mut bytes)?;
        let (magic, rest) = bytes.split_at(8);
        let (rank, rest) = rest.split_at(8);
        let (size, run) = rest.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let mut digest = [0; 32];
        digest.copy_from_slice(run);
        Ok((magic == MAGIC).then(|| Self { rank: number(rank), size: number(size), run: digest }))
    }
}
