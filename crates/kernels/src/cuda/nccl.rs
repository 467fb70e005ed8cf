//! The functions of NCCL that several GPUs exchange numbers with.
//!
//! They are looked up here and not through cudarc, whose loader asks for `libnccl.so`: distributions and
//! `pip install nvidia-nccl` bring `libnccl.so.2` alone. Their signatures have been the same since NCCL 2.4.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::CUstream;

use super::CudaError;
use super::libraries::FOLDERS;

/// A communicator of the library's.
pub(super) type Handle = *mut c_void;
/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawId(pub(super) [u8; 128]);

/// `ncclResult_t`: 0 for success, 7 for what is still under way.
type Status = c_int;
const SUCCESS: Status = 0;
const IN_PROGRESS: Status = 7;
/// `ncclUint8`.
const BYTE: c_int = 1;
/// `ncclFloat32`.
pub(super) const F32: c_int = 7;
/// `ncclFloat64`.
pub(super) const F64: c_int = 8;
/// `ncclSum`.
const SUM: c_int = 0;

/// The library's functions.
#[derive(Debug)]
pub(super) struct Nccl {
    get_unique_id: unsafe extern "C" fn(*mut RawId) -> Status,
    comm_init_rank: unsafe extern "C" fn(*mut Handle, c_int, RawId, c_int) -> Status,
    all_reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> Status,
    reduce_scatter:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> Status,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Handle, CUstream) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    get_async_error: unsafe extern "C" fn(Handle, *mut Status) -> Status,
    comm_abort: unsafe extern "C" fn(Handle) -> Status,
    comm_destroy: unsafe extern "C" fn(Handle) -> Status,
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    /// Closing it would take the functions away.
    _library: libloading::Library,
}

