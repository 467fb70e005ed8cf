//! cuBLASLt: products of many rows.
//!
//! The library counts columns first, so `[rows, n]` is its `n x rows`, and a weight `[n, k]` its `k x n`, transposed.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::{result, sys};

use super::blas::{self, Blas, Preference, TRANSPOSED, WORKSPACE, data_type, failed};
use super::recent::Recent;
use crate::DType;
use crate::cuda::{CudaError, Device};

/// Candidates that are timed.
const CANDIDATES: usize = 8;
/// Products that are remembered. Every number of rows makes another five, and a prompt's last chunk has any; what a
/// recorded step chose is in its graph.
const PLANS: usize = 512;

/// What distinguishes one product from another for the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub rows: usize,
    pub outputs: usize,
    /// Outputs from one row of the result to the next: more where these are some of several.
    pub pitch: usize,
    pub inputs: usize,
    /// Of x and the weights.
    pub dtype: DType,
    /// Of the result.
    pub out: DType,
    /// Whether the result is added to what is there.
    pub add: bool,
    pub bias: bool,
    /// Whether GPT-2's GELU should be applied.
    pub gelu: bool,
}

/// Addresses on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub x: u64,
    pub weights: u64,
    /// In the format of the result.
    pub bias: u64,
    pub out: u64,
}

/// Measures how long something takes once it is started.
pub(super) type Timing<'a, E> = dyn FnMut(&dyn Fn() -> Result<(), E>) -> Result<f32, E> + 'a;

/// What of a product the library did itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fused {
    pub bias: bool,
    pub gelu: bool,
}

/// The library, its workspace, and what it chose for each product so far.
#[derive(Debug)]
pub(super) struct BlasLt {
    blas: Blas,
    plans: Mutex<Plans>,
}

/// None: the library has no algorithm.
type Plans = Recent<Shape, Option<Plan>>;

/// Descriptors and algorithms of one product.
#[derive(Debug)]
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    x: sys::cublasLtMatrixLayout_t,
    weights: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithms: Vec<sys::cublasLtMatmulAlgo_t>,
    chosen: usize,
    fused: Fused,
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
            for layout in [self.x, self.weights, self.out] {
                if !layout.is_null() {
                    let _ = result::destroy_matrix_layout(layout);
                }
            }
        }
    }
}

impl BlasLt {
    pub(super) fn new(device: &Device) -> Result<Self, CudaError> {
        Ok(Self { blas: Blas::start(device)?, plans: Mutex::new(Recent::new(PLANS)) })
    }

    /// Starts the product, or says None where the library has no algorithm for it.
    ///
    /// # Safety
    /// The operands are buffers as large as the shape says.
    pub(super) unsafe fn run(&self, shape: Shape, operands: Operands) -> Result<Option<Fused>, CudaError> {
        let mut plans = self.plans();
        let Some(plan) = self.plan(&mut plans, shape, operands)? else { return Ok(None) };
        // SAFETY: the caller's promise.
        unsafe { self.launch(plan, plan.chosen, &shape, operands) }?;
        Ok(Some(plan.fused))
    }

    /// Whether the library has an algorithm for the product.
    pub(super) fn takes(&self, shape: Shape, operands: Operands) -> Result<bool, CudaError> {
        Ok(self.plan(&mut self.plans(), shape, operands)?.is_some())
    }

    /// Times the library's candidates by `time`, which gets something to start, and keeps the fastest; gives its time.
    ///
    /// # Safety
    /// As [`BlasLt::run`].
    pub(super) unsafe fn tune<E: From<CudaError>>(
        &self,
        shape: Shape,
        operands: Operands,
        time: &mut Timing<'_, E>,
    ) -> Result<Option<f32>, E> {
        let mut plans = self.plans();
        let Some(plan) = self.plan(&mut plans, shape, operands)? else { return Ok(None) };
        let mut best = (f32::INFINITY, plan.chosen);
        for number in 0..plan.algorithms.len() {
            // SAFETY: the caller's promise.
            let launch = || unsafe { self.launch(plan, number, &shape, operands) };
            let start = || Ok(launch()?);
            // A candidate that the library proposes and then refuses is no candidate.
            if launch().is_err() {
                continue;
            }
            let taken = time(&start)?;
            if taken < best.0 {
                best = (taken, number);
            }
        }
        plan.chosen = best.1;
        Ok(Some(best.0))
    }

    /// Fills the second-level cache with something else.
    pub(super) fn evict(&self) -> Result<(), CudaError> {
        self.blas.evict()
    }

