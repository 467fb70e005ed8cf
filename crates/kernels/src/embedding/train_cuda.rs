//! The embedding in training, on the device.

use std::ops::Range;

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, PinnedBuffer, Source,
    Specialisation, kernel_struct,
};
use crate::error::{check_aligned, check_at_least, check_length, checked_size};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "embedding/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("train.cu")),
    constants: |_, _| vec![("THREADS", THREADS as usize), ("PART", PART)],
    arguments: &[
        Embed::LAYOUT,
        EmbedBackward::LAYOUT,
        TokenSums::LAYOUT,
        AddTokens::LAYOUT,
        PositionsBackward::LAYOUT,
    ],
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
    staged_ids: PinnedBuffer<u32>,
    staged: [PinnedBuffer<u32>; 2],
    staged_parts: PinnedBuffer<[u32; 2]>,
    /// The tokens, on the host.
    known: Vec<u32>,
    is_sorted: bool,
    distinct: usize,
    cut: usize,
    rows: usize,
    /// All tokens are below it.
    vocabulary: usize,
}

/// Rows by their tokens.
struct Sorted {
    /// Those of a token together, in order.
    order: Vec<u32>,
    /// Where each token's begin in `order`, and behind the last one.
    starts: Vec<u32>,
    /// First and end in `order` of the parts of tokens that have more than one.
    parts: Vec<[u32; 2]>,
}

impl Sorted {
    fn of(ids: &[u32]) -> Self {
        let keys = ids.iter().enumerate().map(|(row, &id)| u64::from(id) << 32 | row as u64);
        let mut keys: Vec<u64> = keys.collect();
        keys.sort_unstable();
        let token = |at: usize| keys[at] >> 32;
        let starts = (0..keys.len()).filter(|&at| at == 0 || token(at) != token(at - 1));
        let starts: Vec<u32> = starts.chain([keys.len()]).map(|at| at as u32).collect();
        let frequent = starts.windows(2).filter(|token| (token[1] - token[0]) as usize > PART);
        let parts = frequent
            .flat_map(|token| {
                let end = token[1];
                (token[0]..end).step_by(PART).map(move |first| [first, end.min(first + PART as u32)])
            })
            .collect();
        Self { order: keys.iter().map(|&key| key as u32).collect(), starts, parts }
    }
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
            staged_ids: PinnedBuffer::zeroed(device, rows)?,
            staged: [PinnedBuffer::zeroed(device, rows)?, PinnedBuffer::zeroed(device, rows + 1)?],
            known: Vec::with_capacity(rows),
            is_sorted: false,
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
        self.known.clear();
        self.known.extend_from_slice(ids);
        (self.rows, self.vocabulary, self.is_sorted) = (ids.len(), vocabulary, false);
        self.staged_ids.write(ids);
        Ok(self.ids.write_pinned(&self.staged_ids)?)
    }

    /// Finds which rows hold the same token, for the backward pass: apart from [`TokenRows::set`], so that the device need not wait
    /// for it with the forward pass. Does not wait either.
    ///
    /// # Errors
    /// A failed device.
    pub fn sort(&mut self) -> Result<(), KernelError> {
        let Sorted { order, starts, parts } = Sorted::of(&self.known);
        (self.distinct, self.cut, self.is_sorted) = (starts.len() - 1, parts.len(), true);
        for ((to, from), staged) in
            [(&self.order, &order), (&self.starts, &starts)].into_iter().zip(&mut self.staged)
        {
            staged.write(from);
            to.write_pinned(staged)?;
        }
        self.staged_parts.write(&parts);
        Ok(self.parts.write_pinned(&self.staged_parts)?)
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
    sums: Function,
    add: Function,
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
    struct TokenSums as TokenSums {
        order: u64,
        starts: u64,
        ids: u64,
        dx: u64,
        tokens: u64,
        sums: u64,
        distinct: u32,
        padding: u32,
    }
}

