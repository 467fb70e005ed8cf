//! From a .cu file to a function that can be launched: compiled once, kept on disk.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cudarc::driver::result;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute as FunctionAttribute, CUmodule};
use cudarc::nvrtc;
use sha2::{Digest, Sha256};

use super::error::driver;
use super::{CudaError, Device, Library, Specialisation};

/// A kernel file of this crate.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its path below `src/`.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// Shared by all kernel files, in front of each.
const PRELUDE: &str = concat!(include_str!("prelude.cuh"), include_str!("mma.cuh"));

/// Without it a changed option would find code that was compiled with the old ones.
const OPTIONS: [&str; 3] =
    ["--std=c++17", "--extra-device-vectorization", "--device-as-default-execution-space"];

/// The code of one kernel file for one architecture and specialisation.
///
/// # Errors
/// No compiler on this machine, or a file that does not compile.
pub fn compile(source: &Source, target: &str, specialisation: &Specialisation) -> Result<Vec<u8>, CudaError> {
    Library::Nvrtc.load()?;
    let text = format!("{PRELUDE}\n#line 1 \"{}\"\n{}", source.file, source.text);
    let failed = |log: String| CudaError::Compile { file: source.file, target: target.to_owned(), log };
    let text = CString::new(text).map_err(|error| failed(error.to_string()))?;
    let name = CString::new(source.file).map_err(|error| failed(error.to_string()))?;
    let program =
        nvrtc::result::create_program(&text, Some(&name)).map_err(|error| failed(error.to_string()))?;
    let mut options = vec![format!("--gpu-architecture={target}")];
    options.extend(OPTIONS.map(str::to_owned));
    options.extend(specialisation.defines());
    // SAFETY: the program was just made and is destroyed once, below.
    let compiled = unsafe { nvrtc::result::compile_program(program, &options) };
    let code = match compiled {
        // SAFETY: the program is compiled.
        Ok(()) => unsafe { machine_code(program) }.map_err(|error| failed(error.to_string())),
        Err(error) => {
            // SAFETY: the program exists; its log ends with a zero.
            let log = unsafe { nvrtc::result::get_program_log(program) };
            let log = log.map(|log| log.iter().map(|&c| c as u8).collect::<Vec<u8>>()).unwrap_or_default();
            Err(failed(format!("{error}\n{}", String::from_utf8_lossy(&log).trim_end_matches('\0'))))
        }
    };
    // SAFETY: destroyed nowhere else.
    let _ = unsafe { nvrtc::result::destroy_program(program) };
    code
}

/// # Safety
/// The program must have been compiled for a real architecture.
unsafe fn machine_code(program: nvrtc::sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::result::NvrtcError> {
    let mut size = 0usize;
    // SAFETY: the caller's promise; the vector is as long as the library said.
    unsafe {
        nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
        let mut code = vec![0u8; size];
        nvrtc::sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
        Ok(code)
    }
}

/// The kernels of one file, loaded on a device; a clone is the same module.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    device: Device,
    module: CUmodule,
}

