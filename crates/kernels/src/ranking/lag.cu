// How much an entry spreads over its channels when they are scaled by the part of the text that follows. Entries lie in
// partitions in the order of positions; each is judged by the next.

struct LagArgs {
    Pruned pruned;
    u32* room;         // of each block: [3][stride]
    u32 stride;        // at least the tokens of every sequence that is pruned
    u32 lanes, spans;  // lanes of a sequence; spans of the step
    u32 sinks, lag;    // first entries, which stay; entries of a partition
    u32 across;        // whether scores of different partitions are compared as they are, otherwise by their rank in each
};

constexpr u32 WARPS = THREADS / 32;
// Numbers of a key or a value that a thread holds: column i * 32 + thread.
constexpr u32 COLUMNS = (HEAD_DIM + 31) / 32;

// A number of an entry: of its key below HEAD_DIM, then of its value.
__device__ __forceinline__ float number_of(const Lane& lane, u32 entry, u32 channel) {
    const Page page = lane.lanes.page(lane.number, entry / PAGE_ENTRIES);
    const u32 slot = entry % PAGE_ENTRIES;
    return channel < HEAD_DIM ? page.key(0, slot, channel) : page.value(0, slot, channel - HEAD_DIM);
}
__device__ __forceinline__ double warp_sum_f64(double x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
    return x;
}
// The largest over the block, NaN left out; to every thread.
__device__ __forceinline__ float block_max(float x, float (&parts)[WARPS]) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) x = fmaxf(x, parts[i]);
    return x;
}

// Turns `count` numbers into the softmax of them.
__device__ __forceinline__ void soften(float* numbers, u32 count, float (&parts)[WARPS]) {
    float top = -infinity();
    for (u32 i = threadIdx.x; i < count; i += THREADS) top = fmaxf(top, numbers[i]);
    top = block_max(top, parts);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += THREADS) sum += expf(numbers[i] - top);
    sum = block_total(sum, parts);
    for (u32 i = threadIdx.x; i < count; i += THREADS) numbers[i] = expf(numbers[i] - top) / sum;
    __syncthreads();
}

// Whether a is worth less than b; NaN is below everything.
__device__ __forceinline__ bool worth_less(float a, float b) { return a < b || (a != a && b == b); }

extern "C" __global__ void __launch_bounds__(THREADS) lag(const __grid_constant__ LagArgs a) {
    __shared__ u32 counts[WARPS];
    __shared__ float parts[WARPS];
    __shared__ float least[2 * HEAD_DIM], range[2 * HEAD_DIM];
    wait_for_previous();
    u32* order = a.room + (u64)blockIdx.x * 3 * a.stride;
    float* spreads = (float*)order + a.stride;  // [2][stride]: of keys, of values
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    for (u32 task = blockIdx.x; task < a.lanes * a.spans; task += gridDim.x) {
        const u32 span = task / a.lanes, layer = task % a.lanes / GROUPS, group = task % GROUPS;
        if (kept_of(a.pruned, span, layer, group) == NEVER) continue;
        const Lane lane = lane_of(a.pruned, span, layer, group);
        const u32 count = put_in_order(lane, order, a.stride, counts);
        const u32 sinks = min(a.sinks, count), judged = count - sinks, partitions = judged / a.lag;
        // Those that no partition judges.
        const u32 first_free = partitions < 2 ? sinks : sinks + (partitions - 1) * a.lag;
        for (u32 rank = threadIdx.x; rank < count; rank += THREADS) {
            if (rank < sinks) *score_of(lane, order[rank]) = infinity();
            else if (partitions < 2) *score_of(lane, order[rank]) = (float)(rank - sinks) / (float)judged;
            else if (rank >= first_free) *score_of(lane, order[rank]) = 1.0f;
        }
        for (u32 first = sinks; first < first_free; first += a.lag) {
            __syncthreads();
            for (u32 channel = threadIdx.x; channel < 2 * HEAD_DIM; channel += THREADS) {
                float low = infinity(), high = -infinity();
                for (u32 i = 0; i < a.lag; i++) {
                    const float x = number_of(lane, order[first + a.lag + i], channel);
                    low = fminf(low, x), high = fmaxf(high, x);
                }
                least[channel] = low;
                range[channel] = high - low;
            }
            __syncthreads();
            for (u32 i = warp; i < 2 * a.lag; i += WARPS) {
                const u32 which = i / a.lag, entry = order[first + i % a.lag];
                double scaled[COLUMNS], sum = 0.0, squares = 0.0;
#pragma unroll
                for (u32 j = 0; j < COLUMNS; j++) {
                    const u32 column = j * 32 + thread, channel = which * HEAD_DIM + column;
                    scaled[j] = 0.0;
                    if (column < HEAD_DIM) scaled[j] = (double)((number_of(lane, entry, channel) - least[channel]) / range[channel]);
                    sum += scaled[j];
                }
                const double mean = warp_sum_f64(sum) / (double)HEAD_DIM;
#pragma unroll
                for (u32 j = 0; j < COLUMNS; j++) {
                    if (j * 32 + thread < HEAD_DIM) squares += (scaled[j] - mean) * (scaled[j] - mean);
                }
                squares = warp_sum_f64(squares);
                if (thread == 0) spreads[which * a.stride + i % a.lag] = (float)sqrt(squares / (double)(max(HEAD_DIM, 2) - 1));
            }
            __syncthreads();
            soften(spreads, a.lag, parts);
            soften(spreads + a.stride, a.lag, parts);
            for (u32 i = threadIdx.x; i < a.lag; i += THREADS) {
                const float both = (spreads[i] + spreads[a.stride + i]) / 2.0f;
                spreads[i] = both;
                if (a.across) *score_of(lane, order[first + i]) = both;
            }
            if (a.across) continue;
            __syncthreads();
            for (u32 i = threadIdx.x; i < a.lag; i += THREADS) {
                u32 rank = 0;
                for (u32 j = 0; j < a.lag; j++) {
                    const bool less = worth_less(spreads[j], spreads[i]), more = worth_less(spreads[i], spreads[j]);
                    rank += less || (!more && j < i);
                }
                *score_of(lane, order[first + i]) = (float)rank / (float)a.lag;
            }
        }
    }
}
