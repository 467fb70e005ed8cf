// The embedding's rows, and their gradient without atomics: the rows of one token are added by one block, in order. Where a token
// has many, parts of them are added first, each by a block of its own.

constexpr u32 N = HIDDEN % 4 == 0 ? 4 : 1;

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
    for (u32 i = threadIdx.x * N; i < HIDDEN; i += THREADS * N) {
        float x[N], y[N];
        load(x, from + i);
        if (p.positions) {
            load(y, shift + i);
#pragma unroll
            for (u32 k = 0; k < N; k++) x[k] += y[k];
        }
        store(p.x + row * HIDDEN + i, x);
    }
}

struct EmbedBackward {
    const u32* order;    // [t]: rows, those of a token together
    const u32* starts;   // [distinct + 1]: where each token's begin in `order`
    const u32* parts;    // [parts][2]: first and end in `order`, of tokens with more rows than a part has
    const u32* ids;      // [t]
    float* dx;           // [t][c]; a part's first row becomes its sum
    float* gradient;     // [v][c], added to
};
// The sum of every `step`th row from `first` on.
__device__ __forceinline__ void sum_rows(float (&sum)[N], const float* dx, const u32* order, u32 first, u32 end, u32 step,
                                         u32 column) {
#pragma unroll
    for (u32 k = 0; k < N; k++) sum[k] = 0.0f;
#pragma unroll 8
    for (u32 at = first; at < end; at += step) {
        float x[N];
        load(x, dx + (u64)order[at] * HIDDEN + column);
#pragma unroll
        for (u32 k = 0; k < N; k++) sum[k] += x[k];
    }
}
extern "C" __global__ void __launch_bounds__(THREADS) embed_parts(EmbedBackward p) {
    u32 first = p.parts[2 * blockIdx.x], end = p.parts[2 * blockIdx.x + 1];
    for (u32 i = threadIdx.x * N; i < HIDDEN; i += THREADS * N) {
        float sum[N];
        sum_rows(sum, p.dx, p.order, first, end, 1, i);
        store(p.dx + (u64)p.order[first] * HIDDEN + i, sum);
    }
}
extern "C" __global__ void __launch_bounds__(THREADS) embed_backward(EmbedBackward p) {
    u32 first = p.starts[blockIdx.x], end = p.starts[blockIdx.x + 1];
    float* to = p.gradient + (u64)p.ids[p.order[first]] * HIDDEN;
    for (u32 i = threadIdx.x * N; i < HIDDEN; i += THREADS * N) {
        float sum[N], sofar[N];
        sum_rows(sum, p.dx, p.order, first, end, end - first > PART ? PART : 1, i);
        load(sofar, to + i);
#pragma unroll
        for (u32 k = 0; k < N; k++) sofar[k] += sum[k];
        store(to + i, sofar);
    }
}

// The same sums as rows of their own, so that processes can exchange them: of tokens there are fewer than of entries.
struct TokenSums {
    const u32* order;    // as above, as are the next two
    const u32* starts;
    const u32* ids;
    const float* dx;     // [t][c], parts of frequent tokens added up
    u32* tokens;         // [rows]: whose sums follow, and NEVER behind the last one
    float* sums;         // [rows][c]
    u32 distinct, padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) token_sums(TokenSums p) {
    bool is_one = blockIdx.x < p.distinct;
    u32 first = is_one ? p.starts[blockIdx.x] : 0, end = is_one ? p.starts[blockIdx.x + 1] : 0;
    if (threadIdx.x == 0) p.tokens[blockIdx.x] = is_one ? p.ids[p.order[first]] : NEVER;
    if (!is_one) return;
    for (u32 i = threadIdx.x * N; i < HIDDEN; i += THREADS * N) {
        float sum[N];
        sum_rows(sum, p.dx, p.order, first, end, end - first > PART ? PART : 1, i);
        store(p.sums + (u64)blockIdx.x * HIDDEN + i, sum);
    }
}

struct AddTokens {
    const u32* tokens;    // [rows], no token twice, or NEVER
    const float* sums;    // [rows][c]
    float* gradient;      // [v][c], of which only the numbers from `first` to `end` are added to, multiples of N
    u64 first, end;
};
extern "C" __global__ void __launch_bounds__(THREADS) add_tokens(AddTokens p) {
    u32 token = p.tokens[blockIdx.x];
    if (token == NEVER) return;
    for (u32 i = threadIdx.x * N; i < HIDDEN; i += THREADS * N) {
        u64 at = (u64)token * HIDDEN + i;
        if (at < p.first || at >= p.end) continue;
        float sum[N], sofar[N];
        load(sum, p.sums + (u64)blockIdx.x * HIDDEN + i);
        load(sofar, p.gradient + at);
#pragma unroll
        for (u32 k = 0; k < N; k++) sofar[k] += sum[k];
        store(p.gradient + at, sofar);
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
