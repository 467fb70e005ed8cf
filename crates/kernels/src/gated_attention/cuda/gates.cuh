// Gates of one layer: tiles of them, and the scores of their pairs. Rows are keys and columns queries, `turned`: a lane has two keys
// and 16 neighbouring queries, and with the three lanes beside it all 64 queries of a tile.

constexpr u32 R = SIDE_WIDTH > 0 ? SIDE_WIDTH : 1, RP = (R + 15) / 16 * 16;
constexpr u32 GATE_STRIDE = padded<W>(RP);
// In 16 bits a gate is a sum of two numbers, in f32 it is one.
constexpr u32 PARTS = sizeof(W) == 2 ? 2 : 1;
constexpr u32 GATE_TILE = SIDE * GATE_STRIDE;
constexpr u32 GROUP_KV = KV_HEADS / GROUPS;
constexpr u32 OWN = 16;

struct Voter {
    const float* query_gates;   // [b T] rows of GROUPS R, `stride` apart
    const float* key_gates;     // the same
    const float* bias;          // [GROUPS]
    const float* noise;         // [b][GROUPS][T], added to every score of a key, or none
    float shift;                // subtracted from every score
    u32 tokens, sinks, recent;
    u32 window;                 // NEVER for no window
    u32 first_tile, tiles;      // the strip: the tiles of queries that this launch is about
    u32 stride;
};

// A gate head of a sequence, and the number of one of `tiles` tiles. Blocks of one tile come together: with the longest walks first,
// the last blocks to end are short.
struct Place {
    u32 tile, group, sequence, sequences;
    __device__ __forceinline__ Place(u32 index, u32 tiles) {
        u32 lanes = gridDim.x / tiles, lane = index % lanes;
        tile = index / lanes, group = lane % GROUPS, sequence = lane / GROUPS, sequences = lanes / GROUPS;
    }
    __device__ __forceinline__ u64 head() const { return (u64)sequence * GROUPS + group; }
    // Of a token's number.
    __device__ __forceinline__ u64 row(const Voter& v, u32 token) const { return head() * v.tokens + token; }
    // Of all gate heads.
    __device__ __forceinline__ u64 rows(const Voter& v) const { return (u64)sequences * GROUPS * v.tokens; }
    // Of a token, in an array like those of gates.
    template <typename T> __device__ __forceinline__ T* gates(T* all, const Voter& v, u32 token) const {
        return all + ((u64)sequence * v.tokens + token) * v.stride + group * R;
    }
};

// 64 rows of gates on their way into a tile, in registers, so that memory is read while others are worked on.
template <bool TURNED> struct GateRows {
    static constexpr u32 N = R % 4 == 0 ? 4 : 1, COLUMNS = RP / N, COUNT = SIDE * COLUMNS / THREADS;
    float x[COUNT][N];
    __device__ __forceinline__ void read(const float* from, u32 stride, u32 count) {
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            u32 at = i * THREADS + threadIdx.x, to = at / COLUMNS, column = at % COLUMNS * N, row = TURNED ? turned(to) : to;
            if (row < count && column < R) load(x[i], from + (u64)row * stride + column);
            else
#pragma unroll
                for (u32 k = 0; k < N; k++) x[i][k] = 0.0f;
        }
    }
    // In all parts, or in the first alone.
    template <u32 KEPT = PARTS> __device__ __forceinline__ void put(W* tile) const {
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            u32 at = i * THREADS + threadIdx.x, to = at / COLUMNS * GATE_STRIDE + at % COLUMNS * N;
            store(tile + to, x[i]);
            if constexpr (KEPT == 2) {
                float rest[N];
#pragma unroll
                for (u32 k = 0; k < N; k += 2) {
                    float2 kept = rounded<W>(x[i][k], x[i][(k + 1) % N]);
                    rest[k] = x[i][k] - kept.x;
                    if (N > 1) rest[(k + 1) % N] = x[i][(k + 1) % N] - kept.y;
                }
                store(tile + GATE_TILE + to, rest);
            }
        }
    }
};

// What a lane's keys are to the votes.
struct Keys {
    u32 key[2];
    u32 decided_from[2];   // the first query that votes decide about
    u32 window_end[2];     // the first query that the window keeps away
    float factor;          // of a key's products
    float offset[2];       // added to them
    // Scores come in units of `unit`: hard passes take powers of two, which their exponentials want.
    __device__ __forceinline__ Keys(const Voter& v, const Place& at, float unit) : factor(unit / sqrtf((float)R)) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 j = key[half] = at.tile * SIDE + own_row(half);
            bool there = j < v.tokens;
            decided_from[half] = !there || j < v.sinks ? NEVER : j + v.recent;
            window_end[half] = !there ? 0 : v.window == NEVER ? NEVER : j + v.window;
            offset[half] = unit * (v.bias[at.group] - v.shift + (v.noise && there ? v.noise[at.row(v, j)] : 0.0f));
        }
    }
};

