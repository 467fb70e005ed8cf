//! Products of training: any transposition of either operand, sums added to f32.
//!
//! The library counts columns first, so it computes the transpose of a row-major product: `out^T = b^T a^T`.
//! Its first proposal is taken, never the faster of several: which one is faster differs between runs, and a run that is
//! repeated or resumed must compute the same bits.

use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::{fmt, ptr};

use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Wish,
};

use super::blas::{self, Blas, Preference, TRANSPOSED, WORKSPACE, data_type, failed};
use super::recent::Recent;
use crate::cuda::{CudaError, Device, DeviceSlice, Place};
use crate::error::{check_at_least, checked_size};
use crate::{DType, KernelError};

const OP: &str = "product of training";
/// Products that are remembered; what is forgotten is proposed again.
const PLANS: usize = 512;
/// What the library may assume of addresses and strides at most.
const ALIGNMENT: u64 = 16;
/// Rows along which an operand lies are computed in multiples of this where eight does not divide them, and the rest apart: the library takes
/// kernels of an earlier generation for the whole otherwise, at half the speed.
const TOGETHER: usize = 64;

/// A row-major matrix on the device.
#[derive(Debug, Clone, Copy)]
pub struct TrainMatrix<'a> {
    place: Place<'a>,
    dtype: DType,
    rows: usize,
    columns: usize,
    stride: usize,
    turned: bool,
}

impl<'a> TrainMatrix<'a> {
    /// `[rows, columns]` in the bytes of `data`, of `dtype`, each row `stride` elements behind the one before.
    ///
    /// # Errors
    /// Rows that overlap, or do not fit.
    pub fn new(
        data: DeviceSlice<'a, u8>,
        dtype: DType,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Result<Self, KernelError> {
        Self::at(data.place(), data.len(), dtype, rows, columns, stride)
    }

    /// `[rows, columns]` without gaps in f32 `data`.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub fn f32(data: DeviceSlice<'a, f32>, rows: usize, columns: usize) -> Result<Self, KernelError> {
        Self::at(data.place(), data.len().saturating_mul(4), DType::F32, rows, columns, columns)
    }

    fn at(
        place: Place<'a>,
        bytes: usize,
        dtype: DType,
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Result<Self, KernelError> {
        check_at_least(OP, "the stride of a matrix", columns, stride)?;
        let before = checked_size(OP, &[rows.saturating_sub(1), stride, dtype.bytes()])?;
        let last = checked_size(OP, &[usize::from(rows > 0), columns, dtype.bytes()])?;
        check_at_least(OP, "the bytes of a matrix", before.saturating_add(last), bytes)?;
        Ok(Self { place, dtype, rows, columns, stride, turned: false })
    }

    /// The transpose, which lies in memory as it lay.
    #[must_use]
    pub fn turned(self) -> Self {
        Self { rows: self.columns, columns: self.rows, turned: !self.turned, ..self }
    }

    fn rows(self, rows: Range<usize>) -> Self {
        let apart = if self.turned { 1 } else { self.stride };
        let place = self.place.behind((rows.start * apart * self.dtype.bytes()) as u64);
        Self { place, rows: rows.len(), ..self }
    }

    /// The library's layout of what lies in memory: rows are its columns.
    fn stored(&self) -> Stored {
        let (rows, columns) = if self.turned { (self.columns, self.rows) } else { (self.rows, self.columns) };
        Stored { dtype: self.dtype, rows, columns, stride: self.stride, turned: self.turned }
    }

    fn alignment(&self) -> u64 {
        let numbers = self.place.pointer() | (self.stride * self.dtype.bytes()) as u64 | ALIGNMENT;
        1 << numbers.trailing_zeros()
    }
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy)]
pub enum Sum<'a> {
    /// It is stored.
    Store,
    /// It is added to what is there.
    Add,
    /// It and this matrix, of the result's format and shape, are stored: the residual connection.
    With(TrainMatrix<'a>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stored {
    dtype: DType,
    rows: usize,
    columns: usize,
    stride: usize,
    turned: bool,
}