impl Nccl {
    /// The library, loaded once in the process.
    ///
    /// # Errors
    /// [`CudaError::Library`], with what to install.
    pub(super) fn load() -> Result<&'static Self, CudaError> {
        static LOADED: OnceLock<Option<Nccl>> = OnceLock::new();
        LOADED.get_or_init(Self::open).as_ref().ok_or(CudaError::Library {
            library: "libnccl.so.2",
            advice: "install NCCL 2 (the package libnccl2, or `pip install nvidia-nccl-cu13`), and put its folder into LD_LIBRARY_PATH",
        })
    }

    fn open() -> Option<Self> {
        let names = ["libnccl.so.2".to_owned(), "libnccl.so".to_owned()];
        let folders = FOLDERS.iter().map(|folder| format!("{folder}/libnccl.so.2"));
        names.into_iter().chain(folders).find_map(|name| {
            // SAFETY: loading a library runs its initialisers; this one is NVIDIA's, made to be loaded this way.
            let library = unsafe { libloading::Library::new(name) }.ok()?;
            // SAFETY: the types are those of nccl.h.
            unsafe { Self::of(library) }
        })
    }

    /// # Safety
    /// The library is NCCL 2.
    unsafe fn of(library: libloading::Library) -> Option<Self> {
        // SAFETY: as the caller promises; the pointers are used no longer than the library lives, which is in here.
        unsafe {
            Some(Self {
                get_unique_id: *library.get(b"ncclGetUniqueId\0").ok()?,
                comm_init_rank: *library.get(b"ncclCommInitRank\0").ok()?,
                all_reduce: *library.get(b"ncclAllReduce\0").ok()?,
                reduce_scatter: *library.get(b"ncclReduceScatter\0").ok()?,
                all_gather: *library.get(b"ncclAllGather\0").ok()?,
                group_start: *library.get(b"ncclGroupStart\0").ok()?,
                group_end: *library.get(b"ncclGroupEnd\0").ok()?,
                get_async_error: *library.get(b"ncclCommGetAsyncError\0").ok()?,
                comm_abort: *library.get(b"ncclCommAbort\0").ok()?,
                comm_destroy: *library.get(b"ncclCommDestroy\0").ok()?,
                get_error_string: *library.get(b"ncclGetErrorString\0").ok()?,
                _library: library,
            })
        }
    }

    pub(super) fn unique_id(&self) -> Result<RawId, CudaError> {
        let mut id = RawId([0; 128]);
        // SAFETY: room for an id.
        let status = unsafe { (self.get_unique_id)(&raw mut id) };
        self.checked("naming a world", status).map(|()| id)
    }

    /// # Safety
    /// The device's context is bound to this thread.
    pub(super) unsafe fn join(&self, id: RawId, rank: c_int, size: c_int) -> Result<Handle, CudaError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: room for a handle; the caller promises the rest.
        let status = unsafe { (self.comm_init_rank)(&raw mut handle, size, id, rank) };
        self.checked("joining the other processes", status).map(|()| handle)
    }

    /// # Safety
    /// `count` numbers of a `kind`, [`F32`] or [`F64`], lie at `values` on the communicator's device; handle and stream are alive.
    pub(super) unsafe fn sum(
        &self,
        kind: c_int,
        values: u64,
        count: usize,
        handle: Handle,
        stream: CUstream,
    ) -> Result<(), CudaError> {
        let values = values as *mut c_void;
        // SAFETY: as the caller promises; source and target may be the same.
        let status = unsafe { (self.all_reduce)(values, values, count, kind, SUM, handle, stream) };
        self.checked("adding up over all processes", status)
    }

    /// Sums piece `rank` of the `count` f32 at `values`, cut into pieces of `piece`; the others hold anything afterwards.
    ///
    /// # Safety
    /// As [`Nccl::sum`], of as many pieces as processes.
    pub(super) unsafe fn sum_piece(
        &self,
        values: u64,
        piece: usize,
        rank: usize,
        handle: Handle,
        stream: CUstream,
    ) -> Result<(), CudaError> {
        let (all, own) =
            (values as *const c_void, (values + (rank * piece * size_of::<f32>()) as u64) as *mut c_void);
        // SAFETY: as the caller promises; the target is the source's own piece, which the library allows.
        let status = unsafe { (self.reduce_scatter)(all, own, piece, F32, SUM, handle, stream) };
        self.checked("adding up over all processes", status)
    }

    /// Gives every process the pieces of `piece` bytes of all the others.
    ///
    /// # Safety
    /// As many pieces as processes lie at `bytes` on the communicator's device; handle and stream are alive.
    pub(super) unsafe fn gather(
        &self,
        bytes: u64,
        piece: usize,
        rank: usize,
        handle: Handle,
        stream: CUstream,
    ) -> Result<(), CudaError> {
        let (all, own) = (bytes as *mut c_void, (bytes + (rank * piece) as u64) as *const c_void);
        // SAFETY: as the caller promises; the source is the target's own piece, which the library allows.
        let status = unsafe { (self.all_gather)(own, all, piece, BYTE, handle, stream) };
        self.checked("bringing together what all processes have", status)
    }

    /// Calls of `ask` go to the devices together.
    pub(super) fn together(&self, ask: impl FnOnce() -> Result<(), CudaError>) -> Result<(), CudaError> {
        // SAFETY: no arguments.
        let status = unsafe { (self.group_start)() };
        self.checked("beginning an exchange", status)?;
        let asked = ask();
        // SAFETY: as above. A group that was begun is ended whatever was asked in it.
        let status = unsafe { (self.group_end)() };
        asked.and_then(|()| self.checked("sending an exchange", status))
    }

    /// # Safety
    /// The handle is alive.
    pub(super) unsafe fn check(&self, handle: Handle) -> Result<(), CudaError> {
        let mut state = SUCCESS;
        // SAFETY: as the caller promises; room for a status.
        let status = unsafe { (self.get_async_error)(handle, &raw mut state) };
        self.checked("looking after an exchange", status)?;
        self.checked("an exchange with all processes", state)
    }

    /// Ends a communicator, and with `abort` what it still does.
    ///
    /// # Safety
    /// The handle is alive, and nobody uses it again.
    pub(super) unsafe fn end(&self, handle: Handle, abort: bool) {
        let end = if abort { self.comm_abort } else { self.comm_destroy };
        // SAFETY: as the caller promises. A failure leaves nothing to do.
        let _ = unsafe { end(handle) };
    }

    fn checked(&self, op: &'static str, status: Status) -> Result<(), CudaError> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: any status is allowed; the answer is a static string, or null.
        let text = unsafe {
            let text = (self.get_error_string)(status);
            if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
        };
        let text = text.unwrap_or_else(|| format!("status {status}"));
        Err(CudaError::Nccl { op, text })
    }
}