kernel_struct! {
    struct AddTokens as AddTokens {
        tokens: u64,
        sums: u64,
        gradient: u64,
        first: u64,
        end: u64,
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

/// The gradients of a batch at the embedding, added up token by token.
#[derive(Debug, Clone, Copy)]
pub struct SumsOfTokens<'a> {
    /// `[rows]`: whose sum each row is; behind the last one, no token's.
    pub tokens: DeviceSlice<'a, u32>,
    /// f32 `[rows, c]`.
    pub sums: DeviceSlice<'a, f32>,
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
            sums: module.function("token_sums", 0)?,
            add: module.function("add_tokens", 0)?,
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
        check_sorted(batch)?;
        self.start_backward(batch, tokens, dx, gradients.positions)?;
        let arguments = EmbedBackward { gradient: gradients.table.pointer(), ..rows_of(batch, dx) };
        // SAFETY: the layout of `EmbedBackward`; lengths as just checked, tokens when the batch was set.
        unsafe { self.backward.launch(Grid::new(batch.distinct, THREADS), &arguments) }?;
        Ok(())
    }

    /// As [`TrainEmbedding::backward`], but the sum of each token's rows is written to `to`, in the order of tokens, instead of being
    /// added to the table.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn sum_tokens(
        &self,
        batch: &TokenRows,
        tokens: usize,
        dx: &DeviceBuffer<f32>,
        positions: Option<DeviceSlice<'_, f32>>,
        to: SumsOfTokens<'_>,
    ) -> Result<(), KernelError> {
        self.check_rows(batch, tokens, dx, positions)?;
        check_sorted(batch)?;
        self.check_sums(to)?;
        check_at_least(OP, "the sums of tokens", batch.rows, to.tokens.len())?;
        self.start_backward(batch, tokens, dx, positions)?;
        let arguments = TokenSums {
            order: batch.order.pointer(),
            starts: batch.starts.pointer(),
            ids: batch.ids.pointer(),
            dx: dx.pointer(),
            tokens: to.tokens.pointer(),
            sums: to.sums.pointer(),
            distinct: batch.distinct as u32,
            padding: 0,
        };
        // SAFETY: the layout of `TokenSums`; lengths as just checked.
        unsafe { self.sums.launch(Grid::new(to.tokens.len(), THREADS), &arguments) }?;
        Ok(())
    }

    /// Adds what [`TrainEmbedding::sum_tokens`] has written, of tokens of this table, to the numbers `own` of its gradient, f32
    /// `[v, c]`, and to no others.
    ///
    /// # Errors
    /// Lengths that do not agree, numbers that do not begin and end at multiples of 4, or a failed device.
    pub fn add_tokens(
        &self,
        from: SumsOfTokens<'_>,
        gradient: DeviceSlice<'_, f32>,
        own: Range<usize>,
    ) -> Result<(), KernelError> {
        self.check_sums(from)?;
        check_at_least(OP, "the table", own.end, gradient.len())?;
        check_aligned(OP, "the table", gradient.pointer(), 16)?;
        if !own.start.is_multiple_of(4) || !(own.end.is_multiple_of(4) || own.end == gradient.len()) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "numbers from a multiple of 4 to another".to_owned(),
                got: format!("{own:?}"),
            });
        }
        let arguments = AddTokens {
            tokens: from.tokens.pointer(),
            sums: from.sums.pointer(),
            gradient: gradient.pointer(),
            first: own.start as u64,
            end: own.end as u64,
        };
        // SAFETY: the layout of `AddTokens`; only numbers inside `own` are touched, which lies in the table.
        unsafe { self.add.launch(Grid::new(from.tokens.len(), THREADS), &arguments) }?;
        Ok(())
    }

    /// The gradient of the positions, and the sums of parts.
    fn start_backward(
        &self,
        batch: &TokenRows,
        tokens: usize,
        dx: &DeviceBuffer<f32>,
        positions: Option<DeviceSlice<'_, f32>>,
    ) -> Result<(), KernelError> {
        if let Some(positions) = positions {
            let arguments = PositionsBackward {
                dx: dx.pointer(),
                gradient: positions.pointer(),
                sequences: (batch.rows / tokens.max(1)) as u32,
                tokens: tokens as u32,
            };
            // SAFETY: the layout of `PositionsBackward`; lengths as the caller checked.
            unsafe { self.positions.launch(Grid::new(tokens, THREADS), &arguments) }?;
        }
        // SAFETY: the layout of `EmbedBackward`; lengths as the caller checked, tokens when the batch was set.
        unsafe { self.parts.launch(Grid::new(batch.cut, THREADS), &rows_of(batch, dx)) }?;
        Ok(())
    }

    fn check(
        &self,
        batch: &TokenRows,
        tokens: usize,
        tables: EmbeddingSlices<'_>,
        x: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        self.check_rows(batch, tokens, x, tables.positions)?;
        check_aligned(OP, "the table", tables.table.pointer(), 16)?;
        let size = checked_size(OP, &[batch.vocabulary, self.width])?;
        check_at_least(OP, "the table", size, tables.table.len())
    }

    fn check_rows(
        &self,
        batch: &TokenRows,
        tokens: usize,
        x: &DeviceBuffer<f32>,
        positions: Option<DeviceSlice<'_, f32>>,
    ) -> Result<(), KernelError> {
        check_length(OP, "the rows, in whole sequences,", batch.rows / tokens.max(1) * tokens, batch.rows)?;
        check_at_least(OP, "the residual stream", checked_size(OP, &[batch.rows, self.width])?, x.len())?;
        if let Some(positions) = positions {
            check_at_least(OP, "the positions", checked_size(OP, &[tokens, self.width])?, positions.len())?;
            check_aligned(OP, "the positions", positions.pointer(), 16)?;
        }
        Ok(())
    }

    fn check_sums(&self, sums: SumsOfTokens<'_>) -> Result<(), KernelError> {
        let size = checked_size(OP, &[sums.tokens.len(), self.width])?;
        check_at_least(OP, "the sums of tokens", size, sums.sums.len())?;
        check_aligned(OP, "the sums of tokens", sums.sums.pointer(), 16)
    }
}

