// The norms in training: forward with what the way back needs, and the gradients.

// A vector of 4 numbers per access where a row divides so.
constexpr u32 STEP = HIDDEN % 4 == 0 ? 4 : 1;
constexpr u32 vectors(u32 threads) { return (HIDDEN + threads * STEP - 1) / (threads * STEP); }

// A short row is one warp's, so that nothing waits for other warps: on the way forward up to what one warp's registers hold, on the
// way back, where they hold sums and the next row as well, rows that are shorter still.
constexpr u32 ROW_THREADS = FORWARD_THREADS / FORWARD_ROWS, ROW_VECTORS = vectors(ROW_THREADS);
__device__ __forceinline__ float row_sum(float x, float* partial) {
    if constexpr (ROW_THREADS == 32) return warp_sum(x);
    else return block_sum<ROW_THREADS / 32>(x, partial);
}

struct NormForward {
    const float* x;        // [t][c]
    const float* weight;   // [c]
    const float* bias;     // [c]: a layer norm; without it an RMS norm
    W* y;                  // [t][c]
    bf16* rest;            // [t][c]: what the rounding of y left over, or none
    float* stats;          // [t][2]: the mean (0 of an RMS norm), and 1 over the deviation
    float epsilon;
    u32 rows;
};

extern "C" __global__ void __launch_bounds__(FORWARD_THREADS) norm_forward(NormForward p) {
    __shared__ float partials[2][32];
    u32 index = blockIdx.x * FORWARD_ROWS + threadIdx.x / ROW_THREADS, lane = threadIdx.x % ROW_THREADS;
    if (index >= p.rows) return;
    auto column = [&](u32 v) { return (v * ROW_THREADS + lane) * STEP; };
    u64 row = (u64)index * HIDDEN;
    float x[ROW_VECTORS][STEP];
    float sum = 0.0f;
#pragma unroll
    for (u32 v = 0; v < ROW_VECTORS; v++) {
#pragma unroll
        for (u32 i = 0; i < STEP; i++) x[v][i] = 0.0f;
        if (column(v) < HIDDEN) load(x[v], p.x + row + column(v));
#pragma unroll
        for (u32 i = 0; i < STEP; i++) sum += x[v][i];
    }
    float mean = p.bias ? row_sum(sum, partials[0]) / (float)HIDDEN : 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (u32 v = 0; v < ROW_VECTORS; v++)
#pragma unroll
        for (u32 i = 0; i < STEP; i++) {
            x[v][i] -= mean;
            if (column(v) < HIDDEN) squares += x[v][i] * x[v][i];
        }
    float scale = 1.0f / sqrtf(row_sum(squares, partials[1]) / (float)HIDDEN + p.epsilon);
    if (lane == 0) p.stats[2 * index] = mean, p.stats[2 * index + 1] = scale;
#pragma unroll
    for (u32 v = 0; v < ROW_VECTORS; v++) {
        if (column(v) >= HIDDEN) continue;
        float weight[STEP], bias[STEP], y[STEP];
        load(weight, p.weight + column(v));
        if (p.bias) load(bias, p.bias + column(v));
#pragma unroll
        for (u32 i = 0; i < STEP; i++) y[i] = p.bias ? fmaf(x[v][i] * scale, weight[i], bias[i]) : x[v][i] * scale * weight[i];
        store(p.y + row + column(v), y);
        if (p.rest) {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) y[i] -= widen(narrow<W>(y[i]));
            store(p.rest + row + column(v), y);
        }
    }
}

struct NormBackward {
    const float* x;        // [t][c], as forward
    const float* weight;   // [c]
    const float* stats;    // [t][2]
    const W* dy;           // [t][c]
    float* dx;             // [t][c]: added to, or written where `fresh`
    W* narrow_dx;          // [t][c]: dx once more, or none
    float* partials;       // [blocks][2][c]: sums of dy n, and of dy, over the rows of each block
    u32 rows, centred, fresh;
};

constexpr u32 BACK_THREADS = BACK_ROWS * NORM_THREADS, VECTORS = vectors(NORM_THREADS), WARPS = NORM_THREADS / 32;

__device__ __forceinline__ u32 column(u32 v) { return (v * NORM_THREADS + threadIdx.x % NORM_THREADS) * STEP; }

