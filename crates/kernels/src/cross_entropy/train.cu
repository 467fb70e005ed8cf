// The loss of a slice of rows: logits become their gradient in place, a block per row.
//
// A row of logits has `stride` f32; its gradient takes W's width from the same address on. Two readings of a row: its sums
// while it is read the first time, each thread's relative to its own largest so far.

constexpr u32 THREADS = 512, WARPS = THREADS / 32;
constexpr u32 IGNORE = 0xffffffffu;

struct CrossEntropy {
    float* logits;           // [rows][stride]
    const float* teacher;    // [rows][stride], or none
    const u32* targets;      // [rows]
    float* losses;           // [rows][2]: cross-entropy, divergence
    u32 stride, vocabulary;
    float distill, scale;
};

struct Sums { float top, sum, cross; };
// Of two parts of a row; `cross` is weighted as `sum`.
__device__ __forceinline__ Sums joined(Sums a, Sums b) {
    float top = fmaxf(a.top, b.top);
    if (top == -infinity()) return a;
    float x = expf(a.top - top), y = expf(b.top - top);
    return Sums{top, a.sum * x + b.sum * y, a.cross * x + b.cross * y};
}
__device__ __forceinline__ Sums of_block(Sums own, Sums* shared) {
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) {
        Sums other{__shfl_xor_sync(ALL, own.top, i), __shfl_xor_sync(ALL, own.sum, i), __shfl_xor_sync(ALL, own.cross, i)};
        own = joined(own, other);
    }
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = own;
    __syncthreads();
    own = shared[0];
    for (u32 i = 1; i < WARPS; i++) own = joined(own, shared[i]);
    return own;
}
__device__ __forceinline__ void take(Sums& sums, float x, float gain) {
    if (x > sums.top) {
        float keep = expf(sums.top - x);
        sums = Sums{x, sums.sum * keep, sums.cross * keep};
    }
    // All minus infinity so far: no weight. NaN goes on.
    float weight = x == -infinity() ? 0.0f : expf(x - sums.top);
    sums.sum += weight;
    if (weight != 0.0f) sums.cross = fmaf(weight, gain, sums.cross);
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_rows(CrossEntropy p) {
    __shared__ Sums shared[2][WARPS];
    float* logits = p.logits + (u64)blockIdx.x * p.stride;
    W* out = (W*)logits;
    const float* teacher = p.teacher ? p.teacher + (u64)blockIdx.x * p.stride : nullptr;
    u32 target = p.targets[blockIdx.x];
    if (target == IGNORE) {
        for (u32 i = threadIdx.x; i < p.vocabulary; i += THREADS) out[i] = narrow<W>(0.0f);
        if (threadIdx.x < 2) p.losses[2 * blockIdx.x + threadIdx.x] = 0.0f;
        return;
    }
    Sums own{-infinity(), 0.0f, 0.0f}, taught{-infinity(), 0.0f, 0.0f};
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.vocabulary; i += THREADS) {
        float x = logits[i];
        take(own, x, 0.0f);
        if (teacher) take(taught, teacher[i], teacher[i] - x);
    }
    float chosen = logits[target];
    own = of_block(own, shared[0]);
    float divergence = 0.0f;
    if (teacher) {
        taught = of_block(taught, shared[1]);
        double log_sums = (double)own.top + log((double)own.sum) - (double)taught.top - log((double)taught.sum);
        divergence = (float)((double)taught.cross / (double)taught.sum + log_sums);
        // Rounding must not make it negative.
        divergence = divergence < 0.0f ? 0.0f : divergence;
    }
    if (threadIdx.x == 0) {
        p.losses[2 * blockIdx.x] = (float)(log((double)own.sum) - ((double)chosen - (double)own.top));
        p.losses[2 * blockIdx.x + 1] = divergence;
    }
    float share = p.scale / own.sum, part = teacher ? p.distill * p.scale / taught.sum : 0.0f;
    float onehot = (1.0f - p.distill) * p.scale;
    // Gradients take the place of logits that everyone has read.
    constexpr u32 EACH = 4;
    for (u32 first = 0; first < p.vocabulary; first += EACH * THREADS) {
        float g[EACH];
#pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            u32 i = first + j * THREADS + threadIdx.x;
            if (i >= p.vocabulary) continue;
            g[j] = expf(logits[i] - own.top) * share;
            if (part != 0.0f) g[j] = fmaf(expf(teacher[i] - taught.top), -part, g[j]);
            if (i == target) g[j] -= onehot;
        }
        __syncthreads();
#pragma unroll
        for (u32 j = 0; j < EACH; j++) {
            u32 i = first + j * THREADS + threadIdx.x;
            if (i < p.vocabulary) out[i] = narrow<W>(g[j]);
        }
    }
}
