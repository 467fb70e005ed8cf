// What queries that are like a prompt's are expected to give entries: of each query head mean and covariance of the queries
// before their rotation, turned by the mean rotation of the positions to come, and the logarithm of the mean weight that a
// normal query of that kind gives a key.

struct ExpectedArgs {
    Lanes lanes;
    const W* qkv;            // [rows][(h + 2 g) d], queries turned
    const float2* angles;    // [positions][pairs]: cos and sin, or none
    const float2* coming;    // [pairs]: the mean of those to come
    double* sums;            // [PARTS][QUERY_HEADS][D]
    float* means;            // [QUERY_HEADS][D]
    float* spreads;          // [QUERY_HEADS][D][D]: covariance
    float* logits;           // [QUERY_HEADS][stride]
    u32* firsts;             // [KV_HEADS]: the least position that is judged
    u32 slot, layer;
    u32 first_row, queries, first_position;  // the queries that count
    u32 next;                // the first query that is still to come
    u32 pairs, stride, sinks;
    float scale;
    float unscale;           // by what a turned query is multiplied to undo the rotation's own factor
    float epsilon;
    u32 covariance, value_norm;
};

constexpr u32 D = HEAD_DIM, RATIO = QUERY_HEADS / KV_HEADS, FUSED = (QUERY_HEADS + 2 * KV_HEADS) * D;
constexpr u32 WARPS = THREADS / 32;
// Rows of the covariance that a block has, and how many of its numbers a thread.
constexpr u32 SLAB = 16, EACH = (SLAB * D + THREADS - 1) / THREADS;
// Queries that are summed before they are added to sums of f64.
constexpr u32 TILE = 16;

// A number of a query before its rotation.
__device__ __forceinline__ float raw_of(const ExpectedArgs& a, u32 head, u32 query, u32 column) {
    const W* row = a.qkv + (u64)(a.first_row + query) * FUSED + head * D;
    const float own = widen(row[column]);
    if (column >= 2 * a.pairs) return own;
    const bool low = column < a.pairs;
    const u32 pair = low ? column : column - a.pairs;
    const float2 angle = a.angles[(u64)(a.first_position + query) * a.pairs + pair];
    const float other = widen(row[low ? column + a.pairs : pair]);
    return (low ? own * angle.x + other * angle.y : own * angle.x - other * angle.y) * a.unscale;
}

// x: query heads, y: parts of the queries.
extern "C" __global__ void __launch_bounds__(THREADS) expected_sums(const __grid_constant__ ExpectedArgs a) {
    wait_for_previous();
    const u32 head = blockIdx.x, each = (a.queries + PARTS - 1) / PARTS;
    const u32 begin = min(blockIdx.y * each, a.queries), end = min(begin + each, a.queries);
    for (u32 column = threadIdx.x; column < D; column += THREADS) {
        double sum = 0.0;
        for (u32 query = begin; query < end; query++) sum += (double)raw_of(a, head, query, column);
        a.sums[(blockIdx.y * QUERY_HEADS + head) * D + column] = sum;
    }
}

// x: query heads, y: slabs of the covariance.
extern "C" __global__ void __launch_bounds__(THREADS) expected_spreads(const __grid_constant__ ExpectedArgs a) {
    __shared__ float means[D];
    __shared__ float tile[TILE][D];
    wait_for_previous();
    const u32 head = blockIdx.x, first = blockIdx.y * SLAB;
    const double count = (double)max(a.queries, 1u);
    for (u32 column = threadIdx.x; column < D; column += THREADS) {
        double sum = 0.0;
        for (u32 part = 0; part < PARTS; part++) sum += a.sums[(part * QUERY_HEADS + head) * D + column];
        means[column] = (float)(sum / count);
        if (blockIdx.y == 0) a.means[head * D + column] = means[column];
    }
    if (!a.covariance) return;
    double sums[EACH];
#pragma unroll
    for (u32 i = 0; i < EACH; i++) sums[i] = 0.0;
    for (u32 from = 0; from < a.queries; from += TILE) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < TILE * D; i += THREADS) {
            const u32 query = from + i / D;
            tile[i / D][i % D] = query < a.queries ? raw_of(a, head, query, i % D) - means[i % D] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < EACH; i++) {
            const u32 at = i * THREADS + threadIdx.x, row = first + at / D, column = at % D;
            if (at >= SLAB * D || row >= D) continue;
            float sum = 0.0f;
#pragma unroll
            for (u32 query = 0; query < TILE; query++) sum = fmaf(tile[query][row], tile[query][column], sum);
            sums[i] += (double)sum;
        }
    }
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        const u32 at = i * THREADS + threadIdx.x, row = first + at / D;
        if (at < SLAB * D && row < D) a.spreads[((u64)head * D + row) * D + at % D] = (float)(sums[i] / count);
    }
}

