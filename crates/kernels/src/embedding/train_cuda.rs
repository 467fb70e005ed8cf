//! The embedding in training, on the device.

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, PinnedBuffer, Source,
    Specialisation, kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "embedding/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("train.cu")),
    constants: |_, _| vec![("THREADS", THREADS as usize), ("PART", PART)],
    arguments: &[Embed::LAYOUT, EmbedBackward::LAYOUT, PositionsBackward::LAYOUT],
};

const OP: &str = "embedding in training";
const THREADS: u32 = 256;
/// A token with more rows than this is added up in parts.
const PART: usize = 32;

/// The rows of a batch, and which of them hold the same token, so that a gradient's sum has one owner and one order.
#[derive(Debug)]
pub struct TokenRows {
    ids: DeviceBuffer<u32>,
    order: DeviceBuffer<u32>,
    starts: DeviceBuffer<u32>,
    /// First and end in `order`.
    parts: DeviceBuffer<[u32; 2]>,
    /// Where the four are copied from.
    staged: [PinnedBuffer<u32>; 3],
    staged_parts: PinnedBuffer<[u32; 2]>,
    distinct: usize,
    cut: usize,
    rows: usize,
    /// All tokens are below it.
    vocabulary: usize,
}

impl TokenRows {
    /// Room for `rows` tokens.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, rows: usize) -> Result<Self, KernelError> {
        Ok(Self {
            ids: DeviceBuffer::zeroed(device, "token ids", rows)?,
            order: DeviceBuffer::zeroed(device, "token order", rows)?,
            starts: DeviceBuffer::zeroed(device, "token order", rows + 1)?,
            // Who is cut has more than a part, so that no more than twice the whole parts come out.
            parts: DeviceBuffer::zeroed(device, "token order", 2 * rows.div_ceil(PART))?,
            staged: [
                PinnedBuffer::zeroed(device, rows)?,
                PinnedBuffer::zeroed(device, rows)?,
                PinnedBuffer::zeroed(device, rows + 1)?,
            ],
            staged_parts: PinnedBuffer::zeroed(device, 2 * rows.div_ceil(PART))?,
            distinct: 0,
            cut: 0,
            rows: 0,
            vocabulary: 0,
        })
    }

    /// Takes the tokens of a batch without waiting for the copy: the device must have been waited for since tokens were set
    /// before.
    ///
    /// # Errors
    /// More tokens than there is room for, a token outside the vocabulary, or a failed device.
    pub fn set(&mut self, ids: &[u32], vocabulary: usize) -> Result<(), KernelError> {
        check_at_least(OP, "the rows", ids.len(), self.ids.len())?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("tokens below the vocabulary of {vocabulary}"),
                got: id.to_string(),
            });
        }
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_by_key(|&row| (ids[row as usize], row));
        let mut starts: Vec<u32> = Vec::new();
        for (at, pair) in order.iter().enumerate() {
            if at == 0 || ids[*pair as usize] != ids[order[at - 1] as usize] {
                starts.push(at as u32);
            }
        }
        self.distinct = starts.len();
        starts.push(ids.len() as u32);
        let frequent = starts.windows(2).filter(|token| (token[1] - token[0]) as usize > PART);
        let parts: Vec<[u32; 2]> = frequent
            .flat_map(|token| {
                let end = token[1];
                (token[0]..end).step_by(PART).map(move |first| [first, end.min(first + PART as u32)])
            })
            .collect();
        self.cut = parts.len();
        self.rows = ids.len();
        self.vocabulary = vocabulary;
        let arrays = [(&self.ids, ids), (&self.order, &order[..]), (&self.starts, &starts[..])];
        for ((to, from), staged) in arrays.into_iter().zip(&mut self.staged) {
            staged.write(from);
            to.write_pinned(staged)?;
        }
        self.staged_parts.write(&parts);
        self.parts.write_pinned(&self.staged_parts)?;
        Ok(())
    }

    /// Tokens of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// The first rows of the residual stream, and the gradients of the tables that they come from.
#[derive(Debug, Clone)]
pub struct TrainEmbedding {
    embed: Function,
    parts: Function,
    backward: Function,
    positions: Function,
    width: usize,
}

kernel_struct! {
    struct Embed as Embed {
        ids: u64,
        table: u64,
        positions: u64,
        x: u64,
        tokens: u32,
    }
}

