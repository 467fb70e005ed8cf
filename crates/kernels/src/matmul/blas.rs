//! What every use of cuBLASLt needs: the library itself, its words for our formats, its errors in ours.

use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use crate::DType;
use crate::cuda::{CudaError, Device, DeviceBuffer, Library};

/// Memory that the library may use between the kernels of one product.
pub(super) const WORKSPACE: usize = 64 << 20;
/// CUBLAS_OP_T, which the bindings of this library leave to those of another.
pub(super) const TRANSPOSED: u32 = 1;
/// CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE: partial sums meet in f32 and in a fixed order. The other schemes add them in
/// the format of the result, or in the order in which they come.
const REDUCTION: u32 = 2;

/// The started library and its workspace.
#[derive(Debug)]
pub(super) struct Blas {
    handle: Arc<Handle>,
    workspace: DeviceBuffer<u8>,
}

#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's handle may be used by any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made in `Blas::start`, destroyed only here.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

impl Blas {
    pub(super) fn start(device: &Device) -> Result<Self, CudaError> {
        Library::CublasLt.load()?;
        device.bind()?;
        let workspace = DeviceBuffer::uninitialized(device, "the workspace of products", WORKSPACE)?;
        let handle = result::create_handle().map_err(|error| CudaError::Blas {
            op: "starting the library",
            shape: "products".to_owned(),
            status: error.to_string(),
        })?;
        Ok(Self { handle: Arc::new(Handle(handle)), workspace })
    }

    pub(super) fn handle(&self) -> sys::cublasLtHandle_t {
        self.handle.0
    }

    pub(super) fn device(&self) -> &Device {
        self.workspace.device()
    }

    /// The address of the workspace, for a product that starts now: a graph that records it keeps the library and this.
    pub(super) fn workspace(&self) -> u64 {
        self.device().keep(&self.handle);
        self.workspace.pointer()
    }

    /// Fills the second-level cache with something else.
    pub(super) fn evict(&self) -> Result<(), CudaError> {
        self.workspace.fill_bytes(0)
    }
}

/// What the library may do when it looks for an algorithm.
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

impl Preference {
    /// Our workspace, and sums in a fixed order.
    pub(super) fn new() -> Result<Self, CudaError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
        let preference = Self(result::create_matmul_pref().map_err(failed("a preference"))?);
        preference.set(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        preference.set(Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &REDUCTION)?;
        Ok(preference)
    }

    pub(super) fn set<T: Copy>(
        &self,
        wish: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CudaError> {
        // SAFETY: the preference is alive; each caller passes the attribute's own type.
        unsafe {
            result::set_matmul_pref_attribute(self.0, wish, ptr::from_ref(value).cast(), size_of::<T>())
        }
        .map_err(failed("a preference"))
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: destroyed only here.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Sets one attribute of a product.
pub(super) fn set<T: Copy>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<(), CudaError> {
    // SAFETY: callers pass a living descriptor and the attribute's own type.
    unsafe {
        result::set_matmul_desc_attribute(operation, attribute, ptr::from_ref(value).cast(), size_of::<T>())
    }
    .map_err(failed("an attribute"))
}

pub(super) fn failed(what: &'static str) -> impl Fn(result::CublasError) -> CudaError {
    move |error| CudaError::Blas { op: "preparing", shape: what.to_owned(), status: error.to_string() }
}

pub(super) fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}
