// The embedding's rows, and their gradient without atomics: the rows of one token are added by one block, in order.

constexpr u32 THREADS = 256;

struct Embed {
    const u32* ids;           // [t]
    const float* table;       // [v][c]
    const float* positions;   // [.][c], or none
    float* x;                 // [t][c]
    u32 tokens;               // of each sequence
};
extern "C" __global__ void __launch_bounds__(THREADS) embed_train(Embed p) {
    u64 row = blockIdx.x;
    const float* from = p.table + (u64)p.ids[row] * HIDDEN;
    const float* shift = p.positions + row % p.tokens * HIDDEN;
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) p.x[row * HIDDEN + i] = p.positions ? from[i] + shift[i] : from[i];
}

struct EmbedBackward {
    const u32* order;    // [t]: rows, those of a token together
    const u32* starts;   // [distinct + 1]: where each token's begin in `order`
    const u32* ids;      // [t]
    const float* dx;     // [t][c]
    float* gradient;     // [v][c], added to
};
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward(EmbedBackward p) {
    u32 first = p.starts[blockIdx.x], end = p.starts[blockIdx.x + 1];
    float* to = p.gradient + (u64)p.ids[p.order[first]] * HIDDEN;
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) {
        float sum = 0.0f;
#pragma unroll 8
        for (u32 at = first; at < end; at++) sum += p.dx[(u64)p.order[at] * HIDDEN + i];
        to[i] += sum;
    }
}

struct PositionsBackward {
    const float* dx;   // [b][T][c]
    float* gradient;   // [T][c], added to
    u32 sequences, tokens;
};
extern "C" __global__ void __launch_bounds__(THREADS) positions_backward(PositionsBackward p) {
    for (u32 i = threadIdx.x; i < HIDDEN; i += THREADS) {
        float sum = 0.0f;
#pragma unroll 8
        for (u32 sequence = 0; sequence < p.sequences; sequence++) sum += p.dx[((u64)sequence * p.tokens + blockIdx.x) * HIDDEN + i];
        p.gradient[(u64)blockIdx.x * HIDDEN + i] += sum;
    }
}