// What a thread reads of a row before anything can be said about it.
struct Share {
    float x[VECTORS][STEP], dy[VECTORS][STEP];
    float2 stats;
};
__device__ __forceinline__ void fetch(Share& row, const NormBackward& p, u32 index) {
    u64 at = (u64)index * HIDDEN;
    row.stats = ((const float2*)p.stats)[index];
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        if (column(v) >= HIDDEN) continue;
        load(row.x[v], p.x + at + column(v)), load(row.dy[v], p.dy + at + column(v));
    }
}
// Two sums over a row, to every thread of it; where a row is a block's, between two barriers.
__device__ __forceinline__ float2 row_sums(float2 x, float2* partial) {
    x = make_float2(warp_sum(x.x), warp_sum(x.y));
    if constexpr (WARPS == 1) return x;
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float2 y = threadIdx.x % 32 < WARPS ? partial[threadIdx.x % 32] : make_float2(0.0f, 0.0f);
    return make_float2(warp_sum(y.x), warp_sum(y.y));
}

// While a row's sums are waited for, the next one is read, where registers have room for both.
constexpr bool AHEAD = VECTORS <= 2 && NORM_THREADS <= 512;
// Of short rows all blocks find room at once on a GPU of 128 multiprocessors.
constexpr u32 AT_ONCE = BACK_THREADS <= 128 ? 6 : 1;

// Row i of a block of b: rows i, i + BACK_ROWS b, ...: which rows a block sums does not depend on the device.
extern "C" __global__ void __launch_bounds__(BACK_THREADS, AT_ONCE) norm_backward(NormBackward p) {
    __shared__ float2 partials[2][32];
    float dweight[VECTORS][STEP], dbias[VECTORS][STEP];
    Share row, next;
    next.stats = make_float2(0.0f, 0.0f);
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
#pragma unroll
        for (u32 i = 0; i < STEP; i++) {
            dweight[v][i] = dbias[v][i] = 0.0f;
            next.x[v][i] = next.dy[v][i] = 0.0f;
        }
    }
    u32 first = blockIdx.x * BACK_ROWS + threadIdx.x / NORM_THREADS, step = gridDim.x * BACK_ROWS;
    if (AHEAD && first < p.rows) fetch(next, p, first);
    u32 turn = 0;
    for (u32 index = first; index < p.rows; index += step, turn ^= 1) {
        u64 at = (u64)index * HIDDEN;
        if (!AHEAD) fetch(next, p, index);
        row = next;
        float mean = row.stats.x, scale = row.stats.y;
        float dx[VECTORS][STEP];
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) dx[v][i] = 0.0f;
            if (!p.fresh && column(v) < HIDDEN) load(dx[v], p.dx + at + column(v));
        }
        if (AHEAD && index + step < p.rows) fetch(next, p, index + step);
        float2 sums = make_float2(0.0f, 0.0f);
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            if (column(v) >= HIDDEN) continue;
            float weight[STEP];
            load(weight, p.weight + column(v));
#pragma unroll
            for (u32 i = 0; i < STEP; i++) {
                float n = row.x[v][i] = (row.x[v][i] - mean) * scale;
                dweight[v][i] = fmaf(row.dy[v][i], n, dweight[v][i]);
                dbias[v][i] += row.dy[v][i];
                float g = row.dy[v][i] *= weight[i];
                sums.x = fmaf(g, n, sums.x), sums.y += g;
            }
        }
        // Two sets: the next row's sums must not meet a slow warp that still reads this row's.
        sums = row_sums(sums, partials[turn]);
        float product = sums.x / (float)HIDDEN, sum = p.centred ? sums.y / (float)HIDDEN : 0.0f;
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            if (column(v) >= HIDDEN) continue;
#pragma unroll
            for (u32 i = 0; i < STEP; i++)
                dx[v][i] = fmaf(row.dy[v][i] - sum - row.x[v][i] * product, scale, dx[v][i]);
            store(p.dx + at + column(v), dx[v]);
            if (p.narrow_dx) store(p.narrow_dx + at + column(v), dx[v]);
        }
    }
    float* to = p.partials + (u64)blockIdx.x * 2 * HIDDEN;
    if constexpr (BACK_ROWS > 1) {
        // The rows of a block are added in their order.
        __shared__ __align__(16) float shared[BACK_ROWS][2][HIDDEN];
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            if (column(v) >= HIDDEN) continue;
            store(shared[threadIdx.x / NORM_THREADS][0] + column(v), dweight[v]);
            store(shared[threadIdx.x / NORM_THREADS][1] + column(v), dbias[v]);
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < 2 * HIDDEN; i += BACK_THREADS) {
            float sum = shared[0][0][i];
#pragma unroll
            for (u32 other = 1; other < BACK_ROWS; other++) sum += shared[other][0][i];
            to[i] = sum;
        }
        return;
    }
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        if (column(v) >= HIDDEN) continue;
        store(to + column(v), dweight[v]);
        store(to + HIDDEN + column(v), dbias[v]);
    }
}
