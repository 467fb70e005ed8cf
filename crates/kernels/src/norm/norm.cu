// Layer norm and RMS norm of rows of HIDDEN numbers: one block per row, the row in registers between its passes.

struct Norm {
    const float* residual;   // [.][c]
    const float* weight;     // [c]
    const float* bias;       // [c]: a layer norm; without it an RMS norm
    const u32* sources;      // [rows]: which rows of the residual, or none for the rows as they lie
    W* normed;               // [rows][c]
    float* normed_f32;       // [rows][c], or none
    W* rest;                 // [rows][c]: what the rounding of `normed` left, or none
    float epsilon;
    u32 source_rows;         // of the residual
};

// A vector of 4 numbers per access where a row divides so.
constexpr u32 STEP = HIDDEN % 4 == 0 ? 4 : 1;
constexpr u32 VECTORS = (HIDDEN + NORM_THREADS * STEP - 1) / (NORM_THREADS * STEP);
constexpr u32 WARPS = NORM_THREADS / 32;

extern "C" __global__ void __launch_bounds__(NORM_THREADS) norm_rows(Norm p) {
    __shared__ float partials[2][32];
    let_next_start();
    // Weights are constant: they are on their way before the row is known.
    float weight[VECTORS][STEP];
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
        if (at < HIDDEN) load(weight[v], p.weight + at);
    }
    wait_for_previous();
    u64 source = p.sources ? p.sources[blockIdx.x] : blockIdx.x;
    // A padding row of a gather.
    if (source >= p.source_rows) return;
    const float* row = p.residual + source * HIDDEN;
    float x[VECTORS][STEP];
    float sum = 0.0f;
#pragma unroll
    for (u32 v = 0; v < VECTORS; v++) {
        u32 at = (v * NORM_THREADS + threadIdx.x) * STEP;
        if (at < HIDDEN) {
            load(x[v], row + at);
        } else {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) x[v][i] = 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < STEP; i++) sum += x[v][i];
    }
    float mean = p.bias ? block_sum<WARPS>(sum, partials[0]) / (float)HIDDEN : 0.0f;
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
    float scale = 1.0f / sqrtf(block_sum<WARPS>(squares, partials[1]) / (float)HIDDEN + p.epsilon);
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
            load(bias, p.bias + at);
#pragma unroll
            for (u32 i = 0; i < STEP; i++) y[i] = fmaf(x[v][i] * scale, weight[v][i], bias[i]);
        }
        store(normed + at, y);
        if (p.normed_f32) store(wide + at, y);
        if (p.rest) {
#pragma unroll
            for (u32 i = 0; i < STEP; i++) y[i] -= widen(narrow<W>(y[i]));
            store(p.rest + (u64)blockIdx.x * HIDDEN + at, y);
        }
    }
}
