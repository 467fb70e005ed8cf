// What keys say of their entries: written beside them, for those that are ranked now. One block per lane (x: layer * GROUPS
// + group) and span (y). A lane has one KV head.

struct KeyArgs {
    Pruned pruned;
    u64 seed;
};

// Numbers of a key that a thread holds: column i * 32 + thread.
constexpr u32 COLUMNS = (HEAD_DIM + 31) / 32;
struct Key {
    float x[COLUMNS];
};
// The warp's key in `slot`.
__device__ __forceinline__ Key key_of(Page page, u32 slot) {
    Key key;
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) {
        const u32 column = i * 32 + threadIdx.x % 32;
        key.x[i] = column < HEAD_DIM ? page.key(0, slot, column) : 0.0f;
    }
    return key;
}
__device__ __forceinline__ float dot(const Key& a, const Key& b) {
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) sum = fmaf(a.x[i], b.x[i], sum);
    return warp_sum(sum);
}

// Calls `take(page, slot, key)` with whole warps for each entry that the next query sees.
template <typename Take> __device__ __forceinline__ void each_key(const Lane& lane, Take take) {
    const u32 thread = threadIdx.x % 32;
    for (u32 index = threadIdx.x / 32; index < lane.pages(); index += THREADS / 32) {
        const Page page = lane.lanes.page(lane.number, index);
        const u32 position = page.positions()[thread];
        const bool live = index * PAGE_ENTRIES + thread < lane.length && position < lane.next && lane.next < page.expires_at()[thread];
        for (u32 left = __ballot_sync(ALL, live); left != 0; left &= left - 1) {
            const u32 slot = __ffs(left) - 1;
            take(page, slot, key_of(page, slot));
        }
    }
}

// Minus the length of every key.
extern "C" __global__ void __launch_bounds__(THREADS) key_norms(const __grid_constant__ KeyArgs a) {
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    if (kept_of(a.pruned, blockIdx.y, layer, group) == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    each_key(lane, [](Page page, u32 slot, const Key& key) {
        const float length = sqrtf(dot(key, key));
        if (threadIdx.x % 32 == 0) page.statistics()[slot] = -length;
    });
}

// Minus the cosine between each key and the mean direction of all.
extern "C" __global__ void __launch_bounds__(THREADS) key_differences(const __grid_constant__ KeyArgs a) {
    __shared__ double sums[THREADS / 32][HEAD_DIM];
    __shared__ float anchor[HEAD_DIM];
    __shared__ u32 parts[THREADS / 32];
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    if (kept_of(a.pruned, blockIdx.y, layer, group) == NEVER) return;
    const Lane lane = lane_of(a.pruned, blockIdx.y, layer, group);
    double own[COLUMNS];
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) own[i] = 0.0;
    u32 count = 0;
    each_key(lane, [&](Page, u32, const Key& key) {
        const float length = fmaxf(sqrtf(dot(key, key)), 1e-12f);
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) own[i] += (double)(key.x[i] / length);
        count += thread == 0;
    });
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) {
        if (i * 32 + thread < HEAD_DIM) sums[warp][i * 32 + thread] = own[i];
    }
    count = block_total(count, parts);
    for (u32 column = threadIdx.x; column < HEAD_DIM; column += THREADS) {
        double sum = 0.0;
        for (u32 w = 0; w < THREADS / 32; w++) sum += sums[w][column];
        anchor[column] = (float)(sum / (double)max(count, 1u));
    }
    __syncthreads();
    Key mean;
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) mean.x[i] = i * 32 + thread < HEAD_DIM ? anchor[i * 32 + thread] : 0.0f;
    const float length = fmaxf(sqrtf(dot(mean, mean)), 1e-8f);
    each_key(lane, [&](Page page, u32 slot, const Key& key) {
        const float product = dot(key, mean), norm = fmaxf(sqrtf(dot(key, key)), 1e-8f);
        if (thread == 0) page.statistics()[slot] = -product / (norm * length);
    });
}

// Uniform numbers, a function of seed, layer, head and position.
extern "C" __global__ void __launch_bounds__(THREADS) key_noise(const __grid_constant__ KeyArgs a) {
    wait_for_previous();
    const u32 layer = blockIdx.x / GROUPS, group = blockIdx.x % GROUPS;
    if (kept_of(a.pruned, blockIdx.y, layer, group) == NEVER) return;
    const u64 of_head = noise_of(a.seed, layer, group);
    lane_of(a.pruned, blockIdx.y, layer, group).each_live([=](Page page, u32 slot, u32 position, u32) {
        page.statistics()[slot] = (float)uniform(noise_at(of_head, 0, position));
    });
}
