// The norms in training: forward with what the way back needs, and the gradients.

// A vector of 4 numbers per access where a row divides so; about two of them per thread.
constexpr u32 STEP = HIDDEN % 4 == 0 ? 4 : 1;
constexpr u32 VECTORS = (HIDDEN + NORM_THREADS * STEP - 1) / (NORM_THREADS * STEP);
constexpr u32 WARPS = NORM_THREADS / 32;

__device__ __forceinline__ u32 column(u32 v) { return (v * NORM_THREADS + threadIdx.x) * STEP; }

struct NormForward {
    const float* x;        // [t][c]
    const float* weight;   // [c]
    const float* bias;     // [c]: a layer norm; without it an RMS norm
    W* y;                  // [t][c]
    bf16* rest;            // [t][c]: what the rounding of y left over, or none
    float* stats;          // [t][2]: the mean (0 of an RMS norm), and 1 over the deviation
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_forward(NormForward p) {
    __shared__ float partials[2][32];
    u64 row = (u64)blockIdx.x * HIDDEN;
    float x[VECTORS][STEP];
    float sum = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
#pragma unroll
        for (u32 i = 0; i < STEP; i++) x[v][i] = 0.0f;
        if (column(v) < HIDDEN) load(x[v], p.x + row + column(v));
#pragma unroll
        for (u32 i = 0; i < STEP; i++) sum += x[v][i];
    }
    float mean = p.bias ? block_sum<WARPS>(sum, partials[0]) / (float)HIDDEN : 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++)
#pragma unroll
        for (u32 i = 0; i < STEP; i++) {
            x[v][i] -= mean;
            if (column(v) < HIDDEN) squares += x[v][i] * x[v][i];
        }
    float scale = 1.0f / sqrtf(block_sum<WARPS>(squares, partials[1]) / (float)HIDDEN + p.epsilon);
    if (threadIdx.x == 0) p.stats[2 * blockIdx.x] = mean, p.stats[2 * blockIdx.x + 1] = scale;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
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

// Rows b, b + blocks, ...: which rows a block sums does not depend on the device.
extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_backward(NormBackward p) {
    __shared__ float partials[2][2][32];
    float dweight[VECTORS][STEP], dbias[VECTORS][STEP], weight[VECTORS][STEP];
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
#pragma unroll
        for (u32 i = 0; i < STEP; i++) dweight[v][i] = dbias[v][i] = weight[v][i] = 0.0f;
        if (column(v) < HIDDEN) load(weight[v], p.weight + column(v));
    }
    u32 turn = 0;
    for (u32 index = blockIdx.x; index < p.rows; index += gridDim.x, turn ^= 1) {
        u64 row = (u64)index * HIDDEN;
        float mean = p.stats[2 * index], scale = p.stats[2 * index + 1];
        float n[VECTORS][STEP], g[VECTORS][STEP], dx[VECTORS][STEP];
        float sum = 0.0f, product = 0.0f;
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) n[v][i] = mean, g[v][i] = dx[v][i] = 0.0f;
            if (column(v) < HIDDEN) {
                load(n[v], p.x + row + column(v)), load(g[v], p.dy + row + column(v));
                if (!p.fresh) load(dx[v], p.dx + row + column(v));
            }
#pragma unroll
            for (u32 i = 0; i < STEP; i++) {
                n[v][i] = (n[v][i] - mean) * scale;
                dweight[v][i] = fmaf(g[v][i], n[v][i], dweight[v][i]);
                dbias[v][i] += g[v][i];
                g[v][i] *= weight[v][i];
                sum += g[v][i];
                product = fmaf(g[v][i], n[v][i], product);
            }
        }
        // Two sets: the next row's sums must not meet a slow warp that still reads this row's.
        product = block_sum<WARPS>(product, partials[turn][0]) / (float)HIDDEN;
        sum = p.centred ? block_sum<WARPS>(sum, partials[turn][1]) / (float)HIDDEN : 0.0f;
#pragma unroll
        for (u32 v = 0; v < VECTORS; v++) {
            if (column(v) >= HIDDEN) continue;
#pragma unroll
            for (u32 i = 0; i < STEP; i++) dx[v][i] = fmaf(g[v][i] - sum - n[v][i] * product, scale, dx[v][i]);
            store(p.dx + row + column(v), dx[v]);
            if (p.narrow_dx) store(p.narrow_dx + row + column(v), dx[v]);
        }
    }
    float* to = p.partials + (u64)blockIdx.x * 2 * HIDDEN;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        if (column(v) >= HIDDEN) continue;
        store(to + column(v), dweight[v]);
        store(to + HIDDEN + column(v), dbias[v]);
    }
}
