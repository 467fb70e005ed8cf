// The entries of a lane in the order of their positions.

// The sum over the threads before this one, and `total` over all; every thread must come.
__device__ __forceinline__ u32 count_before(bool x, u32 (&parts)[THREADS / 32], u32& total) {
    const u32 mask = __ballot_sync(ALL, x), thread = threadIdx.x % 32;
    __syncthreads();
    if (thread == 0) parts[threadIdx.x / 32] = __popc(mask);
    __syncthreads();
    u32 before = __popc(mask & ((1u << thread) - 1));
    total = 0;
#pragma unroll
    for (u32 i = 0; i < THREADS / 32; i++) {
        if (i < threadIdx.x / 32) before += parts[i];
        total += parts[i];
    }
    return before;
}

// Fills `order` with the numbers of the entries that the next query sees, and says how many there are. There is room for
// `room` of them, at least the tokens of the sequence. Every thread must come.
__device__ __forceinline__ u32 put_in_order(const Lane& lane, u32* order, u32 room, u32 (&parts)[THREADS / 32]) {
    // First the entry at each position, one more than its number.
    const u32 tokens = min(lane.next, room);
    __syncthreads();
    for (u32 i = threadIdx.x; i < tokens; i += THREADS) order[i] = 0;
    __syncthreads();
    lane.each_live([&](Page, u32, u32 position, u32 entry) {
        if (position < tokens) order[position] = entry + 1;
    });
    __syncthreads();
    // No rank is beyond its position, so what is read later stands where it stood.
    u32 count = 0;
    for (u32 first = 0; first < tokens; first += THREADS) {
        const u32 position = first + threadIdx.x, found = position < tokens ? order[position] : 0;
        u32 total;
        const u32 rank = count + count_before(found != 0, parts, total);
        if (found != 0) order[rank] = found - 1;
        count += total;
    }
    __syncthreads();
    return count;
}

__device__ __forceinline__ float* score_of(const Lane& lane, u32 entry) {
    return lane.lanes.page(lane.number, entry / PAGE_ENTRIES).statistics() + entry % PAGE_ENTRIES;
}
