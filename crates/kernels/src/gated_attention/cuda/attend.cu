// Attention in training over sequences of T tokens: forward, and the gradient of queries.
//
// A key has an end, the first query that no longer sees it; what no query of a tile sees is not visited. Under the soft rule the
// logarithms of a strip of queries are added to its scores. One block owns what it writes, and adds in one order.

constexpr u32 WHOLE = 0x8000, NO_TILE = 0x7fff;
static_assert(MOST_TILES <= NO_TILE, "a tile's number has 15 bits");

// The tiles of keys that a tile of queries sees, with WHOLE where all its queries see all keys.
__device__ __forceinline__ u32 list_tiles(const Ends& ends, u32 tile, u16* list) {
    __shared__ u32 count;
    if (!ends.row && ends.window == NEVER) {
        for (u32 i = threadIdx.x; i <= tile; i += THREADS) list[i] = (u16)(i | (i < tile ? WHOLE : 0));
        __syncthreads();
        return tile + 1;
    }
    u32 first = tile * SIDE, last = min(first + SIDE, ends.tokens) - 1;
    // Each by itself, several at once, then those that are seen close up.
#pragma unroll 4
    for (u32 mine = warp(); mine <= tile; mine += WARPS) {
        u32 one = ends.of(mine * SIDE + lane()), other = ends.of(mine * SIDE + 32 + lane());
        bool seen = __any_sync(ALL, max(one, other) > first), whole = __all_sync(ALL, min(one, other) > last);
        if (lane() == 0) list[mine] = (u16)(!seen ? NO_TILE : mine < tile && whole ? mine | WHOLE : mine);
    }
    __syncthreads();
    if (warp() == 0) {
        u32 listed = 0;
        for (u32 from = 0; from <= tile; from += 32) {
            u16 mine = from + lane() <= tile ? list[from + lane()] : (u16)NO_TILE;
            u32 there = __ballot_sync(ALL, mine != NO_TILE);
            if (mine != NO_TILE) list[listed + __popc(there & ((1u << lane()) - 1))] = mine;
            listed += __popc(there);
        }
        if (lane() == 0) count = listed;
    }
    __syncthreads();
    return count;
}

// The logarithms of a tile's pairs, queries in rows. In 16 bits votes leave them in the order in which threads hold them, two in a
// word, and they are on their way while products are computed.
struct Logs {
    static constexpr u32 WORDS = sizeof(W) == 2 ? SIDE * SIDE / THREADS / 8 : 1;
    uint4 words[WORDS];
    __device__ __forceinline__ void start(const Shape& s, u32 sequence, u32 kv_head, u32 key, u32 query) {
        if constexpr (sizeof(W) == 2) {
            const uint4* from = (const uint4*)turned_logs_of(s, sequence, kv_head, key / SIDE, query / SIDE) + threadIdx.x;
#pragma unroll
            for (u32 i = 0; i < WORDS; i++) words[i] = from[i * THREADS];
        }
    }
    // Those of columns 8 j and on; in f32 read here.
    __device__ __forceinline__ void get(float (&logs)[4], const Shape& s, u32 sequence, u32 kv_head, u32 key, u32 query, u32 j) const {
        if constexpr (sizeof(W) == 2) {
            float2 low = widen2<f16>(j % 2 ? words[j / 2].z : words[j / 2].x), high = widen2<f16>(j % 2 ? words[j / 2].w : words[j / 2].y);
            logs[0] = low.x, logs[1] = low.y, logs[2] = high.x, logs[3] = high.y;
        } else {
            u32 row = query - s.first_tile * SIDE + own_row(0);
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const Log* of = logs_of(s, sequence, kv_head, key + own_column(j, c)) + row;
                logs[c] = widen(of[0]), logs[2 + c] = widen(of[8]);
            }
        }
    }
};
// `hidden(j, k)` for the pairs of a tile that are not seen.
template <typename Hide> __device__ __forceinline__ void hide(const u32* ends, u32 key, u32 query, Hide hidden) {
    auto pairs = [&](auto ordered) {
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) {
            uint2 end = *(const uint2*)(ends + own_column(j, 0));
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                u32 row = query + own_row(half);
                if (end.x <= row || (ordered && key + own_column(j, 0) > row)) hidden(j, half * 2);
                if (end.y <= row || (ordered && key + own_column(j, 1) > row)) hidden(j, half * 2 + 1);
            }
        }
    };
    if (key == query) pairs(Yes());
    else pairs(No());
}

