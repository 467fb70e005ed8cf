//! Lanes with entries, and a step's buffers, for what times attention.

use dropcap_kernels::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceStep, Grid, LaneTables, Module, NO_CONSTANTS, Row,
    Source, Specialisation, StepSize, kernel_struct,
};

const FILL: Source = Source {
    file: "examples/filled",
    text: r#"
struct FillArgs { Lanes lanes; u32 length, unused; };
// One block per (lane, page): pages of a lane lie apart, as after some hours of use.
extern "C" __global__ void fill(FillArgs a) {
    u32 lane = blockIdx.y, index = blockIdx.x, pages = gridDim.x, all = gridDim.x * gridDim.y;
    u32 number = (u32)(((u64)(lane * pages + index) * 1000003u) % all);
    if (threadIdx.x == 0) a.lanes.tables[(u64)lane * a.lanes.max_pages + index] = number;
    if (threadIdx.x == 0 && index == 0) a.lanes.lengths[lane] = a.length;
    Page page = {a.lanes.pages + (u64)number * PAGE_BYTES};
    u32 random = lane * 7919u + index * 104729u + threadIdx.x;
    for (u32 i = threadIdx.x; i < SIDE_OFFSET / sizeof(C); i += blockDim.x) {
        random = random * 1664525u + 1013904223u;
        ((C*)page.base)[i] = narrow<C>((float)(int)random * 4e-10f);
    }
    if (threadIdx.x < 32) {
        page.positions()[threadIdx.x] = index * 32 + threadIdx.x;
        page.expires_at()[threadIdx.x] = NEVER;
    }
}
"#,
    constants: NO_CONSTANTS,
    arguments: &[FillArguments::LAYOUT],
};

kernel_struct! {
    struct FillArguments as FillArgs {
        lanes: LaneTables,
        length: u32,
        unused: u32,
    }
}

/// Lanes of `length` entries, all alive.
pub fn filled(
    device: &Device,
    specialisation: &Specialisation,
    layers: usize,
    slots: usize,
    length: usize,
) -> DeviceLanes {
    let pages = length.div_ceil(32);
    let lanes =
        DeviceLanes::new(device, specialisation, layers, slots, length, layers * slots * pages).unwrap();
    let fill = Module::load(device, &FILL, specialisation).unwrap().function("fill", 0).unwrap();
    let arguments = FillArguments { lanes: lanes.tables(), length: length as u32, unused: 0 };
    // SAFETY: the structure mirrors `FillArgs`, and there is a page for every block.
    unsafe { fill.launch(Grid::new(pages, 256).by(layers * slots), &arguments) }.unwrap();
    lanes
}

/// The buffers of a step, queries random.
pub fn inputs(
    device: &Device,
    specialisation: &Specialisation,
    layers: usize,
    rows: usize,
    spans: usize,
) -> (DeviceStep, StepSize, DeviceBuffer<u8>, DeviceBuffer<u8>) {
    let Specialisation { query_heads, kv_heads, head_dim, .. } = *specialisation;
    let step = DeviceStep::new(device, layers, 1, rows, spans).unwrap();
    let list: Vec<_> = (0..rows as u32).map(|slot| Row { slot, token: 0, position: 0, back: 1 }).collect();
    step.rows.write(0, &list).unwrap();
    let mut random = 1u32;
    let numbers: Vec<u8> = (0..rows * (query_heads + 2 * kv_heads) * head_dim)
        .flat_map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // A bf16 in [0.5, 1) of either sign.
            ((random >> 16) as u16 & 0x807f | 0x3f00).to_le_bytes()
        })
        .collect();
    let qkv = DeviceBuffer::copy_of(device, "queries", &numbers).unwrap();
    let mixed = DeviceBuffer::zeroed(device, "mixed", rows * query_heads * head_dim * 2).unwrap();
    (step, StepSize { rows, spans }, qkv, mixed)
}