/// What distinguishes one product from another for the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    a: Stored,
    b: Stored,
    out: Stored,
    added: Option<Stored>,
    bias: bool,
    alignments: [u64; 4],
}

impl fmt::Display for Shape {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = if self.a.turned { self.a.rows } else { self.a.columns };
        let [a, b, out] = [self.a, self.b, self.out].map(|matrix| matrix.dtype);
        write!(to, "[{}, {inner}] x [{inner}, {}] of {a} and {b} in {out}", self.out.rows, self.out.columns)
    }
}

/// The library, its workspace, and what it proposed for each product so far.
///
/// A product may be recorded in a graph once it has run outside of one.
#[derive(Debug)]
pub struct TrainProducts {
    blas: Blas,
    plans: Mutex<Recent<Shape, Plan>>,
}

impl TrainProducts {
    /// Starts the library.
    ///
    /// # Errors
    /// No library, or no memory.
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        Ok(Self { blas: Blas::start(device)?, plans: Mutex::new(Recent::new(PLANS)) })
    }

    /// `out = a b`, what [`Sum`] says, and `bias` `[n]` of the result's format added to every row.
    ///
    /// Operands have one format; sums are f32, and true f32 where the operands are.
    ///
    /// # Errors
    /// Shapes or formats that do not agree, a turned result, or a product that the library refuses.
    pub fn multiply(
        &self,
        a: TrainMatrix<'_>,
        b: TrainMatrix<'_>,
        sum: Sum<'_>,
        bias: Option<DeviceSlice<'_, u8>>,
        out: TrainMatrix<'_>,
    ) -> Result<(), KernelError> {
        check(a.dtype == b.dtype, || format!("operands of one format, got {} and {}", a.dtype, b.dtype))?;
        check(a.columns == b.rows, || format!("as many rows of b as columns of a, {}", a.columns))?;
        check(!out.turned && (out.rows, out.columns) == (a.rows, b.columns), || {
            format!("a result [{}, {}], got [{}, {}]", a.rows, b.columns, out.rows, out.columns)
        })?;
        if let Sum::With(added) = &sum {
            let same = (added.rows, added.columns, added.dtype, added.turned)
                == (out.rows, out.columns, out.dtype, false);
            check(same, || "a summand of the result's shape and format".to_owned())?;
        }
        if let Some(bias) = bias {
            check_at_least(OP, "bias", out.columns * out.dtype.bytes(), bias.len())?;
        }
        if out.rows == 0 || out.columns == 0 {
            return Ok(());
        }
        let together = a.rows - a.rows % TOGETHER;
        if a.turned && together > 0 && !a.rows.is_multiple_of(8) {
            return [0..together, together..a.rows].into_iter().try_for_each(|rows| {
                let sum = match sum {
                    Sum::With(added) => Sum::With(added.rows(rows.clone())),
                    Sum::Store | Sum::Add => sum,
                };
                self.multiply(a.rows(rows.clone()), b, sum, bias, out.rows(rows))
            });
        }
        let added = match sum {
            Sum::With(added) => added,
            Sum::Store | Sum::Add => out,
        };
        let shape = Shape {
            a: a.stored(),
            b: b.stored(),
            out: out.stored(),
            added: (!matches!(sum, Sum::Store)).then(|| added.stored()),
            bias: bias.is_some(),
            alignments: [a, b, added, out].map(|matrix| matrix.alignment()),
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = plans.get_or_make(shape, || self.plan(&shape, bias.map_or(0, |bias| bias.pointer())))?;
        Ok(self.launch(plan, &shape, [a, b, added, out].map(|matrix| matrix.place.pointer()), bias)?)
    }

    fn launch(
        &self,
        plan: &Plan,
        shape: &Shape,
        [a, b, added, out]: [u64; 4],
        bias: Option<DeviceSlice<'_, u8>>,
    ) -> Result<(), CudaError> {
        let workspace = self.blas.workspace();
        if let Some(bias) = bias {
            blas::set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.pointer())?;
        }
        let (alpha, beta) = (1f32, if shape.added.is_some() { 1f32 } else { 0f32 });
        let queue = self.blas.device().queue()?;
        // SAFETY: the operands are as large as their matrices say, which their makers have checked; descriptors are alive,
        // and ours alone while the plans are locked; the library copies what it needs of them before it returns.
        unsafe {
            result::matmul(
                self.blas.handle(),
                plan.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                b as *const c_void,
                plan.layouts[1],
                a as *const c_void,
                plan.layouts[0],
                added as *const c_void,
                plan.layouts[2],
                out as *mut c_void,
                plan.layouts[3],
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                queue.stream().cast(),
            )
        }
        .map_err(|error| CudaError::Blas {
            op: "a product",
            shape: shape.to_string(),
            status: error.to_string(),
        })
    }

    fn plan(&self, shape: &Shape, bias: u64) -> Result<Plan, CudaError> {
        self.blas.device().bind()?;
        let mut plan = Plan::new(shape, bias)?;
        let preference = Preference::new()?;
        // The library's A is our b.
        let [a, b, added, out] = shape.alignments.map(|bytes| bytes as u32);
        for (wish, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, added),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            preference.set(wish, &bytes)?;
        }
        // SAFETY: plain numbers, for which zero is a value.
        let mut found: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: all descriptors are alive, and there is room for the one result that is asked for.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.blas.handle(),
                plan.operation,
                plan.layouts[1],
                plan.layouts[0],
                plan.layouts[2],
                plan.layouts[3],
                preference.0,
                1,
                &raw mut found,
                &raw mut count,
            )
            .result()
        };
        let usable = asked.is_ok() && count > 0 && found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
        if !usable {
            return Err(CudaError::Blas {
                op: "finding an algorithm",
                shape: shape.to_string(),
                status: format!("{asked:?}, {count} found"),
            });
        }
        plan.algorithm = found.algo;
        Ok(plan)
    }
}