fn check_sorted(batch: &TokenRows) -> Result<(), KernelError> {
    if batch.is_sorted {
        return Ok(());
    }
    Err(KernelError::Invalid {
        op: OP,
        expected: "rows that were sorted since they were set".to_owned(),
        got: "rows that were not".to_owned(),
    })
}

/// What the backward pass reads of a batch; no table yet.
fn rows_of(batch: &TokenRows, dx: &DeviceBuffer<f32>) -> EmbedBackward {
    EmbedBackward {
        order: batch.order.pointer(),
        starts: batch.starts.pointer(),
        parts: batch.parts.pointer(),
        ids: batch.ids.pointer(),
        dx: dx.pointer(),
        gradient: 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_are_sorted_by_token_and_parts_cover_those_of_frequent_ones(
            ids in prop::collection::vec(prop_oneof![0_u32..9, any::<u32>()], 0..500),
        ) {
            let Sorted { order, starts, parts } = Sorted::of(&ids);
            let mut expected: Vec<u32> = (0..ids.len() as u32).collect();
            // A stable sort leaves rows of a token in order.
            expected.sort_by_key(|&row| ids[row as usize]);
            prop_assert_eq!(&order, &expected);
            prop_assert_eq!((starts[0], starts[starts.len() - 1]), (0, ids.len() as u32));
            let mut cut = Vec::new();
            for pair in starts.windows(2) {
                let rows = &order[pair[0] as usize..pair[1] as usize];
                prop_assert!(!rows.is_empty() && rows.iter().all(|&row| ids[row as usize] == ids[rows[0] as usize]));
                if rows.len() > PART {
                    cut.extend(pair[0]..pair[1]);
                }
            }
            prop_assert!(starts.len() - 1 == ids.iter().collect::<std::collections::HashSet<_>>().len());
            prop_assert!(parts.iter().all(|[first, end]| first < end && end - first <= PART as u32));
            prop_assert_eq!(parts.iter().flat_map(|&[first, end]| first..end).collect::<Vec<_>>(), cut);
        }
    }
}
