// The loss of a slice of rows: logits become their gradient in place, a block per row.
//
// A row of logits has `stride` f32; its gradient takes W's width from the same address on, with zeros behind the vocabulary. Two
// readings of a row: its sums while it is read the first time, each thread's relative to its own largest so far.

constexpr u32 WARPS = THREADS / 32;
constexpr float LOG2_E = 1.4426950408889634f;

struct CrossEntropy {
    float* logits;           // [rows][stride]
    const float* teacher;    // [rows][stride], or none
    const u32* targets;      // [rows]
    float* losses;           // [rows][3]: cross-entropy, divergence, entropy
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
__device__ __forceinline__ float power_of_e(float x) { return two_to(x * LOG2_E); }
// N more numbers of a row, and what each adds to `cross` by its weight.
template <int N> __device__ __forceinline__ void take(Sums& sums, const float (&x)[N], const float (&gain)[N]) {
    float top = sums.top;
#pragma unroll
    for (int k = 0; k < N; k++) top = fmaxf(top, x[k]);
    // All minus infinity so far: no weight. NaN goes on.
    float base = top == -infinity() ? 0.0f : top;
    if (top > sums.top) {
        float keep = power_of_e(sums.top - top);
        sums = Sums{top, sums.sum * keep, sums.cross * keep};
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        float weight = power_of_e(x[k] - base);
        sums.sum += weight;
        if (weight != 0.0f) sums.cross = fmaf(weight, gain[k], sums.cross);
    }
}
// Behind the vocabulary nothing has weight.
template <int N> __device__ __forceinline__ void read(float (&x)[N], const float* row, u32 first, u32 vocabulary) {
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = -infinity();
    if (first >= vocabulary) return;
    load(x, row + first);
#pragma unroll
    for (int k = 0; k < N; k++) x[k] = first + k < vocabulary ? x[k] : -infinity();
}

template <int N> __device__ __forceinline__ void rows(const CrossEntropy& p) {
    __shared__ Sums shared[2][WARPS];
    constexpr u32 STEP = THREADS * N;
    float* logits = p.logits + (u64)blockIdx.x * p.stride;
    W* out = (W*)logits;
    const float* teacher = p.teacher ? p.teacher + (u64)blockIdx.x * p.stride : nullptr;
    u32 target = p.targets[blockIdx.x];
    if (target == IGNORE) {
        for (u32 i = threadIdx.x; i < p.stride; i += THREADS) out[i] = narrow<W>(0.0f);
        if (threadIdx.x < 3) p.losses[3 * blockIdx.x + threadIdx.x] = 0.0f;
        return;
    }
    Sums own{-infinity(), 0.0f, 0.0f}, taught{-infinity(), 0.0f, 0.0f};
#pragma unroll 4
    for (u32 i = threadIdx.x * N; i < p.vocabulary; i += STEP) {
        float x[N], t[N], gain[N];
        read(x, logits, i, p.vocabulary);
#pragma unroll
        for (int k = 0; k < N; k++) gain[k] = x[k];
        take(own, x, gain);
        if (!teacher) continue;
        read(t, teacher, i, p.vocabulary);
#pragma unroll
        for (int k = 0; k < N; k++) gain[k] = t[k] - x[k];
        take(taught, t, gain);
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
        double log_sum = log((double)own.sum), entropy = log_sum - ((double)own.cross / (double)own.sum - (double)own.top);
        p.losses[3 * blockIdx.x] = (float)(log_sum - ((double)chosen - (double)own.top));
        p.losses[3 * blockIdx.x + 1] = divergence;
        p.losses[3 * blockIdx.x + 2] = entropy < 0.0 ? 0.0f : (float)entropy;
    }
    float share = p.scale / own.sum, part = teacher ? p.distill * p.scale / taught.sum : 0.0f;
    float onehot = (1.0f - p.distill) * p.scale;
    // Gradients take the place of logits that everyone has read: a step's logits are read before the step before is written.
    float x[N], t[N];
    auto fetch = [&](u32 first) {
        read(x, logits, first, p.vocabulary);
        if (part != 0.0f) read(t, teacher, first, p.vocabulary);
    };
    fetch(threadIdx.x * N);
    for (u32 first = 0; first < p.stride; first += STEP) {
        u32 i = first + threadIdx.x * N;
        float g[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            g[k] = i + k < p.vocabulary ? power_of_e(x[k] - own.top) * share : 0.0f;
            if (part != 0.0f) g[k] = fmaf(power_of_e(t[k] - taught.top), -part, g[k]);
            if (i + k == target) g[k] -= onehot;
        }
        fetch(i + STEP);
        __syncthreads();
        // N is 1 where it does not divide the stride.
        if (i < p.stride) store(out + i, g);
    }
}
// Four at a time need rows that start at multiples of 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_4(const __grid_constant__ CrossEntropy p) { rows<4>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_1(const __grid_constant__ CrossEntropy p) { rows<1>(p); }