struct Attend {
    Shape shape;
    W* out;       // [b T][MIXED]
    float* lse;   // [b][h][T]
};

template <bool SOFT> __device__ __forceinline__ void attend_with(const Attend& p) {
    extern __shared__ __align__(16) u8 raw_memory[];
    __shared__ u16 list[MOST_TILES];
    __shared__ __align__(16) u32 ends[STAGES][SIDE];
    u8* memory = whole_atoms(raw_memory);
    const Shape& s = p.shape;
    W* queries = (W*)memory;
    auto keys = [&](u32 stage) { return (W*)(memory + (1 + 2 * stage) * TILE_BYTES); };
    auto values = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    // Late tiles, which see most keys, first.
    u32 tile = s.first_tile + gridDim.z - 1 - blockIdx.z, head = blockIdx.x, sequence = blockIdx.y, kv = head / RATIO, first = tile * SIDE;
    u32 rows = min(SIDE, s.tokens - first);
    fetch(queries, row_of(s, sequence, first, head), FUSED, rows);
    Ends all_ends(s, sequence, kv);
    u32 tiles = list_tiles(all_ends, tile, list), coming = 0;
    auto start = [&](u32 i) {
        if (i < tiles) {
            u32 key = (list[i] & ~WHOLE) * SIDE, count = min(SIDE, s.tokens - key);
            fetch(keys(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + kv), FUSED, count);
            fetch(values(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + KV_HEADS + kv), FUSED, count);
            if (threadIdx.x < SIDE) coming = all_ends.of(key + threadIdx.x);
        }
        commit_copies();
    };
    // Once what `start` read is there, and nobody waits for it.
    auto note_ends = [&](u32 i) {
        if (i < tiles && threadIdx.x < SIDE) ends[i % STAGES][threadIdx.x] = coming;
    };
    float mixed[DP / 8][4], top[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    clear(mixed);
    // Of a score in powers of two; soft scores have it in them, with their logarithms.
    float scale = s.scale * LOG2_E, unit = SOFT ? 1.0f : scale;
    Logs logs;
    auto start_logs = [&](u32 i) {
        if (SOFT && i < tiles) logs.start(s, sequence, kv, (list[i] & ~WHOLE) * SIDE, first);
    };
    start(0);
    note_ends(0);
    start_logs(0);
    for (u32 i = 0; i < tiles; i++) {
        arrived<0>();
        if (STAGES == 2) start(i + 1);
        u32 stage = i % STAGES, key = (list[i] & ~WHOLE) * SIDE;
        float score[SIDE / 8][4];
        clear(score);
        start_products(score);
        add_tile_scores(score, queries, keys(stage));
        finish_products(score);
        if (SOFT) {
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
                float seen[4];
                logs.get(seen, s, sequence, kv, key, first, j);
#pragma unroll
                for (u32 k = 0; k < 4; k++) score[j][k] = fmaf(score[j][k], scale, seen[k]);
            }
            start_logs(i + 1);
        }
        if (!(list[i] & WHOLE)) hide(ends[stage], key, first, [&](u32 j, u32 k) { score[j][k] = -infinity(); });
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float most = top[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) most = fmaxf(most, fmaxf(score[j][half * 2], score[j][half * 2 + 1]));
            most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
            // Where nothing was seen, -infinity minus itself is no number.
            float base = most == -infinity() ? 0.0f : most * unit;
            float keep = most == top[half] ? 1.0f : two_to(top[half] * unit - base);
            top[half] = most;
            float more = 0.0f;
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& x = score[j][half * 2 + c];
                    x = two_to(fmaf(x, unit, -base));
                    more += x;
                }
            sum[half] = sum[half] * keep + more;
#pragma unroll
            for (u32 j = 0; j < DP / 8; j++) mixed[j][half * 2] *= keep, mixed[j][half * 2 + 1] *= keep;
        }
        Weights<W> weights(score);
        start_products(mixed);
        add_tile_mixed(mixed, weights, values(stage));
        finish_products(mixed);
        if (STAGES == 1) {
            __syncthreads();
            start(i + 1);
        }
        note_ends(i + 1);
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float total = sum[half];
        total += __shfl_xor_sync(ALL, total, 1);
        total += __shfl_xor_sync(ALL, total, 2);
        u32 row = own_row(half);
        if (row >= rows) continue;
        u64 token = (u64)sequence * s.tokens + first + row;
        if (lane() % 4 == 0) {
            p.lse[(u64)(sequence * QUERY_HEADS + head) * s.tokens + first + row] = top[half] * (SOFT ? LN_2 : s.scale) + logf(total);
        }
        write_row(p.out + token * MIXED + head * D, mixed, half, 1.0f / total);
    }
}
// Of heads of 64, registers of five blocks on a multiprocessor.
constexpr u32 BLOCKS = DP <= 64 && sizeof(W) == 2 ? 5 : 1;
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attend(const __grid_constant__ Attend p) { attend_with<false>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attend_soft(const __grid_constant__ Attend p) { attend_with<true>(p); }

struct Deltas {
    const W* out;    // [rows][MIXED]
    const W* dout;
    float* delta;    // [b][h][T]: out . dout
    u32 rows, tokens;
};
// Lanes of a head: each a chunk of 16 bytes where heads are made of such and lanes come out even.
constexpr u32 EACH = 16 / sizeof(W);
constexpr bool CHUNKED = D % EACH == 0 && D / EACH <= 32 && (D / EACH & (D / EACH - 1)) == 0;
constexpr u32 HEAD_LANES = CHUNKED ? D / EACH : 32;
extern "C" __global__ void __launch_bounds__(THREADS) deltas(Deltas p) {
    u32 index = blockIdx.x * (THREADS / HEAD_LANES) + threadIdx.x / HEAD_LANES, at = threadIdx.x % HEAD_LANES;
    bool there = index < p.rows * QUERY_HEADS;
    const W *out = p.out + (u64)index * D, *dout = p.dout + (u64)index * D;
    float sum = 0.0f;
    if constexpr (CHUNKED) {
        if (there) {
            float x[EACH], y[EACH];
            load(x, out + at * EACH);
            load(y, dout + at * EACH);
#pragma unroll
            for (u32 i = 0; i < EACH; i++) sum = fmaf(x[i], y[i], sum);
        }
    } else {
        for (u32 i = at; there && i < D; i += HEAD_LANES) sum = fmaf(widen(out[i]), widen(dout[i]), sum);
    }
#pragma unroll
    for (u32 i = HEAD_LANES / 2; i > 0; i /= 2) sum += __shfl_xor_sync(ALL, sum, i);
    u32 row = index / QUERY_HEADS, head = index % QUERY_HEADS;
    if (there && at == 0) p.delta[(u64)(row / p.tokens * QUERY_HEADS + head) * p.tokens + row % p.tokens] = sum;
}

struct BackQueries {
    Shape shape;
    const W* dout;        // [b T][MIXED]
    const float* lse;     // [b][h][T]
    const float* delta;   // [b][h][T]
    W* dqkv;              // [b T][FUSED]
};

template <bool SOFT> __device__ __forceinline__ void back_queries_with(const BackQueries& p) {
    extern __shared__ __align__(16) u8 raw_memory[];
    __shared__ u16 list[MOST_TILES];
    __shared__ __align__(16) u32 ends[STAGES][SIDE];
    u8* memory = whole_atoms(raw_memory);
    const Shape& s = p.shape;
    W *queries = (W*)memory, *douts = (W*)(memory + TILE_BYTES);
    auto keys = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    auto values = [&](u32 stage) { return (W*)(memory + (3 + 2 * stage) * TILE_BYTES); };
    u32 tile = s.first_tile + gridDim.z - 1 - blockIdx.z, head = blockIdx.x, sequence = blockIdx.y, kv = head / RATIO, first = tile * SIDE;
    u32 rows = min(SIDE, s.tokens - first);
    fetch(queries, row_of(s, sequence, first, head), FUSED, rows);
    fetch(douts, p.dout + ((u64)sequence * s.tokens + first) * MIXED + head * D, MIXED, rows);
    Ends all_ends(s, sequence, kv);
    u32 tiles = list_tiles(all_ends, tile, list), coming = 0;
    auto start = [&](u32 i) {
        if (i < tiles) {
            u32 key = (list[i] & ~WHOLE) * SIDE, count = min(SIDE, s.tokens - key);
            fetch(keys(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + kv), FUSED, count);
            fetch(values(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + KV_HEADS + kv), FUSED, count);
            if (threadIdx.x < SIDE) coming = all_ends.of(key + threadIdx.x);
        }
        commit_copies();
    };
    // Once what `start` read is there, and nobody waits for it.
    auto note_ends = [&](u32 i) {
        if (i < tiles && threadIdx.x < SIDE) ends[i % STAGES][threadIdx.x] = coming;
    };
    float dq[DP / 8][4], rest[2], delta[2], scale = s.scale * LOG2_E;
    clear(dq);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u64 at = (u64)(sequence * QUERY_HEADS + head) * s.tokens + first + own_row(half);
        bool there = own_row(half) < rows;
        rest[half] = there ? -p.lse[at] * LOG2_E : -infinity(), delta[half] = there ? p.delta[at] : 0.0f;
    }
    Logs logs;
    auto start_logs = [&](u32 i) {
        if (SOFT && i < tiles) logs.start(s, sequence, kv, (list[i] & ~WHOLE) * SIDE, first);
    };
    start(0);
    note_ends(0);
    start_logs(0);
    for (u32 i = 0; i < tiles; i++) {
        arrived<0>();
        if (STAGES == 2) start(i + 1);
        u32 stage = i % STAGES, key = (list[i] & ~WHOLE) * SIDE;
        float score[SIDE / 8][4], change[SIDE / 8][4];
        clear(score);
        clear(change);
        start_products(score, change);
        add_tile_scores(score, queries, keys(stage));
        add_tile_scores(change, douts, values(stage));
        finish_products(score, change);
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) {
            float seen[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (SOFT) logs.get(seen, s, sequence, kv, key, first, j);
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                float more = SOFT ? seen[k] + rest[k / 2] : rest[k / 2];
                score[j][k] = two_to(fmaf(score[j][k], scale, more)) * (change[j][k] - delta[k / 2]);
            }
        }
        start_logs(i + 1);
        if (!(list[i] & WHOLE)) hide(ends[stage], key, first, [&](u32 j, u32 k) { score[j][k] = 0.0f; });
        Weights<W> weights(score);
        start_products(dq);
        add_tile_mixed(dq, weights, keys(stage));
        finish_products(dq);
        if (STAGES == 1) {
            __syncthreads();
            start(i + 1);
        }
        note_ends(i + 1);
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = own_row(half);
        if (row < rows) write_row(p.dqkv + ((u64)sequence * s.tokens + first + row) * FUSED + head * D, dq, half, s.scale);
    }
}
// Of four blocks, the way back.
constexpr u32 BACK_BLOCKS = DP <= 64 && sizeof(W) == 2 ? 4 : 1;
extern "C" __global__ void __launch_bounds__(THREADS, BACK_BLOCKS) back_queries(const __grid_constant__ BackQueries p) { back_queries_with<false>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, BACK_BLOCKS) back_queries_soft(const __grid_constant__ BackQueries p) { back_queries_with<true>(p); }