// scores[half * 16 + i]: of key `half` and the lane's query i of a tile; one routine, so that every pass sees equal bits.
__device__ __forceinline__ void gate_scores(float (&scores)[2 * OWN], const Keys& keys, const W* key_gates, const W* query_gates) {
    float sums[SIDE / 8][4];
    clear(sums);
    if constexpr (PARTS == 2) {
#pragma unroll
        for (u32 k = 0; k < RP; k += 16) {
            Left<W> key[2];
            load_left<GATE_STRIDE>(key[0], key_gates, warp() * 16, k);
            load_left<GATE_STRIDE>(key[1], key_gates + GATE_TILE, warp() * 16, k);
#pragma unroll
            for (u32 j = 0; j < SIDE / 16; j++) {
                Right<W> query[2], rest[2];
                load_right_turned<GATE_STRIDE>(query, query_gates, 16 * j, k);
                load_right_turned<GATE_STRIDE>(rest, query_gates + GATE_TILE, 16 * j, k);
                // Small ones first. What both roundings left over is below the sum's own.
#pragma unroll
                for (u32 i = 0; i < 2; i++) multiply(sums[2 * j + i], key[1], query[i]);
#pragma unroll
                for (u32 i = 0; i < 2; i++) multiply(sums[2 * j + i], key[0], rest[i]);
#pragma unroll
                for (u32 i = 0; i < 2; i++) multiply(sums[2 * j + i], key[0], query[i]);
            }
        }
    } else {
        add_scores<GATE_STRIDE, RP>(sums, key_gates, warp() * 16, query_gates);
    }
#pragma unroll
    for (u32 i = 0; i < 2 * OWN; i++) scores[i] = fmaf(sums[i % OWN / 2][i / OWN * 2 + i % 2], keys.factor, keys.offset[i / OWN]);
}
// The lane's first query of a tile.
__device__ __forceinline__ u32 own_query(u32 tile) { return tile * SIDE + lane() % 4 * OWN; }
// Whether all pairs of the tile vote.
__device__ __forceinline__ bool all_vote(const Voter& v, const Place& at, u32 tile) { return tile > at.tile && (tile + 1) * SIDE <= v.tokens; }
__device__ __forceinline__ bool votes(const Voter& v, u32 key, u32 query) { return query > key & query < v.tokens; }

// Over the four lanes of a key.
__device__ __forceinline__ float quad_min(float x) {
    x = fminf(x, __shfl_xor_sync(ALL, x, 1));
    return fminf(x, __shfl_xor_sync(ALL, x, 2));
}
__device__ __forceinline__ u32 quad_min(u32 x) {
    x = min(x, __shfl_xor_sync(ALL, x, 1));
    return min(x, __shfl_xor_sync(ALL, x, 2));
}

// The smaller one, or what is no number.
__device__ __forceinline__ float smaller(float x, float y) {
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

// No vote: above every score.
constexpr float HUGE = 1e30f;
// Below this score of the hard rule, in powers of two, no gradient passes (Rust: LOWEST_SCORE).
constexpr float LOWEST_SCORE = -8.0f * LOG2_E;
// Pairs that do not vote get HUGE for a score.
__device__ __forceinline__ void hide_others(float* scores, const Voter& v, u32 key, u32 query) {
#pragma unroll
    for (u32 i = 0; i < OWN; i++) scores[i] = votes(v, key, query + i) ? scores[i] : HUGE;
}
// The first query that refuses a key of which this lane has 16 scores; a score that is no number refuses.
__device__ __forceinline__ u32 first_refusal(const float* scores, u32 query) {
    u32 first = NEVER;
#pragma unroll
    for (u32 i = OWN; i-- > 0;) first = scores[i] > 0.0f ? first : query + i;
    return first;
}

// The sum over the block, in thread 0, always in the same order. May follow another at once.
__device__ __forceinline__ double in_order(double sum) {
    __shared__ double sums[THREADS / 32];
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) sum += __shfl_down_sync(ALL, sum, step);
    __syncthreads();
    if (lane() == 0) sums[warp()] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return 0.0;
#pragma unroll
    for (u32 other = 1; other < THREADS / 32; other++) sum += sums[other];
    return sum;
}

// One row of sums times `factor`, written or added to the gradient of a token's gates.
__device__ __forceinline__ void add_gates(float* to, const float (&sums)[RP / 8][4], u32 half, float factor, bool fresh) {
#pragma unroll
    for (u32 j = 0; j < RP / 8; j++)
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            u32 column = own_column(j, c);
            if (column < R) to[column] = fmaf(sums[j][half * 2 + c], factor, fresh ? 0.0f : to[column]);
        }
}
