//! Gated attention in training, on the device.
//!
//! What gates decide is a number per key, the first query that no longer sees it; attention and its gradients need nothing
//! else of them under the hard rule. The gradient of the gates is a pass of its own, since it also looks at what is dead.

use super::GatedShape;
use super::check::{invalid, length};
use crate::KernelError;
use crate::cuda::{Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation};
use crate::error::{check_at_least, checked_size};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "gated_attention/train.cu",
    text: concat!(include_str!("fragments.cuh"), include_str!("train.cu")),
};

const OP: &str = "attention in training";
/// As SIDE, THREADS, WARPS and MOST_TILES of the kernel file.
pub(super) const SIDE: usize = 64;
pub(super) const THREADS: u32 = 128;
const WARPS: usize = 4;
const MOST_TILES: usize = 1024;

/// Attention of every sequence over the keys that have not expired, and its gradients.
#[derive(Debug, Clone)]
pub struct TrainAttention {
    attend: Function,
    deltas: Function,
    back_keys: Function,
    back_queries: Function,
    specialisation: Specialisation,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Shape {
    tokens: u32,
    groups: u32,
    window: u32,
    scale: f32,
    expires_at: u64,
    qkv: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Attend {
    shape: Shape,
    out: u64,
    lse: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Deltas {
    out: u64,
    dout: u64,
    delta: u64,
    rows: u32,
    tokens: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Back {
    shape: Shape,
    dout: u64,
    lse: u64,
    delta: u64,
    dqkv: u64,
}

/// What the passes of one layer share.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// W `[b * T, (h + 2g) d]`.
    pub qkv: &'a DeviceBuffer<u8>,
    /// The first query that no longer sees each key, u32 `[b, G, T]`; none for dense attention.
    pub expires_at: Option<&'a DeviceBuffer<u32>>,
    /// Attention's output, W `[b * T, h d]`.
    pub out: &'a DeviceBuffer<u8>,
    /// The logarithm of each query's sum of exponentials, f32 `[b, h, T]`.
    pub lse: &'a DeviceBuffer<f32>,
}

impl TrainAttention {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`]; heads that are too wide for the device's shared memory.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        let tile = tile_bytes(specialisation);
        let wide = specialisation.head_dim.next_multiple_of(16) * specialisation.weights.bytes();
        let stages = if wide <= 512 { 2 } else { 1 };
        Ok(Self {
            attend: module.function("attend", (1 + 2 * stages) * tile)?,
            deltas: module.function("deltas", 0)?,
            back_keys: module.function("back_keys", (2 + 2 * stages) * tile)?,
            back_queries: module.function("back_queries", (2 + 2 * stages) * tile)?,
            specialisation: *specialisation,
        })
    }

    /// Writes `out` and `lse`.
    ///
    /// # Errors
    /// A shape that is not the kernels', lengths that do not agree, or a failed device.
    pub fn forward(&self, shape: &GatedShape, layer: Attended<'_>) -> Result<(), KernelError> {
        let arguments =
            Attend { shape: self.shape(shape, &layer)?, out: layer.out.pointer(), lse: layer.lse.pointer() };
        let heads = self.specialisation.query_heads;
        // SAFETY: the layout of `Attend`; lengths as just checked.
        unsafe { self.attend.launch(grid(shape, heads), &arguments) }?;
        Ok(())
    }

    /// From `dout`, W `[b * T, h d]`: writes the gradients of queries, keys and values to `dqkv`, laid out as `qkv`, and
    /// `out . dout` to `delta`, f32 `[b, h, T]`.
    ///
    /// # Errors
    /// A shape that is not the kernels', lengths that do not agree, or a failed device.
    pub fn backward(
        &self,
        shape: &GatedShape,
        layer: Attended<'_>,
        dout: &DeviceBuffer<u8>,
        delta: &DeviceBuffer<f32>,
        dqkv: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let checked = self.shape(shape, &layer)?;
        check_at_least(OP, "dout", layer.out.len().min(self.mixed(shape)?), dout.len())?;
        check_at_least(OP, "delta", self.queries(shape)?, delta.len())?;
        check_at_least(OP, "dqkv", self.fused(shape)?, dqkv.len())?;
        let rows = shape.sequences * shape.tokens;
        let Specialisation { query_heads, kv_heads, .. } = self.specialisation;
        let arguments = Deltas {
            out: layer.out.pointer(),
            dout: dout.pointer(),
            delta: delta.pointer(),
            rows: rows as u32,
            tokens: shape.tokens as u32,
        };
        let blocks = (rows * query_heads).div_ceil(WARPS);
        // SAFETY: the layout of `Deltas`; lengths as just checked.
        unsafe { self.deltas.launch(Grid::new(blocks, THREADS), &arguments) }?;
        let arguments = Back {
            shape: checked,
            dout: dout.pointer(),
            lse: layer.lse.pointer(),
            delta: delta.pointer(),
            dqkv: dqkv.pointer(),
        };
        // SAFETY: the layout of `Back`; lengths as just checked.
        unsafe { self.back_keys.launch(grid(shape, kv_heads), &arguments) }?;
        // SAFETY: as above.
        unsafe { self.back_queries.launch(grid(shape, query_heads), &arguments) }?;
        Ok(())
    }

    fn fused(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        let Specialisation { query_heads, kv_heads, head_dim, weights, .. } = self.specialisation;
        let width = (query_heads + 2 * kv_heads) * head_dim * weights.bytes();
        checked_size(OP, &[shape.sequences, shape.tokens, width])
    }

    fn mixed(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        let Specialisation { query_heads, head_dim, weights, .. } = self.specialisation;
        checked_size(OP, &[shape.sequences, shape.tokens, query_heads * head_dim, weights.bytes()])
    }

    fn queries(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        checked_size(OP, &[shape.sequences, shape.tokens, self.specialisation.query_heads])
    }

    fn shape(&self, shape: &GatedShape, layer: &Attended<'_>) -> Result<Shape, KernelError> {
        check_shape(&self.specialisation, shape)?;
        check_at_least(OP, "qkv", self.fused(shape)?, layer.qkv.len())?;
        check_at_least(OP, "out", self.mixed(shape)?, layer.out.len())?;
        check_at_least(OP, "lse", self.queries(shape)?, layer.lse.len())?;
        if let Some(expires_at) = layer.expires_at {
            let wanted = checked_size(OP, &[shape.sequences, shape.gate_heads, shape.tokens])?;
            check_at_least(OP, "expires_at", wanted, expires_at.len())?;
        }
        Ok(Shape {
            tokens: shape.tokens as u32,
            groups: shape.gate_heads as u32,
            window: window(shape),
            scale: shape.attention.scale,
            expires_at: layer.expires_at.map_or(0, DeviceBuffer::pointer),
            qkv: layer.qkv.pointer(),
        })
    }
}

/// Bytes of a tile of keys, values or queries: TILE_BYTES of the kernel file.
pub(super) fn tile_bytes(specialisation: &Specialisation) -> u32 {
    let element = specialisation.weights.bytes();
    (SIDE * (specialisation.head_dim.next_multiple_of(16) * element + 16)) as u32
}

/// The sliding window as kernels take it: `u32::MAX` where every key is inside.
pub(super) fn window(shape: &GatedShape) -> u32 {
    match shape.sliding_window {
        Some(window) if (window as usize) < shape.tokens => window,
        _ => u32::MAX,
    }
}

pub(super) fn check_shape(specialisation: &Specialisation, shape: &GatedShape) -> Result<(), KernelError> {
    let heads = &shape.attention;
    length("query heads", specialisation.query_heads, heads.query_heads)?;
    length("KV heads", specialisation.kv_heads, heads.kv_heads)?;
    length("the width of heads", specialisation.head_dim, heads.head_dim)?;
    if shape.gate_heads != 1 && shape.gate_heads != heads.kv_heads {
        return Err(invalid(format!("1 gate head or {}", heads.kv_heads), shape.gate_heads.to_string()));
    }
    let positive = heads.scale > 0.0 && shape.sliding_window != Some(0) && shape.recent > 0;
    if !positive || shape.tokens == 0 || shape.tokens > SIDE * MOST_TILES {
        return Err(invalid(
            format!("1 to {} tokens, a positive scale, window and recent range", SIDE * MOST_TILES),
            format!("{shape:?}"),
        ));
    }
    Ok(())
}

fn grid(shape: &GatedShape, heads: usize) -> Grid {
    let tiles = shape.tokens.div_ceil(SIDE);
    Grid { blocks: [tiles as u32, heads as u32, shape.sequences as u32], threads: THREADS, early: false }
}