// SAFETY: a handle that the driver lets any thread use; `device` is bound before each use.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Module {
    /// Compiles the file, or takes it from the device's disk cache, and loads it.
    ///
    /// A damaged or unwritable cache costs a compilation and nothing else.
    ///
    /// # Errors
    /// As [`compile`], or a driver that refuses the code.
    pub fn load(
        device: &Device,
        source: &Source,
        specialisation: &Specialisation,
    ) -> Result<Self, CudaError> {
        let target = target(device);
        let cached = device.cache().map(|folder| folder.join(key(source, &target, specialisation)));
        if let Some(code) = cached.as_deref().and_then(|path| fs::read(path).ok())
            && let Ok(module) = Self::from_code(device, &code)
        {
            return Ok(module);
        }
        let code = compile(source, &target, specialisation)?;
        if let Some(path) = &cached {
            let _ = store(path, &code);
        }
        Self::from_code(device, &code)
    }

    /// Compiles those of `wanted` that the device's disk cache lacks, several at a time, so that the first start does
    /// not wait for one after the other. Without a cache it does nothing.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn compile_missing(device: &Device, wanted: &[(Source, Specialisation)]) -> Result<(), CudaError> {
        let Some(folder) = device.cache() else { return Ok(()) };
        let target = target(device);
        let place = |(source, specialisation)| folder.join(key(source, &target, specialisation));
        let missing: Vec<_> = wanted
            .iter()
            .map(|(source, specialisation)| (source, specialisation, place((source, specialisation))))
            .filter(|(_, _, path)| !path.exists())
            .collect();
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), CudaError> {
            while let Some((source, specialisation, path)) = missing.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let code = compile(source, &target, specialisation)?;
                // A folder that cannot be written costs a compilation when the module is loaded.
                let _ = store(path, &code);
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
        })
    }

    fn from_code(device: &Device, code: &[u8]) -> Result<Self, CudaError> {
        device.bind()?;
        // SAFETY: the driver checks the image's form.
        let module =
            unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(driver("loading kernels"))?;
        Ok(Self(Arc::new(Loaded { device: device.clone(), module })))
    }

    /// The kernel of that name, which may use up to `shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// No such kernel, or more shared memory than the device has.
    pub fn function(&self, name: &str, shared: u32) -> Result<Function, CudaError> {
        self.0.device.bind()?;
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded for as long as self lives, and the function holds self.
        let function = unsafe { result::module::get_function(self.0.module, name) }
            .map_err(driver("finding a kernel"))?;
        // Also below 48 KiB, which what a kernel declares itself counts towards.
        if shared > 0 {
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            unsafe { result::function::set_function_attribute(function, attribute, shared as i32) }
                .map_err(driver("reserving shared memory"))?;
        }
        // One division of the first-level memory for all kernels: a multiprocessor must be empty to change it, and then
        // no kernel would start beside the one before it.
        let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function was just found.
        unsafe { result::function::set_function_attribute(function, attribute, 100) }
            .map_err(driver("dividing the first-level memory"))?;
        Ok(Function { module: self.clone(), function, shared })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: loaded in `from_code`, unloaded only here.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// A kernel that can be launched.
#[derive(Debug, Clone)]
pub struct Function {
    module: Module,
    function: CUfunction,
    shared: u32,
}

// SAFETY: as for `Loaded`.
unsafe impl Send for Function {}
// SAFETY: as for `Loaded`.
unsafe impl Sync for Function {}

impl Function {
    pub(crate) fn device(&self) -> &Device {
        &self.module.0.device
    }

    pub(crate) fn handle(&self) -> CUfunction {
        self.function
    }

    /// The same kernel for launches that need only `bytes` of the shared memory that was reserved.
    #[must_use]
    pub fn with_shared(&self, bytes: u32) -> Self {
        Self { shared: bytes.min(self.shared), ..self.clone() }
    }

    /// The dynamic shared memory of a launch, in bytes.
    #[must_use]
    pub fn shared(&self) -> u32 {
        self.shared
    }
}

/// The architecture to compile for. Hopper's own instructions exist only in the one that promises no successor.
fn target(device: &Device) -> String {
    let (major, minor) = device.facts().capability;
    format!("sm_{major}{minor}{}", if (major, minor) == (9, 0) { "a" } else { "" })
}

fn key(source: &Source, target: &str, specialisation: &Specialisation) -> PathBuf {
    let mut digest = Sha256::new();
    let parts = [PRELUDE, source.file, source.text, target, env!("CARGO_PKG_VERSION")];
    let defines = specialisation.defines();
    for part in parts.into_iter().chain(OPTIONS).chain(defines.iter().map(String::as_str)) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("{digest}.cubin"))
}

/// Writes beside and renames, so that a reader never sees half a file.
fn store(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let own = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&own, code)?;
    fs::rename(own, path)
}

/// The version of the compiler on this machine.
///
/// # Errors
/// No compiler.
pub fn compiler_version() -> Result<(i32, i32), CudaError> {
    Library::Nvrtc.load()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two valid places to write to.
    let status = unsafe { nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    status.result().map_err(|error| CudaError::Driver {
        op: "asking for the compiler's version",
        name: error.to_string(),
        text: String::new(),
    })?;
    Ok((major, minor))
}
