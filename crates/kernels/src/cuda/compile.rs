//! From a .cu file to machine code.

use std::ffi::CString;

use cudarc::nvrtc;
use sha2::{Digest, Sha256};

use super::argument::Layout;
use super::kernel_cache::Key;
use super::lanes::SHARED_LAYOUTS;
use super::{CudaError, Library, Specialisation};

/// A kernel file of this crate, and what the host and it must agree on.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its path below `src/`.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Numbers that the host chooses and the file only reads, by name; for a compute capability and a specialisation.
    pub constants: Constants,
    /// Structures that the host passes. A file that lays one out otherwise does not compile.
    pub arguments: &'static [Layout],
}

/// See [`Source::constants`].
pub type Constants = fn((i32, i32), &Specialisation) -> Vec<(&'static str, usize)>;

/// The constants of a file that has none.
pub const NO_CONSTANTS: Constants = |_, _| Vec::new();

/// Shared by all kernel files, in front of each.
const PRELUDE: &str =
    concat!(include_str!("prelude.cuh"), include_str!("lifetimes.cuh"), include_str!("mma.cuh"));

const OPTIONS: [&str; 3] =
    ["--std=c++17", "--extra-device-vectorization", "--device-as-default-execution-space"];

/// The machine code of one kernel file for one compute capability and specialisation.
///
/// # Errors
/// No compiler on this machine, or a file that does not compile.
pub fn compile(
    source: &Source,
    capability: (i32, i32),
    specialisation: &Specialisation,
) -> Result<Vec<u8>, CudaError> {
    Library::Nvrtc.load()?;
    let options = options(source, capability, specialisation);
    let failed = |log: String| CudaError::Compile { file: source.file, target: target(capability), log };
    let text = CString::new(text(source)).map_err(|error| failed(error.to_string()))?;
    let name = CString::new(source.file).map_err(|error| failed(error.to_string()))?;
    let program =
        nvrtc::result::create_program(&text, Some(&name)).map_err(|error| failed(error.to_string()))?;
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

/// The architecture to compile for. Hopper's own instructions exist only in the one that promises no successor.
fn target((major, minor): (i32, i32)) -> String {
    format!("sm_{major}{minor}{}", if (major, minor) == (9, 0) { "a" } else { "" })
}

/// Everything that the compiler is told beside the text.
fn options(source: &Source, capability: (i32, i32), specialisation: &Specialisation) -> Vec<String> {
    let mut options = vec![format!("--gpu-architecture={}", target(capability))];
    options.extend(OPTIONS.map(str::to_owned));
    options.extend(specialisation.defines());
    let pages = [("PAGE_ENTRIES", crate::PAGE_ENTRIES), ("BYTES_OF_PAGE", specialisation.page_bytes())];
    let constants = pages.into_iter().chain((source.constants)(capability, specialisation));
    options.extend(constants.map(|(name, value)| format!("--define-macro={name}={value}u")));
    options
}

/// The whole text: the prelude, the file, and that both sides lay out their structures alike.
fn text(source: &Source) -> String {
    let mut text = format!("{PRELUDE}\n#line 1 \"{}\"\n{}\n", source.file, source.text);
    for layout in SHARED_LAYOUTS.iter().chain(source.arguments) {
        text += &layout.assertions();
    }
    text
}

/// What distinguishes this code from any other that the cache may hold; `compiler` as [`compiler_version`] says.
pub(super) fn key(
    source: &Source,
    capability: (i32, i32),
    specialisation: &Specialisation,
    compiler: (i32, i32),
) -> Key {
    let mut digest = Sha256::new();
    let options = options(source, capability, specialisation);
    for part in [text(source)].iter().chain(&options) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    Key { source: digest.finalize().into(), compiler }
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
