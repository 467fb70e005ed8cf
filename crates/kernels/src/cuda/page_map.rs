//! What the copy engine has to know of the pages of a cache: how their rows lie, and how it lays them into shared memory.

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use super::error::driver;
use super::{CudaError, Device, DeviceBuffer, Specialisation};
use crate::PAGE_ENTRIES;

/// Columns of a row of 128 bytes of a format of 16 bits, as products of warp groups read it.
const COLUMNS: usize = 64;

/// A tensor `[pages][2 heads of a lane][32][d]` of 16-bit numbers, keys and values of a head in turn, of which `copy_box` (signals.cuh) takes
/// boxes of 32 rows and 64 columns whose chunks are swapped as `wgmma.cuh` says.
///
/// Only where a chip has such an engine and such products (compute capability 9.0), pages hold numbers of 16 bits, and heads are whole
/// rows.
pub(super) fn of_pages(
    device: &Device,
    specialisation: &Specialisation,
    pages: &DeviceBuffer<u8>,
) -> Result<Option<DeviceBuffer<u64>>, CudaError> {
    let Specialisation { cache, codes, head_dim, kv_heads, groups, .. } = *specialisation;
    let count = pages.len() / specialisation.page_bytes();
    let suits = cache.bytes() == 2 && codes.is_none() && head_dim.is_multiple_of(COLUMNS);
    if device.facts().capability != (9, 0) || !suits || count == 0 {
        return Ok(None);
    }
    let part = PAGE_ENTRIES * head_dim * cache.bytes();
    let extents = [head_dim, PAGE_ENTRIES, 2 * kv_heads / groups, count].map(|extent| extent as u64);
    let strides = [head_dim * cache.bytes(), part, specialisation.page_bytes()].map(|bytes| bytes as u64);
    let mut map = CUtensorMap { opaque: [0; 16] };
    // SAFETY: four extents, three strides (the innermost is a number's size), a box and steps of four, all alive for the call; the
    // memory is the pages'.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            4,
            pages.pointer() as *mut _,
            extents.as_ptr(),
            strides.as_ptr(),
            [COLUMNS as u32, PAGE_ENTRIES as u32, 1, 1].as_ptr(),
            [1u32; 4].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    status.result().map_err(driver("describing pages to the copy engine"))?;
    Ok(Some(DeviceBuffer::copy_of(device, "what the copy engine knows of pages", &map.opaque)?))
}
