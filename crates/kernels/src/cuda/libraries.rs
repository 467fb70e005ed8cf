//! Finding the shared libraries of CUDA, none of which is needed to build or to run on a CPU.

use std::path::Path;
use std::sync::OnceLock;

use super::CudaError;

/// A shared library that the backend uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// The driver; part of every installation of an NVIDIA driver.
    Driver,
    /// The compiler; needed until the kernels are in the disk cache.
    Nvrtc,
    /// Matrix products.
    CublasLt,
}

/// Where toolkits put their libraries when nothing tells the loader.
pub(super) const FOLDERS: [&str; 4] = [
    "/usr/local/cuda/lib64",
    "/opt/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/local/cuda/targets/x86_64-linux/lib",
];
/// Versions whose interfaces are those that this program calls, newest first.
const VERSIONS: [&str; 2] = ["13", "12"];

impl Library {
    /// All of them.
    pub const ALL: [Library; 3] = [Library::Driver, Library::Nvrtc, Library::CublasLt];

    /// The file name without a version.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Library::Driver => "libcuda.so",
            Library::Nvrtc => "libnvrtc.so",
            Library::CublasLt => "libcublasLt.so",
        }
    }

    /// Loads the library, or says what to install.
    ///
    /// # Errors
    /// [`CudaError::Library`].
    pub fn load(self) -> Result<(), CudaError> {
        static LOADED: OnceLock<[bool; 3]> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            Library::ALL.map(|library| {
                preload(library);
                library.is_present()
            })
        });
        if loaded[self as usize] {
            return Ok(());
        }
        let advice = match self {
            Library::Driver => "install the NVIDIA driver, or use --device cpu",
            Library::Nvrtc => {
                "install the CUDA toolkit 12 or 13 or `pip install nvidia-cuda-nvrtc`, and put its folder into LD_LIBRARY_PATH"
            }
            Library::CublasLt => {
                "install the CUDA toolkit 12 or 13 or `pip install nvidia-cublas`, and put its folder into LD_LIBRARY_PATH"
            }
        };
        Err(CudaError::Library { library: self.name(), advice })
    }

    fn is_present(self) -> bool {
        // SAFETY: loading a library runs its initialisers; these are NVIDIA's, made to be loaded this way.
        unsafe {
            match self {
                Library::Driver => cudarc::driver::sys::is_culib_present(),
                Library::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
                Library::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
            }
        }
    }
}

/// Loads a library from a toolkit's usual folder, where the system's loader does not look. Once in the process, it is
/// found by its name.
fn preload(library: Library) {
    if library == Library::Driver || library.is_present() {
        return;
    }
    let folders = FOLDERS.iter().map(Path::new);
    for file in folders
        .flat_map(|folder| VERSIONS.map(|version| folder.join(format!("{}.{version}", library.name()))))
    {
        if !file.exists() {
            continue;
        }
        // SAFETY: as in `is_present`.
        if let Ok(found) = unsafe { libloading::Library::new(&file) } {
            // It must outlive every use, and the process is the only lifetime that everything agrees on.
            std::mem::forget(found);
            return;
        }
    }
}