fn check(holds: bool, expected: impl FnOnce() -> String) -> Result<(), KernelError> {
    if holds {
        return Ok(());
    }
    Err(KernelError::Invalid { op: OP, expected: expected(), got: "others".to_owned() })
}

/// Descriptors and algorithm of one product.
#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    /// Of a, b, what is added, and the result.
    layouts: [sys::cublasLtMatrixLayout_t; 4],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: plain memory of the library's, which any one thread may use at a time.
unsafe impl Send for Plan {}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `Plan::new`, destroyed only here; null where the making stopped early.
        unsafe {
            if !self.operation.is_null() {
                let _ = result::destroy_matmul_desc(self.operation);
            }
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Plan {
    fn new(shape: &Shape, bias: u64) -> Result<Self, CudaError> {
        // SAFETY: plain numbers, for which zero is a value.
        let algorithm = unsafe { std::mem::zeroed() };
        let mut plan = Self { operation: ptr::null_mut(), layouts: [ptr::null_mut(); 4], algorithm };
        // True f32 where the operands are: TensorFloat-32 has another name.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        plan.operation =
            result::create_matmul_desc(compute, data_type(DType::F32)).map_err(failed("a descriptor"))?;
        let stored = [shape.a, shape.b, shape.added.unwrap_or(shape.out), shape.out];
        for (layout, of) in plan.layouts.iter_mut().zip(stored) {
            let (rows, columns) = (of.columns as u64, of.rows as u64);
            *layout = result::create_matrix_layout(data_type(of.dtype), rows, columns, of.stride as i64)
                .map_err(failed("a layout"))?;
        }
        for (attribute, of) in [
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, shape.b),
            (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, shape.a),
        ] {
            if of.turned {
                blas::set(plan.operation, attribute, &TRANSPOSED)?;
            }
        }
        if shape.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            blas::set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            blas::set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(plan)
    }
}
