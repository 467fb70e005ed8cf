// Both numbers become one score.

// x: tiles of THREADS ranks, y: KV heads. The mean over the query heads of a KV head, times the length of the value.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_attended(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.y;
    const Judged judged = judged_of(a, head);
    const u32 rank = judged.begin + blockIdx.x * THREADS + threadIdx.x;
    if (rank >= judged.end) return;
    float sum = 0.0f, squares = 0.0f;
    for (u32 member = 0; member < RATIO; member++) sum += a.masses[(u64)(head * RATIO + member) * a.stride + rank];
    const Place at = place_of(a, head, rank);
    for (u32 i = 0; i < D; i++) {
        const float x = at.page.value(head % LANE_HEADS, at.slot, i);
        squares = fmaf(x, x, squares);
    }
    a.attended[(u64)head * a.stride + rank] = sum / (float)RATIO * sqrtf(squares);
}

// Blended with both neighbours; beyond the ends there are zeros.
__device__ __forceinline__ float pooled(const CompactorArgs& a, u32 head, Judged judged, u32 rank) {
    const float* row = a.attended + (u64)head * a.stride;
    float sum = rank > judged.begin ? row[rank - 1] : 0.0f;
    sum += row[rank];
    if (rank + 1 < judged.end) sum += row[rank + 1];
    return sum / 3.0f;
}

// One block of MANY threads: mean and deviation of both numbers over all heads.
extern "C" __global__ void __launch_bounds__(MANY) compactor_moments(const __grid_constant__ CompactorArgs a) {
    __shared__ double parts[MANY / 32];
    wait_for_previous();
    const auto total = [&](double x) {
#pragma unroll
        for (u32 i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
        __syncthreads();
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
        x = 0.0;
        for (u32 i = 0; i < MANY / 32; i++) x += parts[i];
        return x;
    };
    double count = 0.0;
    for (u32 head = 0; head < KV_HEADS; head++) count += (double)judged_of(a, head).count();
    for (u32 which = 0; which < 2; which++) {
        const auto each = [&](auto take) {
            for (u32 head = 0; head < KV_HEADS; head++) {
                const Judged judged = judged_of(a, head);
                for (u32 rank = judged.begin + threadIdx.x; rank < judged.end; rank += MANY) {
                    take((double)(which == 0 ? a.leverages[(u64)head * a.stride + rank] : pooled(a, head, judged, rank)));
                }
            }
        };
        double sum = 0.0, squares = 0.0;
        each([&](double x) { sum += x; });
        const double mean = total(sum) / fmax(count, 1.0);
        each([&](double x) { squares += (x - mean) * (x - mean); });
        const double deviation = fmax(sqrt(total(squares) / fmax(count - 1.0, 1.0)), 1e-6);
        if (threadIdx.x == 0) a.moments[2 * which] = mean, a.moments[2 * which + 1] = deviation;
    }
}

// x: tiles of THREADS ranks, y: KV heads.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_scores(const __grid_constant__ CompactorArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.y, rank = blockIdx.x * THREADS + threadIdx.x;
    if (rank >= a.counts[head]) return;
    const Judged judged = judged_of(a, head);
    float score = infinity();
    if (judged.begin <= rank && rank < judged.end) {
        const auto unit = [&](float x, u32 which) { return (float)(((double)x - a.moments[2 * which]) / a.moments[2 * which + 1]); };
        score = a.blending * unit(a.leverages[(u64)head * a.stride + rank], 0) + unit(pooled(a, head, judged, rank), 1);
    }
    const Place at = place_of(a, head, rank);
    at.page.statistics()[at.slot] = score;
}