// Turns numbers `step` apart.
__device__ __forceinline__ void turn(const ExpectedArgs& a, float* from, u32 step, u32 pair) {
    const float2 angle = a.coming[pair];
    float &low = from[pair * step], &high = from[(pair + a.pairs) * step];
    const float x = low, y = high;
    low = x * angle.x - y * angle.y;
    high = y * angle.x + x * angle.y;
}
// x: query heads. m becomes R m, C becomes R C R^T.
extern "C" __global__ void __launch_bounds__(THREADS) expected_turn(const __grid_constant__ ExpectedArgs a) {
    wait_for_previous();
    float *mean = a.means + blockIdx.x * D, *spread = a.spreads + (u64)blockIdx.x * D * D;
    for (u32 pair = threadIdx.x; pair < a.pairs; pair += THREADS) turn(a, mean, 1, pair);
    if (!a.covariance) return;
    for (u32 i = threadIdx.x; i < D * a.pairs; i += THREADS) turn(a, spread + i / a.pairs * D, 1, i % a.pairs);
    __syncthreads();
    for (u32 i = threadIdx.x; i < D * a.pairs; i += THREADS) turn(a, spread + i % D, D, i / D);
}

// x: KV heads. The first `sinks` entries are not judged: those at the first positions, if they are all there.
extern "C" __global__ void __launch_bounds__(THREADS) expected_sinks(const __grid_constant__ ExpectedArgs a) {
    wait_for_previous();
    const u32 lane = a.lanes.lane(a.slot, a.layer, blockIdx.x / LANE_HEADS), length = a.lanes.lengths[lane];
    // How many entries lie before a position.
    const auto before = [&](u32 end) {
        u32 count = 0;
        for (u32 first = 0; first < length; first += THREADS) {
            const u32 entry = first + threadIdx.x;
            bool counts = false;
            if (entry < length) {
                const Page page = a.lanes.page(lane, entry / PAGE_ENTRIES);
                const u32 slot = entry % PAGE_ENTRIES;
                counts = page.positions()[slot] < end && a.next < page.expires_at()[slot];
            }
            count += __syncthreads_count(counts);
        }
        return count;
    };
    u32 low = min(a.sinks, a.next), high = a.next;
    while (low < high && before(low) < a.sinks) {
        // The least end that has so many before it, or that of the text.
        low += 1;
        while (low < high) {
            const u32 middle = low + (high - low) / 2;
            if (before(middle) < a.sinks) low = middle + 1;
            else high = middle;
        }
    }
    if (threadIdx.x == 0) a.firsts[blockIdx.x] = low;
}

