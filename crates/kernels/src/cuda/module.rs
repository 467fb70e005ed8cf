//! From a .cu file to a function that can be launched: compiled once, kept on disk.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use cudarc::driver::result;
use cudarc::driver::sys::{CUfunction, CUfunction_attribute as FunctionAttribute, CUmodule};

use super::argument::Layout;
use super::compile::{self, Source, compile, compiler_version};
use super::error::driver;
use super::kernel_cache::{KernelCache, Key};
use super::{CudaError, Device, Specialisation};

/// The kernels of one file, loaded on a device; a clone is the same module.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    device: Device,
    module: CUmodule,
    arguments: &'static [Layout],
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
        let wanted = Wanted { source, capability: device.facts().capability, specialisation };
        // What another driver took, this one may refuse: then it is compiled for this one.
        if let Some(code) = device.cache().and_then(|cache| wanted.cached(cache))
            && let Ok(module) = Self::from_code(device, source, &code)
        {
            return Ok(module);
        }
        Self::from_code(device, source, &wanted.compiled(device.cache())?)
    }

    /// Compiles those of `wanted` that the device's disk cache lacks, several at a time, so that the first start does
    /// not wait for one after the other. Without a cache it does nothing.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn compile_missing(device: &Device, wanted: &[(Source, Specialisation)]) -> Result<(), CudaError> {
        let Some(cache) = device.cache() else { return Ok(()) };
        let capability = device.facts().capability;
        let missing: Vec<_> = wanted
            .iter()
            .map(|(source, specialisation)| Wanted { source, capability, specialisation })
            .filter(|wanted| wanted.cached(cache).is_none())
            .collect();
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), CudaError> {
            while let Some(wanted) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                wanted.compiled(Some(cache))?;
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().unwrap_or(Ok(())))
        })
    }

    fn from_code(device: &Device, source: &Source, code: &[u8]) -> Result<Self, CudaError> {
        device.bind()?;
        // SAFETY: what a compiler has made just now, or once and the cache has proven to be that.
        let module =
            unsafe { result::module::load_data(code.as_ptr().cast()) }.map_err(driver("loading kernels"))?;
        Ok(Self(Arc::new(Loaded { device: device.clone(), module, arguments: source.arguments })))
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

    pub(super) fn handle(&self) -> CUfunction {
        self.function
    }

    /// A graph that is being recorded keeps the kernel.
    pub(super) fn keep(&self) {
        self.device().keep(&self.module.0);
    }

    /// Whether the kernel's file has such a structure.
    pub(super) fn knows(&self, layout: Layout) -> bool {
        self.module.0.arguments.contains(&layout)
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

/// Code that is needed.
struct Wanted<'a> {
    source: &'a Source,
    capability: (i32, i32),
    specialisation: &'a Specialisation,
}

impl Wanted<'_> {
    fn key(&self, compiler: (i32, i32)) -> Key {
        compile::key(self.source, self.capability, self.specialisation, compiler)
    }

    /// The code that the compiler of this machine once made, or where there is none, any compiler.
    fn cached(&self, cache: &KernelCache) -> Option<Vec<u8>> {
        match compiler_version() {
            Ok(compiler) => cache.load(&self.key(compiler)),
            Err(_) => cache.load_of_any_compiler(self.key((0, 0)).source),
        }
    }

    /// The code as it is compiled now; kept in the cache where that can be written.
    fn compiled(&self, cache: Option<&KernelCache>) -> Result<Vec<u8>, CudaError> {
        let code = compile(self.source, self.capability, self.specialisation)?;
        if let Some(cache) = cache {
            let _ = cache.store(&self.key(compiler_version()?), &code);
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests;
