// Evenly distributed numbers that depend on the seed and the place only: those of PackedMatrix::random, bit for bit.

struct Fill {
    void* to;
    u64 count, seed, inputs;   // inputs > 0: a matrix, numbered as the panels of the host's packed weights are
    float scale;
};

// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), to a number in 0..=1.
__device__ __forceinline__ float hash(u64 counter) {
    u64 z = (counter + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return __fdiv_rn((float)(u32)((z ^ (z >> 31)) >> 40), 16777215.0f);
}

template <typename T> __device__ __forceinline__ void fill(const Fill& p) {
    u64 stride = (u64)gridDim.x * FILL_THREADS;
    for (u64 i = (u64)blockIdx.x * FILL_THREADS + threadIdx.x; i < p.count; i += stride) {
        u64 place = i;
        if (p.inputs > 0) {
            u64 output = i / p.inputs, input = i % p.inputs;
            place = (output / 32 * p.inputs + input) * 32 + output % 32;
        }
        float x = hash(place ^ (p.seed * 0xd1290de26b534f35ull));
        ((T*)p.to)[i] = narrow<T>(__fmul_rn(__fsub_rn(__fmul_rn(x, 2.0f), 1.0f), p.scale));
    }
}

extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_f32(Fill p) { fill<float>(p); }
extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_f16(Fill p) { fill<f16>(p); }
extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_bf16(Fill p) { fill<bf16>(p); }

struct Turn {
    const void* from;   // [inputs][outputs]
    void* to;           // [outputs][inputs]
    u32 inputs, outputs;
};

template <typename T> __device__ __forceinline__ void turn(const Turn& p) {
    // One column more than it needs, so that a column's numbers lie in different banks.
    __shared__ T tile[32][33];
    u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    u32 output = blockIdx.x * 32, input = blockIdx.y * 32;
    for (u32 i = y; i < 32; i += FILL_THREADS / 32) {
        if (input + i < p.inputs && output + x < p.outputs) {
            tile[i][x] = ((const T*)p.from)[(u64)(input + i) * p.outputs + output + x];
        }
    }
    __syncthreads();
    for (u32 i = y; i < 32; i += FILL_THREADS / 32) {
        if (output + i < p.outputs && input + x < p.inputs) {
            ((T*)p.to)[(u64)(output + i) * p.inputs + input + x] = tile[x][i];
        }
    }
}

extern "C" __global__ void __launch_bounds__(FILL_THREADS) turn_32(Turn p) { turn<float>(p); }
extern "C" __global__ void __launch_bounds__(FILL_THREADS) turn_16(Turn p) { turn<u16>(p); }
