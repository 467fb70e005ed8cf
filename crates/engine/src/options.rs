//! How an engine divides its time and memory.

use dropcap_kernels::KvFormat;

use crate::EngineError;

/// How an engine divides its time and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most prompt tokens per step. Larger chunks use the processor better; smaller ones let running
    /// sequences wait less and free pruned entries sooner.
    pub chunk: usize,
    /// Most sequences at once; the rest queue.
    pub max_batch: usize,
    /// Most requests in the queue; more are refused. None has no bound.
    pub max_waiting: Option<usize>,
    /// How keys and values are stored.
    pub kv_dtype: KvFormat,
    /// Cap on the pages of the cache in bytes. None means nine tenths of the memory that is available when the engine
    /// is made: on the host what the system says it could still give this process, its control group's limit
    /// included; on a device what is free there.
    pub kv_limit: Option<usize>,
    /// Bytes of pages that may be kept of texts that are over, for later ones with the same beginning; 0 keeps nothing.
    /// They yield to texts that run. On a device they are copies, and take pages of the cap.
    pub prefix_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            chunk: 256,
            max_batch: 64,
            max_waiting: None,
            kv_dtype: KvFormat::F32,
            kv_limit: None,
            prefix_bytes: 0,
        }
    }
}

impl EngineOptions {
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let counts = [("chunk", self.chunk), ("max_batch", self.max_batch)];
        match counts.into_iter().find(|&(_, given)| given == 0) {
            Some((name, given)) => Err(EngineError::Option { name, given, minimum: 1 }),
            None => Ok(()),
        }
    }
}
