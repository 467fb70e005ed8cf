// Adds to numbers what other processes have written beside each other.

struct Landed {
    const float* from;   // [parts, stride]
    float* to;           // [count]
    u64 count, stride;
    u32 parts;
};

extern "C" __global__ void __launch_bounds__(LANDING_THREADS) add_landed(const __grid_constant__ Landed p) {
    constexpr u32 UNROLL = 4;
    const u64 step = (u64)gridDim.x * LANDING_THREADS;
    for (u64 first = (u64)blockIdx.x * LANDING_THREADS + threadIdx.x; first < p.count; first += UNROLL * step) {
        float sum[UNROLL];
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++) sum[i] = first + i * step < p.count ? p.to[first + i * step] : 0.0f;
        for (u32 part = 0; part < p.parts; part++) {
            const float* from = p.from + part * p.stride;
#pragma unroll
            for (u32 i = 0; i < UNROLL; i++) sum[i] += first + i * step < p.count ? from[first + i * step] : 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < UNROLL; i++) {
            if (first + i * step < p.count) p.to[first + i * step] = sum[i];
        }
    }
}
