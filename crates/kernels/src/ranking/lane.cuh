// A lane whose entries are ranked, and where a step says so.

struct Pruned {
    Lanes lanes;
    const Span* spans;
    const u32* kept;  // [spans][layers][GROUPS]: entries that stay of each lane, or on average; NEVER: this one is left alone
};

struct Lane {
    const Lanes& lanes;
    u32 number, length, next;  // `next`: the first query that is still to come
    __device__ __forceinline__ u32 pages() const { return (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES; }
    // Calls `take(page, slot, position, entry)` for each entry that the next query sees: a warp has a page at a time, and
    // asks for several before it looks at the first.
    template <typename Take> __device__ __forceinline__ void each_live(Take take) const {
        constexpr u32 AHEAD = 4, STEP = THREADS / 32;
        const u32 slot = threadIdx.x % 32;
        for (u32 first = threadIdx.x / 32; first < pages(); first += AHEAD * STEP) {
            Page some[AHEAD];
            u32 positions[AHEAD], ends[AHEAD];
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                const u32 index = first + i * STEP;
                some[i] = Page{index < pages() ? lanes.page(number, index).base : nullptr};
            }
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                positions[i] = some[i].base ? some[i].positions()[slot] : NEVER;
                ends[i] = some[i].base ? some[i].expires_at()[slot] : 0;
            }
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) {
                const u32 entry = (first + i * STEP) * PAGE_ENTRIES + slot;
                if (entry < length && positions[i] < next && next < ends[i]) take(some[i], slot, positions[i], entry);
            }
        }
    }
};

// How many entries stay, or NEVER where nothing is to be done; the same in all threads.
__device__ __forceinline__ u32 kept_of(const Pruned& a, u32 span, u32 layer, u32 group) {
    return a.lanes.has(a.spans[span].slot) ? a.kept[((u64)span * a.lanes.layers + layer) * GROUPS + group] : NEVER;
}
__device__ __forceinline__ Lane lane_of(const Pruned& a, u32 span, u32 layer, u32 group) {
    const Span of = a.spans[span];
    const u32 number = a.lanes.lane(of.slot, layer, group);
    return Lane{a.lanes, number, a.lanes.lengths[number], of.first_position + of.queries};
}

// The sum of a number over the block, to every thread; between calls `parts` may be anything.
template <typename T> __device__ __forceinline__ T block_total(T x, T (&parts)[THREADS / 32]) {
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    T total = 0;
#pragma unroll
    for (u32 i = 0; i < THREADS / 32; i++) total += parts[i];
    return total;
}