// x: tiles of 32 entries, y: query heads. A warp has some rows of the covariance, a thread an entry.
extern "C" __global__ void __launch_bounds__(THREADS) expected_logits(const __grid_constant__ ExpectedArgs a) {
    __shared__ float keys[PAGE_ENTRIES][D + 1];
    __shared__ float parts[WARPS][PAGE_ENTRIES];
    wait_for_previous();
    const u32 head = blockIdx.y, kv_head = head / RATIO, index = blockIdx.x;
    const u32 lane = a.lanes.lane(a.slot, a.layer, kv_head / LANE_HEADS), length = a.lanes.lengths[lane];
    if (index * PAGE_ENTRIES >= length) return;
    const Page page = a.lanes.page(lane, index);
    for (u32 i = threadIdx.x; i < PAGE_ENTRIES * D; i += THREADS) {
        keys[i / D][i % D] = index * PAGE_ENTRIES + i / D < length ? page.key(kv_head % LANE_HEADS, i / D, i % D) : 0.0f;
    }
    __syncthreads();
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    const float *mean = a.means + head * D, *spread = a.spreads + (u64)head * D * D, *key = keys[thread];
    float sum = 0.0f;
    for (u32 row = warp; row < D; row += WARPS) {
        float product = 0.0f;
        if (a.covariance) {
            for (u32 column = 0; column < D; column++) product = fmaf(spread[row * D + column], key[column], product);
        }
        sum += key[row] * (a.scale * mean[row] + a.scale * a.scale * 0.5f * product);
    }
    parts[warp][thread] = sum;
    __syncthreads();
    const u32 entry = index * PAGE_ENTRIES + thread;
    if (warp > 0 || entry >= length) return;
    sum = 0.0f;
    for (u32 i = 0; i < WARPS; i++) sum += parts[i][thread];
    const u32 position = page.positions()[thread];
    const bool judged = position < a.next && a.next < page.expires_at()[thread] && position >= a.firsts[kv_head];
    a.logits[(u64)head * a.stride + entry] = judged ? sum : -infinity();
}

// The length of an entry's value.
__device__ __forceinline__ float length_of(Page page, u32 head, u32 slot) {
    float sum = 0.0f;
    for (u32 i = 0; i < D; i++) {
        const float x = page.value(head, slot, i);
        sum = fmaf(x, x, sum);
    }
    return sqrtf(sum);
}
// Over the block, to every thread.
template <bool LARGEST> __device__ __forceinline__ float over_block(float x, float (&parts)[WARPS]) {
    x = LARGEST ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
    for (u32 i = 1; i < WARPS; i++) x = LARGEST ? fmaxf(x, parts[i]) : x + parts[i];
    return x;
}

// x: KV heads, each a lane: the mean over its query heads of the softmax over entries, times the value's length.
extern "C" __global__ void __launch_bounds__(THREADS) expected_scores(const __grid_constant__ ExpectedArgs a) {
    __shared__ float parts[WARPS];
    __shared__ float2 rows[RATIO];
    wait_for_previous();
    const u32 kv_head = blockIdx.x, lane = a.lanes.lane(a.slot, a.layer, kv_head / LANE_HEADS);
    const u32 length = a.lanes.lengths[lane];
    const float* logits = a.logits + (u64)kv_head * RATIO * a.stride;
    for (u32 member = 0; member < RATIO; member++) {
        float top = -infinity(), sum = 0.0f;
        for (u32 entry = threadIdx.x; entry < length; entry += THREADS) top = fmaxf(top, logits[(u64)member * a.stride + entry]);
        top = over_block<true>(top, parts);
        const float base = top == -infinity() ? 0.0f : top;
        for (u32 entry = threadIdx.x; entry < length; entry += THREADS) sum += expf(logits[(u64)member * a.stride + entry] - base);
        sum = over_block<false>(sum, parts);
        if (threadIdx.x == 0) rows[member] = make_float2(base, sum);
    }
    __syncthreads();
    for (u32 entry = threadIdx.x; entry < length; entry += THREADS) {
        const Page page = a.lanes.page(lane, entry / PAGE_ENTRIES);
        const u32 slot = entry % PAGE_ENTRIES;
        float score = infinity();
        if (page.positions()[slot] >= a.firsts[kv_head]) {
            score = 0.0f;
#pragma unroll
            for (u32 member = 0; member < RATIO; member++) {
                score += expf(logits[(u64)member * a.stride + entry] - rows[member].x) / rows[member].y;
            }
            score /= (float)RATIO;
            if (a.value_norm) score = (score + a.epsilon) * length_of(page, kv_head % LANE_HEADS, slot);
        }
        page.statistics()[slot] = score;
    }
}
