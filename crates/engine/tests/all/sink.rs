//! A trace that a test can read.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::support::Model;
use dropcap_trace::{Granularity, TraceHeader, TraceWriter, VERSION};

/// Where a trace goes in a test, which can read it while the engine owns the writer.
#[derive(Clone, Default)]
pub struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Bytes that it takes before it is full; none takes all.
    room: Option<usize>,
}

impl Sink {
    /// One that is full after `room` bytes.
    pub fn of(room: usize) -> Self {
        Self { room: Some(room), ..Self::default() }
    }

    /// A trace of a model whose method decides per layer.
    pub fn writer(&self, model: &Model, method: &str) -> TraceWriter<Box<dyn Write + Send>> {
        let config = model.checkpoint.config();
        let header = TraceHeader {
            version: VERSION,
            model: "golden".into(),
            method: method.into(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            granularity: Granularity::Layer,
            vocabulary: config.vocabulary,
        };
        TraceWriter::new(Box::new(self.clone()) as Box<dyn Write + Send>, &header).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Write for Sink {
    fn write(&mut self, new: &[u8]) -> std::io::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        if self.room.is_some_and(|room| bytes.len() + new.len() > room) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        }
        bytes.extend_from_slice(new);
        Ok(new.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
