// Layer norm and RMS norm of rows of HIDDEN numbers: one block per row, the row in registers between its passes.

struct Norm {
    const float* residual;   // [.][c]
    const float* weight;     // [c]
    const float* bias;       // [c]: a layer norm; without it an RMS norm
    const u32* sources;      // [rows]: which rows of the residual, or none for the rows as they lie
    W* normed;               // [rows][c]
    float* normed_f32;       // [rows][c], or none
    float epsilon;
};

// A vector of 4 numbers per access where a row divides so; about two of them per thread.
constexpr u32 STEP = HIDDEN % 4 == 0 ? 4 : 1;
constexpr u32 WANTED = (HIDDEN + 255) / 256 * 32;
constexpr u32 NORM_THREADS = WANTED < 64 ? 64 : WANTED > 1024 ? 1024 : WANTED;
constexpr u32 VECTORS = (HIDDEN + NORM_THREADS * STEP - 1) / (NORM_THREADS * STEP);
constexpr u32 WARPS = NORM_THREADS / 32;

typedef HalfOr<W>::type Half;

// The sum over the block, to every thread. `partial` has a number per warp and is used once per call.
__device__ __forceinline__ float block_sum(float x, float* partial) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float y = threadIdx.x % 32 < WARPS ? partial[threadIdx.x % 32] : 0.0f;
    return warp_sum(y);
}

__device__ __forceinline__ void read(float (&x)[STEP], const float* from) {
    if constexpr (STEP == 4) {
        float4 four = *(const float4*)from;
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
        x[0] = *from;
    }
}

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_rows(Norm p) {
    __shared__ float partials[2][32];
    let_next_start();
    // Weights are constant: they are on their way before the row is known.
    float weight[VECTORS][STEP];
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
        if (at < HIDDEN) read(weight[v], p.weight + at);
    }
    wait_for_previous();
    u64 source = p.sources ? p.sources[blockIdx.x] : blockIdx.x;
    // A padding row of a gather.
    if (source == NEVER) return;
    const float* row = p.residual + source * HIDDEN;
    float x[VECTORS][STEP];
    float sum = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
        if (at < HIDDEN) {
            read(x[v], row + at);
        } else {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) x[v][i] = 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < STEP; i++) sum += x[v][i];
    }
    float mean = p.bias ? block_sum(sum, partials[0]) / (float)HIDDEN : 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
#pragma unroll
        for (u32 i = 0; i < STEP; i++) {
            x[v][i] -= mean;
            if (at < HIDDEN) squares += x[v][i] * x[v][i];
        }
    }
    float scale = 1.0f / sqrtf(block_sum(squares, partials[1]) / (float)HIDDEN + p.epsilon);
    W* normed = p.normed + (u64)blockIdx.x * HIDDEN;
    float* wide = p.normed_f32 + (u64)blockIdx.x * HIDDEN;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
        if (at >= HIDDEN) continue;
        float y[STEP];
#pragma unroll
        for (u32 i = 0; i < STEP; i++) y[i] = x[v][i] * scale * weight[v][i];
        if (p.bias) {
            float bias[STEP];
            read(bias, p.bias + at);
#pragma unroll
            for (u32 i = 0; i < STEP; i++) y[i] = fmaf(x[v][i] * scale, weight[v][i], bias[i]);
        }
        if constexpr (STEP == 4 && sizeof(W) == 2) {
            *(uint2*)(normed + at) = make_uint2(narrow2<Half>(y[0], y[1]), narrow2<Half>(y[2], y[3]));
        } else if constexpr (STEP == 4) {
            *(float4*)(normed + at) = make_float4(y[0], y[1], y[2], y[3]);
        } else {
            normed[at] = narrow<W>(y[0]);
        }
        if (p.normed_f32) {
            if constexpr (STEP == 4) {
                *(float4*)(wide + at) = make_float4(y[0], y[1], y[2], y[3]);
            } else {
                wide[at] = y[0];
            }
        }
    }
}
