//! Memory of the GPUs of other processes on the same host, to which copy engines write while the multiprocessors do
//! something else.

use std::ffi::c_char;
use std::fs;

use cudarc::driver::sys::{self, CUdeviceptr, CUipcMem_flags, CUipcMemHandle};

use super::error::driver;
use super::{CudaError, Device, DeviceSlice};

/// By which the processes of a host find a buffer of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferName(pub [u8; Self::BYTES]);

/// A buffer of another process, at an address of this one.
#[derive(Debug)]
pub(super) struct PeerBuffer {
    device: Device,
    base: CUdeviceptr,
    /// Where the buffer begins.
    pub(super) start: u64,
}

/// Length of the driver's handle of an allocation, and of what tells hosts apart.
const HANDLE: usize = 64;
const HOST: usize = 16;

impl BufferName {
    /// Length of a name: the handle, the buffer's place in the allocation, and the host.
    pub const BYTES: usize = HANDLE + 8 + HOST;

    /// The name of a buffer that is kept until no other process uses it any more.
    ///
    /// # Errors
    /// Memory that cannot be shared, or a host that cannot be told from others.
    pub fn of(device: &Device, buffer: DeviceSlice<'_, u8>) -> Result<Self, CudaError> {
        device.bind()?;
        let pointer = buffer.pointer();
        let (mut base, mut size) = (0, 0);
        let mut handle = CUipcMemHandle { reserved: [0; HANDLE] };
        // SAFETY: room for the answers; the pointer is that of live memory.
        unsafe {
            sys::cuMemGetAddressRange_v2(&raw mut base, &raw mut size, pointer)
                .result()
                .and_then(|()| sys::cuIpcGetMemHandle(&raw mut handle, base).result())
        }
        .map_err(driver("naming memory for other processes"))?;
        let mut name = [0; Self::BYTES];
        for (to, from) in name.iter_mut().zip(handle.reserved) {
            *to = from.cast_unsigned();
        }
        name[HANDLE..HANDLE + 8].copy_from_slice(&(pointer - base).to_le_bytes());
        name[HANDLE + 8..].copy_from_slice(&host()?);
        Ok(Self(name))
    }
}

impl PeerBuffer {
    /// Maps a buffer of another process of this host, whose GPU this one must reach by itself.
    pub(super) fn open(device: &Device, name: &BufferName) -> Result<Self, CudaError> {
        if name.0[HANDLE + 8..] != host()? {
            return Err(refused("the other process runs on another host"));
        }
        device.bind()?;
        let mut handle = CUipcMemHandle { reserved: [0; HANDLE] };
        for (to, from) in handle.reserved.iter_mut().zip(name.0) {
            *to = from as c_char;
        }
        let mut offset = [0; 8];
        offset.copy_from_slice(&name.0[HANDLE..HANDLE + 8]);
        let flags = CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut base = 0;
        // SAFETY: room for the answer; the driver refuses what is no handle of its own.
        unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut base, handle, flags) }
            .result()
            .map_err(driver("reaching the memory of another process"))?;
        Ok(Self { device: device.clone(), base, start: base + u64::from_le_bytes(offset) })
    }
}

impl Drop for PeerBuffer {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: mapped in `open`, and unmapped only here.
            let _ = unsafe { sys::cuIpcCloseMemHandle(self.base) };
        }
    }
}

fn refused(text: &str) -> CudaError {
    CudaError::Nccl { op: "reaching the memory of another process", text: text.to_owned() }
}

/// What tells this host, as long as it runs, from all others.
fn host() -> Result<[u8; HOST], CudaError> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    let (pairs, _) = digits.as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().map_err(|_| refused("this system does not name its hosts"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{DeviceBuffer, testing};

    #[test]
    fn a_buffer_has_a_name_and_a_name_of_another_host_is_refused() {
        let Some(device) = testing::device("names of buffers") else { return };
        let buffer = DeviceBuffer::<u8>::zeroed(&device, "a test", 1 << 22).unwrap();
        let part = DeviceSlice::new(&buffer, 64..1 << 20).unwrap();
        let name = BufferName::of(&device, part).unwrap();
        assert_ne!(name, BufferName::of(&device, (&buffer).into()).unwrap(), "the place counts");
        let mut strange = name;
        strange.0[BufferName::BYTES - 1] ^= 1;
        let error = PeerBuffer::open(&device, &strange).unwrap_err().to_string();
        assert!(error.contains("another host"), "{error}");
    }
}
