// What the queries of a window gave becomes a score: the mean over them and over the query heads, blended with neighbours in
// the order of positions, and the window's own entries worth more than any.

struct PoolArgs {
    Pruned pruned;
    u32* room;     // of each block: [2][stride]
    u32 stride;    // at least the tokens of every sequence that is pruned
    u32 lanes, spans;  // lanes of a sequence; spans of the step
    u32 window, reach, largest;  // queries; neighbours on each side; whether the largest counts, otherwise the mean
};

constexpr u32 RATIO = QUERY_HEADS / KV_HEADS;

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

extern "C" __global__ void __launch_bounds__(THREADS) pool(const __grid_constant__ PoolArgs a) {
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    u32* order = a.room + (u64)blockIdx.x * 2 * a.stride;
    float* means = (float*)order + a.stride;
    for (u32 task = blockIdx.x; task < a.lanes * a.spans; task += gridDim.x) {
        const u32 span = task / a.lanes, layer = task % a.lanes / GROUPS, group = task % GROUPS;
        if (kept_of(a.pruned, span, layer) == NEVER) continue;
        const Lane lane = lane_of(a.pruned, span, layer, group);
        // First the entry at each position, one more than its number.
        const u32 tokens = min(lane.next, a.stride);
        __syncthreads();
        for (u32 i = threadIdx.x; i < tokens; i += THREADS) order[i] = 0;
        __syncthreads();
        lane.each_live([&](Page, u32, u32 position, u32 entry) {
            if (position < tokens) order[position] = entry + 1;
        });
        __syncthreads();
        // Then the entries in order. No rank is beyond its position, so what is read later stands where it stood.
        u32 count = 0;
        for (u32 first = 0; first < tokens; first += THREADS) {
            const u32 position = first + threadIdx.x, found = position < tokens ? order[position] : 0;
            u32 total;
            const u32 rank = count + count_before(found != 0, parts, total);
            if (found != 0) {
                const u32 entry = found - 1;
                const float sum = lane.lanes.page(lane.number, entry / PAGE_ENTRIES).statistics()[entry % PAGE_ENTRIES];
                order[rank] = entry;
                means[rank] = sum / (float)RATIO / (float)max(a.window, 1u);
            }
            count += total;
        }
        __syncthreads();
        const u32 judged = count > a.window ? count - a.window : 0;
        for (u32 rank = threadIdx.x; rank < count; rank += THREADS) {
            float score = infinity();
            if (rank < judged) {
                const u32 from = rank > a.reach ? rank - a.reach : 0, to = min(judged - rank > a.reach ? rank + a.reach + 1 : judged, judged);
                score = a.largest ? -infinity() : 0.0f;
                for (u32 i = from; i < to; i++) {
                    const float x = means[i];
                    if (!a.largest) score += x;
                    else if (x > score || x != x) score = x;
                }
                if (!a.largest) score /= (float)(2 * a.reach + 1);
            }
            const u32 entry = order[rank];
            lane.lanes.page(lane.number, entry / PAGE_ENTRIES).statistics()[entry % PAGE_ENTRIES] = score;
        }
    }
}
