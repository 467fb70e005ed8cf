// Lanes that gain entries, prompts that are cut, and lifetimes for the host to look at.

struct GrowArgs {
    Lanes lanes;
    const Span* spans;
    u32* first_pages;
    u32 units;   // spans * GROUPS
    u32 stride;  // of first_pages, from layer to layer
};

constexpr u32 GROW_WARPS = GROW_THREADS / 32;

__device__ __forceinline__ u64 scan_warp(u64 x) {
#pragma unroll
    for (u32 i = 1; i < 32; i *= 2) {
        const u64 before = __shfl_up_sync(ALL, x, i);
        if (threadIdx.x % 32 >= i) x += before;
    }
    return x;
}

// The sum over the threads before this one; that over all of the block is then the last of `sums`. `meet` is called by
// one thread that knows the total, before any of the block goes on.
template <typename Meet> __device__ __forceinline__ u64 scan_block(u64 x, u64 (&sums)[GROW_WARPS], Meet meet) {
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    const u64 sum = scan_warp(x);
    if (thread == 31) sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        const u64 total = scan_warp(thread < GROW_WARPS ? sums[thread] : 0);
        if (thread < GROW_WARPS) sums[thread] = total;
        if (thread == GROW_WARPS - 1) meet(total);
    }
    __syncthreads();
    return (warp > 0 ? sums[warp - 1] : 0) + sum - x;
}

// One block per layer: every lane of the step becomes longer by its span's queries and takes the pages for them;
// then the places of all lanes' pages in one list follow from a prefix sum.
//
// A lane whose table or whose pages do not suffice stays as it is. Pages are taken for GROW_THREADS lanes of a layer
// together, and refused to them together. Reclaim tells the host.
extern "C" __global__ void __launch_bounds__(GROW_THREADS) grow(GrowArgs args) {
    wait_for_previous();
    let_next_start();
    __shared__ u64 sums[GROW_WARPS];
    __shared__ u32 first_free;
    __shared__ bool refused;
    const Lanes& lanes = args.lanes;
    const u32 layer = blockIdx.x, thread = threadIdx.x % 32;
    u32* first_pages = args.first_pages + (u64)layer * args.stride;
    u32 carry = 0;
    for (u32 tile = 0; tile < args.units; tile += GROW_THREADS) {
        const u32 unit = tile + threadIdx.x;
        u32 lane = 0, length = 0, held = 0, wanted = 0, queries = 0;
        if (unit < args.units) {
            const Span span = args.spans[unit / GROUPS];
            if (lanes.has(span.slot)) {
                lane = lanes.lane(span.slot, layer, unit % GROUPS);
                length = lanes.lengths[lane];
                queries = span.queries;
                held = (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
                if (queries > lanes.max_pages * PAGE_ENTRIES - length) {
                    atomicAdd(&lanes.pool->refused, 1);
                    queries = 0;
                }
                wanted = (length + queries + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
            }
        }
        // Both sums in one scan: all pages above, the new ones below.
        u64 before = scan_block((u64)wanted << 32 | (wanted - held), sums, [&](u64 total) {
            const u32 count = (u32)total;
            refused = false;
            if (count == 0) return;
            // The top of the stack; nobody pushes while lanes grow, so what lies above stays ours.
            const int there = (int)atomicSub(&lanes.pool->free, count);
            first_free = there - count;
            // From here on all blocks find too little, so that what was given is the top of the stack without a hole.
            refused = there < (int)count;
            if (refused) atomicAdd(&lanes.pool->owed, count);
        });
        if (refused) {
            if (wanted > held) {
                atomicAdd(&lanes.pool->refused, 1);
                wanted = held, queries = 0;
            }
            __syncthreads();
            before = scan_block((u64)wanted << 32, sums, [](u64) {});
        }
        if (queries > 0) lanes.lengths[lane] = length + queries;
        if (unit < args.units) first_pages[unit] = carry + (u32)(before >> 32);
        carry += (u32)(sums[GROW_WARPS - 1] >> 32);
        // A prompt's lane takes hundreds of pages: the whole warp fills in each table.
        for (u32 growing = __ballot_sync(ALL, wanted > held); growing != 0; growing &= growing - 1) {
            const u32 who = __ffs(growing) - 1;
            const u32 from = __shfl_sync(ALL, held, who), to = __shfl_sync(ALL, wanted, who);
            const u32* taken = lanes.free + first_free + __shfl_sync(ALL, (u32)before, who);
            u32* table = lanes.tables + (u64)__shfl_sync(ALL, lane, who) * lanes.max_pages;
            for (u32 i = thread; i < to - from; i += 32) table[from + i] = taken[i];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) first_pages[args.units] = carry;
}

struct PromptCut {
    u32 slot, first, end, recent, expires_at, killer, floor_sinks, floor_recent;
};
struct CutArgs {
    Lanes lanes;
    const u32* heads;  // [layers][4]: a bit for each lane of the layer that is cut; none: all are
    PromptCut cuts[CUTS];
};

// One block per lane (x) and cut (y).
extern "C" __global__ void __launch_bounds__(CUT_THREADS) cut(CutArgs args) {
    wait_for_previous();
    const PromptCut cut = args.cuts[blockIdx.y];
    const u32 lane = cut.slot * args.lanes.layers * GROUPS + blockIdx.x, group = blockIdx.x % GROUPS;
    if (args.heads && (args.heads[blockIdx.x / GROUPS * 4 + group / 32 % 4] >> group % 32 & 1) == 0) return;
    const u32 length = args.lanes.lengths[lane];
    for (u32 entry = threadIdx.x; entry < length; entry += CUT_THREADS) {
        const Page page = args.lanes.page(lane, entry / PAGE_ENTRIES);
        const u32 slot = entry % PAGE_ENTRIES, position = page.positions()[slot];
        if (position < cut.first || position >= cut.end) continue;
        // What a window lets go later, its own query ends.
        const u32 end = position > NEVER - cut.recent ? NEVER : position + cut.recent;
        const bool later = cut.recent > 0 && end > cut.expires_at;
        lower(page, slot, position, later ? end : cut.expires_at, later ? end : cut.killer,
              Floors{cut.floor_sinks, cut.floor_recent});
    }
}

struct GatherArgs {
    Lanes lanes;
    const u32* offsets;  // [lanes of the slot]: where each lane's entries go
    u32* positions;
    u32* expires_at;
    u32 first_lane;
};

// One block per lane (x): the metadata of its entries, one lane after the other.
extern "C" __global__ void __launch_bounds__(CUT_THREADS) gather(GatherArgs args) {
    wait_for_previous();
    const u32 lane = args.first_lane + blockIdx.x, length = args.lanes.lengths[lane];
    const u32 offset = args.offsets[blockIdx.x];
    for (u32 entry = threadIdx.x; entry < length; entry += CUT_THREADS) {
        const Page page = args.lanes.page(lane, entry / PAGE_ENTRIES);
        args.positions[offset + entry] = page.positions()[entry % PAGE_ENTRIES];
        args.expires_at[offset + entry] = page.expires_at()[entry % PAGE_ENTRIES];
    }
}