    fn plans(&self) -> MutexGuard<'_, Plans> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan<'a>(
        &self,
        plans: &'a mut Plans,
        shape: Shape,
        operands: Operands,
    ) -> Result<Option<&'a mut Plan>, CudaError> {
        Ok(plans.get_or_make(shape, || self.search(&shape, operands))?.as_mut())
    }

    /// Asks for algorithms: with everything fused, then with less and less.
    fn search(&self, shape: &Shape, operands: Operands) -> Result<Option<Plan>, CudaError> {
        self.blas.device().bind()?;
        let mut wishes = vec![Fused { bias: shape.bias, gelu: shape.gelu }];
        wishes.push(Fused { bias: shape.bias, gelu: false });
        wishes.push(Fused { bias: false, gelu: false });
        wishes.dedup();
        for fused in wishes {
            let mut plan = Plan::new(shape, fused, operands)?;
            plan.algorithms = self.algorithms(&plan)?;
            if !plan.algorithms.is_empty() {
                return Ok(Some(plan));
            }
        }
        Ok(None)
    }

    fn algorithms(&self, plan: &Plan) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CudaError> {
        let preference = Preference::new()?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        // SAFETY: all descriptors are alive, and there is room for as many results as are asked for.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.blas.handle(),
                plan.operation,
                plan.weights,
                plan.x,
                plan.out,
                plan.out,
                preference.0,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
            .result()
        };
        if asked.is_err() {
            // Not supported: the caller asks for less.
            return Ok(Vec::new());
        }
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        let usable = |result: &&sys::cublasLtMatmulHeuristicResult_t| {
            result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE
        };
        Ok(found.filter(usable).map(|result| result.algo).collect())
    }

    /// # Safety
    /// As [`BlasLt::run`].
    unsafe fn launch(
        &self,
        plan: &Plan,
        number: usize,
        shape: &Shape,
        operands: Operands,
    ) -> Result<(), CudaError> {
        let workspace = self.blas.workspace();
        let queue = self.blas.device().queue()?;
        if plan.fused.bias {
            plan.set_bias(operands.bias)?;
        }
        let (alpha, beta) = (1f32, if shape.add { 1f32 } else { 0f32 });
        // SAFETY: the operands are as large as the shape says, the caller's promise; descriptors are alive, and
        // ours alone while the plans are locked; the library copies what it needs of them before it returns.
        unsafe {
            result::matmul(
                self.blas.handle(),
                plan.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                operands.weights as *const c_void,
                plan.weights,
                operands.x as *const c_void,
                plan.x,
                operands.out as *const c_void,
                plan.out,
                operands.out as *mut c_void,
                plan.out,
                plan.algorithms.get(number).map_or(ptr::null(), ptr::from_ref),
                workspace as *mut c_void,
                WORKSPACE,
                queue.stream().cast(),
            )
        }
        .map_err(|error| CudaError::Blas {
            op: "a product",
            shape: format!("{shape:?}"),
            status: error.to_string(),
        })
    }
}

impl Plan {
    fn new(shape: &Shape, fused: Fused, operands: Operands) -> Result<Self, CudaError> {
        use sys::cublasLtEpilogue_t as Epilogue;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let mut plan = Self {
            operation: ptr::null_mut(),
            x: ptr::null_mut(),
            weights: ptr::null_mut(),
            out: ptr::null_mut(),
            algorithms: Vec::new(),
            chosen: 0,
            fused,
        };
        let (rows, outputs, inputs) = (shape.rows as u64, shape.outputs as u64, shape.inputs as u64);
        let layout = |dtype, rows: u64, columns: u64, pitch: u64| {
            result::create_matrix_layout(data_type(dtype), rows, columns, pitch as i64)
                .map_err(failed("a layout"))
        };
        // True f32 where the weights are: TensorFloat-32 has another name.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        plan.operation =
            result::create_matmul_desc(compute, data_type(DType::F32)).map_err(failed("a descriptor"))?;
        plan.weights = layout(shape.dtype, inputs, outputs, inputs)?;
        plan.x = layout(shape.dtype, inputs, rows, inputs)?;
        plan.out = layout(shape.out, outputs, rows, shape.pitch as u64)?;
        blas::set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = match fused {
            Fused { bias: false, gelu: false } => Epilogue::CUBLASLT_EPILOGUE_DEFAULT,
            Fused { bias: true, gelu: false } => Epilogue::CUBLASLT_EPILOGUE_BIAS,
            Fused { bias: false, gelu: true } => Epilogue::CUBLASLT_EPILOGUE_GELU,
            Fused { bias: true, gelu: true } => Epilogue::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        blas::set(plan.operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        if fused.bias {
            plan.set_bias(operands.bias)?;
        }
        Ok(plan)
    }

    fn set_bias(&self, bias: u64) -> Result<(), CudaError> {
        blas::set(
            self.operation,
            sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
            &bias,
        )
    }
}
