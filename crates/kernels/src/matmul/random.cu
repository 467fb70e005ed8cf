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

// Blocks of such numbers, quantised as the host does it (quantised/encode.rs), bit for bit.
struct FillBlocks {
    u8* codes;
    u8* heads;
    u64 seed;
    u32 outputs, inputs;
    float scale;
};

__device__ __forceinline__ float inverse(float scale) { return scale == 0.0f ? 0.0f : __fdiv_rn(1.0f, scale); }

// A thread for each block: no two write to one word.
template <u32 F> __device__ __forceinline__ void fill_blocks(const FillBlocks& p) {
    const u32 per_row = p.inputs / BLOCK;
    const u64 number = (u64)blockIdx.x * FILL_THREADS + threadIdx.x;
    if (number >= (u64)p.outputs * per_row) return;
    const u32 output = number / per_row, block = number % per_row;
    float x[BLOCK];
    float least = infinity(), most = -infinity(), far = 0.0f;
#pragma unroll
    for (u32 i = 0; i < BLOCK; i++) {
        const float y = hash((number * BLOCK + i) ^ (p.seed * 0xd1290de26b534f35ull));
        x[i] = __fmul_rn(__fsub_rn(__fmul_rn(y, 2.0f), 1.0f), p.scale);
        least = fminf(least, x[i]), most = fmaxf(most, x[i]);
        far = fabsf(x[i]) > fabsf(far) ? x[i] : far;
    }
    float scale;
    if (F == Q8_0) scale = __fdiv_rn(fabsf(far), 127.0f);
    else if (F == Q4_0) scale = __fdiv_rn(far, -8.0f);
    else scale = __fdiv_rn(__fsub_rn(most, least), 15.0f);
    const float by = inverse(scale);
    const InBlocks w = {p.codes, p.heads, p.inputs};
#pragma unroll
    for (u32 eighth = 0; eighth < 4; eighth++) {
        u32 words[2] = {0, 0};
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            const float y = x[eighth * 8 + i];
            if constexpr (F == Q8_0) {
                const int code = (int)roundf(__fmul_rn(y, by));
                words[i / 4] |= ((u32)code & 255u) << (8 * (i % 4 / 2) + 16 * (i % 2));
            } else {
                const float to = F == Q4_0 ? __fadd_rn(__fmul_rn(y, by), 8.5f) : __fadd_rn(__fmul_rn(__fsub_rn(y, least), by), 0.5f);
                words[0] |= (u32)min(max((int)to, 0), 15) << (4 * (i / 2) + 16 * (i % 2));
            }
        }
        u32* to = (u32*)find<F>(w, output, block, eighth).codes;
        to[0] = words[0];
        if (F == Q8_0) to[1] = words[1];
    }
    f16* head = (f16*)find<F>(w, output, block, 0).head;
    head[0] = narrow<f16>(scale);
    if (F == Q4_1) head[1] = narrow<f16>(least);
}

extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_q8_0(FillBlocks p) { fill_blocks<Q8_0>(p); }
extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_q4_0(FillBlocks p) { fill_blocks<Q4_0>(p); }
extern "C" __global__ void __launch_bounds__(FILL_THREADS) fill_q4_1(FillBlocks p) { fill_blocks<Q4_1>(p); }

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