kernel_struct! {
    struct EmbedBackward as EmbedBackward {
        order: u64,
        starts: u64,
        parts: u64,
        ids: u64,
        dx: u64,
        gradient: u64,
    }
}

kernel_struct! {
    struct PositionsBackward as PositionsBackward {
        dx: u64,
        gradient: u64,
        sequences: u32,
        tokens: u32,
    }
}

/// The tables of an embedding, or their gradients.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingSlices<'a> {
    /// f32 `[v, c]`; like the positions, it starts at a multiple of 4 elements.
    pub table: DeviceSlice<'a, f32>,
    /// f32 `[positions, c]`, of families that learn them.
    pub positions: Option<DeviceSlice<'a, f32>>,
}

impl TrainEmbedding {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            embed: module.function("embed_train", 0)?,
            parts: module.function("embed_parts", 0)?,
            backward: module.function("embed_backward", 0)?,
            positions: module.function("positions_backward", 0)?,
            width: specialisation.hidden,
        })
    }

    /// Writes the embedding of every row to `x`, f32 `[b * T, c]`, of sequences of T = `tokens`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn forward(
        &self,
        batch: &TokenRows,
        tokens: usize,
        tables: EmbeddingSlices<'_>,
        x: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        self.check(batch, tokens, tables, x)?;
        let arguments = Embed {
            ids: batch.ids.pointer(),
            table: tables.table.pointer(),
            positions: tables.positions.map_or(0, |positions| positions.pointer()),
            x: x.pointer(),
            tokens: tokens as u32,
        };
        // SAFETY: the layout of `Embed`; lengths as just checked, tokens when the batch was set.
        unsafe { self.embed.launch(Grid::new(batch.rows, THREADS), &arguments) }?;
        Ok(())
    }

    /// Adds `dx`, f32 `[b * T, c]`, to the gradients of the tables. Rows of frequent tokens are added up in place: `dx` is
    /// used up.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn backward(
        &self,
        batch: &TokenRows,
        tokens: usize,
        dx: &DeviceBuffer<f32>,
        gradients: EmbeddingSlices<'_>,
    ) -> Result<(), KernelError> {
        self.check(batch, tokens, gradients, dx)?;
        if let Some(positions) = gradients.positions {
            let arguments = PositionsBackward {
                dx: dx.pointer(),
                gradient: positions.pointer(),
                sequences: (batch.rows / tokens.max(1)) as u32,
                tokens: tokens as u32,
            };
            // SAFETY: the layout of `PositionsBackward`; lengths as just checked.
            unsafe { self.positions.launch(Grid::new(tokens, THREADS), &arguments) }?;
        }
        let arguments = EmbedBackward {
            order: batch.order.pointer(),
            starts: batch.starts.pointer(),
            parts: batch.parts.pointer(),
            ids: batch.ids.pointer(),
            dx: dx.pointer(),
            gradient: gradients.table.pointer(),
        };
        // SAFETY: the layout of `EmbedBackward`; lengths as just checked, tokens when the batch was set.
        unsafe { self.parts.launch(Grid::new(batch.cut, THREADS), &arguments) }?;
        // SAFETY: as above.
        unsafe { self.backward.launch(Grid::new(batch.distinct, THREADS), &arguments) }?;
        Ok(())
    }

    fn check(
        &self,
        batch: &TokenRows,
        tokens: usize,
        tables: EmbeddingSlices<'_>,
        x: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        check_length(OP, "the rows, in whole sequences,", batch.rows / tokens.max(1) * tokens, batch.rows)?;
        check_at_least(OP, "the residual stream", checked_size(OP, &[batch.rows, self.width])?, x.len())?;
        check_at_least(
            OP,
            "the table",
            checked_size(OP, &[batch.vocabulary, self.width])?,
            tables.table.len(),
        )?;
        let starts =
            [Some(tables.table), tables.positions].into_iter().flatten().map(|table| table.pointer());
        if let Some(start) = starts.into_iter().find(|start| start % 16 != 0) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "tables that start at a multiple of 4 elements".to_owned(),
                got: format!("address {start:#x}"),
            });
        }
        if let Some(positions) = tables.positions {
            check_at_least(OP, "the positions", checked_size(OP, &[tokens, self.width])?, positions.len())?;
        }
        Ok(())
    }
}
