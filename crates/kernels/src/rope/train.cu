// Queries and keys between their product and attention: the norm of each head where the family has one, then the turn by
// position; and the way back. A warp owns a head of a row.

constexpr u32 D = HEAD_DIM, HEADS = QUERY_HEADS + KV_HEADS, FUSED = (QUERY_HEADS + 2 * KV_HEADS) * D;
constexpr u32 EACH = (D + 31) / 32, WARPS = THREADS / 32;

struct Turn {
    const W* from;               // [t][FUSED], as the product left it
    W* to;                       // [t][FUSED]; may be `from`
    const float* query_weight;   // [d], or none: no norm
    const float* key_weight;     // [d]
    const float* cosines;        // [T][pairs]
    const float* sines;
    u32 rows, tokens, pairs;
    float epsilon;
};

// Element i of a head is lane i % 32's number i / 32.
__device__ __forceinline__ float of_head(const float (&x)[EACH], u32 i) {
    float found = 0.0f;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        float other = __shfl_sync(ALL, x[j], i % 32);
        if (i / 32 == j) found = other;
    }
    return found;
}

// Turns a head by its angles, or back.
template <bool BACK> __device__ __forceinline__ void turn(float (&x)[EACH], const float* cosines, const float* sines, u32 pairs) {
    float y[EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; j++) {
        u32 i = j * 32 + threadIdx.x % 32;
        bool low = i < pairs, turned = i < 2 * pairs;
        float other = of_head(x, !turned ? i : low ? i + pairs : i - pairs);
        u32 pair = low ? i : i - pairs;
        float c = turned ? cosines[pair] : 1.0f, s = turned ? sines[pair] : 0.0f;
        y[j] = fmaf(x[j], c, (low != BACK ? -other : other) * s);
    }
#pragma unroll
    for (u32 j = 0; j < EACH; j++) x[j] = y[j];
}

__device__ __forceinline__ float deviation(const float (&x)[EACH], float epsilon) {
    float squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) squares = fmaf(x[j], x[j], squares);
    return 1.0f / sqrtf(warp_sum(squares) / (float)D + epsilon);
}

extern "C" __global__ void __launch_bounds__(THREADS) turn_heads(Turn p) {
    u64 index = (u64)blockIdx.x * WARPS + threadIdx.x / 32;
    u32 lane = threadIdx.x % 32, heads = p.from == p.to ? HEADS : HEADS + KV_HEADS;
    if (index >= (u64)p.rows * heads) return;
    u64 row = index / heads;
    u32 head = (u32)(index % heads), position = (u32)(row % p.tokens);
    u64 at = row * FUSED + head * D;
    float x[EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; j++) x[j] = j * 32 + lane < D ? widen(p.from[at + j * 32 + lane]) : 0.0f;
    if (head < HEADS) {
        if (p.query_weight) {
            const float* weight = head < QUERY_HEADS ? p.query_weight : p.key_weight;
            float scale = deviation(x, p.epsilon);
#pragma unroll
            for (u32 j = 0; j < EACH; j++) x[j] = j * 32 + lane < D ? x[j] * scale * weight[j * 32 + lane] : 0.0f;
        }
        if (p.pairs) turn<false>(x, p.cosines + (u64)position * p.pairs, p.sines + (u64)position * p.pairs, p.pairs);
    }
#pragma unroll
    for (u32 j = 0; j < EACH; j++)
        if (j * 32 + lane < D) p.to[at + j * 32 + lane] = narrow<W>(x[j]);
}

struct TurnBack {
    const W* from;               // [t][FUSED], as of Turn
    W* d;                        // [t][FUSED]: gradients of the turned heads, then of those before
    const float* query_weight;
    const float* key_weight;
    const float* cosines;
    const float* sines;
    float* partials;             // [blocks][2][d]: gradients of the weights, of each block
    u32 rows, tokens, pairs;
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(THREADS) turn_heads_back(TurnBack p) {
    __shared__ float sums[WARPS][2][EACH * 32];
    u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float dweight[2][EACH];
#pragma unroll
    for (u32 j = 0; j < EACH; j++) dweight[0][j] = dweight[1][j] = 0.0f;
    for (u64 index = (u64)blockIdx.x * WARPS + warp; index < (u64)p.rows * HEADS; index += (u64)gridDim.x * WARPS) {
        u64 row = index / HEADS;
        u32 head = (u32)(index % HEADS), position = (u32)(row % p.tokens);
        u64 at = row * FUSED + head * D;
        float dy[EACH], n[EACH];
#pragma unroll
        for (u32 j = 0; j < EACH; j++) dy[j] = j * 32 + lane < D ? widen(p.d[at + j * 32 + lane]) : 0.0f;
        if (p.pairs) turn<true>(dy, p.cosines + (u64)position * p.pairs, p.sines + (u64)position * p.pairs, p.pairs);
        if (p.query_weight) {
            bool query = head < QUERY_HEADS;
            const float* weight = query ? p.query_weight : p.key_weight;
#pragma unroll
            for (u32 j = 0; j < EACH; j++) n[j] = j * 32 + lane < D ? widen(p.from[at + j * 32 + lane]) : 0.0f;
            float scale = deviation(n, p.epsilon), product = 0.0f;
#pragma unroll
            for (u32 j = 0; j < EACH; j++) {
                n[j] *= scale;
                float more = dy[j] * n[j];
                dweight[0][j] += query ? more : 0.0f;
                dweight[1][j] += query ? 0.0f : more;
                dy[j] *= j * 32 + lane < D ? weight[j * 32 + lane] : 0.0f;
                product = fmaf(dy[j], n[j], product);
            }
            product = warp_sum(product) / (float)D;
#pragma unroll
            for (u32 j = 0; j < EACH; j++) dy[j] = scale * (dy[j] - n[j] * product);
        }
#pragma unroll
        for (u32 j = 0; j < EACH; j++)
            if (j * 32 + lane < D) p.d[at + j * 32 + lane] = narrow<W>(dy[j]);
    }
    if (!p.query_weight) return;
#pragma unroll
    for (u32 j = 0; j < EACH; j++) sums[warp][0][j * 32 + lane] = dweight[0][j], sums[warp][1][j * 32 + lane] = dweight[1][j];
    __syncthreads();
    for (u32 i = threadIdx.x; i < 2 * D; i += THREADS) {
        float total = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) total += sums[w][i / D][i % D];
        p.partials[(u64)blockIdx.x * 2 * D + i] = total;
    }
}
