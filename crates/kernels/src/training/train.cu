// Thresholds' noise, rounding as a cache would, what is kept, and a look at the parameters.

constexpr u32 WARPS = THREADS / 32;

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
__device__ __forceinline__ u64 mix(u64 seed) {
    u64 z = seed + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
struct Noise {
    float* out;
    u64 base, count;
    float scale;
    u32 padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) logistic_noise(Noise p) {
    u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.count) return;
    // In (0, 1), both ends excluded.
    float uniform = ((float)(mix(p.base ^ at) >> 40) + 0.5f) / 16777216.0f;
    p.out[at] = p.scale * logf(uniform / (1.0f - uniform));
}

struct Round {
    float* x;   // [rows][stride], of which columns `first` to `first + width` are rounded
    u64 rows;
    u32 stride, first, width, padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) round_columns(Round p) {
    u64 at = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (at >= p.rows * p.width) return;
    float* x = p.x + at / p.width * p.stride + p.first + at % p.width;
    *x = widen(narrow<C>(*x));
}

// How many of the later queries see each entry, each query's share of its own entries: `shares[k]` is the sum of 1 / (q + 1)
// over the queries q < k that count.
struct Keep {
    const u32* expires_at;   // [lanes][T]
    const double* shares;    // [T + 1]
    double* partials;        // [blocks]
    u64 count;
    u32 tokens, padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) kept(Keep p) {
    __shared__ double warps[WARPS];
    double sum = 0.0;
    for (u64 at = (u64)blockIdx.x * THREADS + threadIdx.x; at < p.count; at += (u64)gridDim.x * THREADS) {
        u32 end = min(p.expires_at[at], p.tokens);
        sum += p.shares[end] - p.shares[at % p.tokens];
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(ALL, sum, i);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 warp = 1; warp < WARPS; warp++) sum += warps[warp];
        p.partials[blockIdx.x] = sum;
    }
}

struct Sample {
    const float* x;
    float* out;   // [count]
    u64 apart;
    u32 count, padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) sample(Sample p) {
    u32 at = blockIdx.x * THREADS + threadIdx.x;
    if (at < p.count) p.out[at] = p.x[at * p.apart];
}
