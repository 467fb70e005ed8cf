// A plain read of device memory: the yardstick of everything that is bound by it.

struct Args {
    const uint4* words;
    u64 count;
    u32* out;
};

extern "C" __global__ void __launch_bounds__(512) read_all(Args args) {
    constexpr u32 UNROLL = 8;
    const u64 stride = (u64)gridDim.x * blockDim.x;
    u32 sum = 0;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + (UNROLL - 1) * stride < args.count; i += UNROLL * stride) {
        uint4 words[UNROLL];
#pragma unroll
        for (u32 j = 0; j < UNROLL; j++) words[j] = __ldcs(args.words + i + j * stride);
#pragma unroll
        for (u32 j = 0; j < UNROLL; j++) sum ^= words[j].x ^ words[j].y ^ words[j].z ^ words[j].w;
    }
    for (; i < args.count; i += stride) sum ^= args.words[i].x;
    // Never true for what the host fills in; it keeps the reads.
    if (sum == 0x9e3779b9u) *args.out = sum;
}
