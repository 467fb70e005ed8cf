// Attention in training over sequences of T tokens: forward, and the gradients of queries, keys and values.
//
// A key has an end, the first query that no longer sees it; what no query of a tile sees is not visited. One block owns what
// it writes, and adds in one order: queries of a tile in `attend` and `back_queries`, keys of a tile in `back_keys`.

struct Shape {
    u32 tokens;         // T
    u32 groups;         // of `expires_at`
    u32 window;         // query k sees key j only if k - j is below it; NEVER for no window
    float scale;
    const u32* expires_at;   // [b][groups][T], or none
    const W* qkv;            // [b T][FUSED]
};

constexpr u32 MOST_TILES = 1024;
constexpr u32 WHOLE = 0x8000;
constexpr u32 STAGES = DP * sizeof(W) <= 512 ? 2 : 1;

__device__ __forceinline__ u32 end_of(const Shape& s, u32 sequence, u32 kv_head, u32 key) {
    if (key >= s.tokens) return 0;
    u32 end = s.window == NEVER ? NEVER : key + s.window;
    if (s.expires_at) {
        u32 group = kv_head / (KV_HEADS / s.groups);
        end = min(end, s.expires_at[(u64)(sequence * s.groups + group) * s.tokens + key]);
    }
    return end;
}
__device__ __forceinline__ const W* row_of(const Shape& s, u32 sequence, u32 token, u32 head) {
    return s.qkv + ((u64)sequence * s.tokens + token) * FUSED + head * D;
}

// The tiles of keys that a tile of queries sees, with WHOLE where all its queries see all keys.
__device__ __forceinline__ u32 list_tiles(const Shape& s, u32 sequence, u32 kv_head, u32 tile, u16* list) {
    __shared__ u32 some[WARPS], all[WARPS], count;
    u32 first = tile * SIDE, last = min(first + SIDE, s.tokens) - 1;
    if (threadIdx.x == 0) count = 0;
    for (u32 from = 0; from <= tile; from += WARPS) {
        u32 mine = from + warp();
        bool seen = false, whole = true;
        if (mine <= tile) {
#pragma unroll
            for (u32 i = 0; i < SIDE; i += 32) {
                u32 end = end_of(s, sequence, kv_head, mine * SIDE + i + lane());
                seen |= end > first;
                whole &= end > last;
            }
        }
        u32 seen_by = __ballot_sync(ALL, seen), whole_to = __ballot_sync(ALL, whole);
        if (lane() == 0) some[warp()] = seen_by, all[warp()] = mine < tile && whole_to == ALL;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (u32 i = 0; i < WARPS && from + i <= tile; i++)
                if (some[i]) list[count++] = (u16)(from + i | (all[i] ? WHOLE : 0));
        }
        __syncthreads();
    }
    return count;
}

struct Attend {
    Shape shape;
    W* out;       // [b T][MIXED]
    float* lse;   // [b][h][T]
};

extern "C" __global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ Attend p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ u16 list[MOST_TILES];
    __shared__ u32 ends[STAGES][SIDE];
    const Shape& s = p.shape;
    W* queries = (W*)memory;
    auto keys = [&](u32 stage) { return (W*)(memory + (1 + 2 * stage) * TILE_BYTES); };
    auto values = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    // Late tiles, which see most keys, first.
    u32 tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, sequence = blockIdx.z, kv = head / RATIO, first = tile * SIDE;
    u32 rows = min(SIDE, s.tokens - first);
    fetch(queries, row_of(s, sequence, first, head), FUSED, rows);
    u32 tiles = list_tiles(s, sequence, kv, tile, list);
    auto start = [&](u32 i) {
        if (i < tiles) {
            u32 key = (list[i] & ~WHOLE) * SIDE, count = min(SIDE, s.tokens - key);
            fetch(keys(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + kv), FUSED, count);
            fetch(values(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + KV_HEADS + kv), FUSED, count);
            if (threadIdx.x < SIDE) ends[i % STAGES][threadIdx.x] = end_of(s, sequence, kv, key + threadIdx.x);
        }
        commit_copies();
    };
    float mixed[DP / 8][4], top[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    clear(mixed);
    float scale = s.scale * LOG2_E;
    if (STAGES == 2) start(0);
    for (u32 i = 0; i < tiles; i++) {
        if (STAGES == 2) start(i + 1), wait_copies<1>();
        else start(i), wait_copies<0>();
        __syncthreads();
        float score[SIDE / 8][4];
        clear(score);
        add_scores<STRIDE, DP>(score, queries, warp() * 16, keys(i % STAGES));
        u32 key = (list[i] & ~WHOLE) * SIDE;
        bool masked = !(list[i] & WHOLE);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 query = first + own_row(half);
            float most = top[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& x = score[j][half * 2 + c];
                    u32 column = own_column(j, c);
                    if (masked && (key + column > query || ends[i % STAGES][column] <= query)) x = -infinity();
                    most = fmaxf(most, x);
                }
            most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
            most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
            // Where nothing was seen, -infinity minus itself is no number.
            float base = most == -infinity() ? 0.0f : most * scale;
            float keep = most == top[half] ? 1.0f : two_to(top[half] * scale - base);
            top[half] = most;
            float more = 0.0f;
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& x = score[j][half * 2 + c];
                    x = two_to(fmaf(x, scale, -base));
                    more += x;
                }
            sum[half] = sum[half] * keep + more;
#pragma unroll
            for (u32 j = 0; j < DP / 8; j++) mixed[j][half * 2] *= keep, mixed[j][half * 2 + 1] *= keep;
        }
        add_mixed<STRIDE, DP>(mixed, score, values(i % STAGES));
        __syncthreads();
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
            p.lse[(u64)(sequence * QUERY_HEADS + head) * s.tokens + first + row] = top[half] * s.scale + logf(total);
        }
        W* to = p.out + token * MIXED + head * D;
#pragma unroll
        for (u32 j = 0; j < DP / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++)
                if (own_column(j, c) < D) to[own_column(j, c)] = narrow<W>(mixed[j][half * 2 + c] / total);
    }
}

struct Deltas {
    const W* out;    // [rows][MIXED]
    const W* dout;
    float* delta;    // [b][h][T]: out . dout
    u32 rows, tokens;
};
extern "C" __global__ void __launch_bounds__(THREADS) deltas(Deltas p) {
    u64 index = (u64)blockIdx.x * WARPS + warp();
    if (index >= (u64)p.rows * QUERY_HEADS) return;
    u64 row = index / QUERY_HEADS;
    u32 head = (u32)(index % QUERY_HEADS);
    float sum = 0.0f;
    for (u32 i = lane(); i < D; i += 32) sum = fmaf(widen(p.out[row * MIXED + head * D + i]), widen(p.dout[row * MIXED + head * D + i]), sum);
    sum = warp_sum(sum);
    if (lane() == 0) p.delta[(row / p.tokens * QUERY_HEADS + head) * p.tokens + row % p.tokens] = sum;
}

struct Back {
    Shape shape;
    const W* dout;        // [b T][MIXED]
    const float* lse;     // [b][h][T]
    const float* delta;   // [b][h][T]
    W* dqkv;              // [b T][FUSED]
};

extern "C" __global__ void __launch_bounds__(THREADS) back_queries(const __grid_constant__ Back p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ u16 list[MOST_TILES];
    __shared__ u32 ends[STAGES][SIDE];
    const Shape& s = p.shape;
    W *queries = (W*)memory, *douts = (W*)(memory + TILE_BYTES);
    auto keys = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    auto values = [&](u32 stage) { return (W*)(memory + (3 + 2 * stage) * TILE_BYTES); };
    u32 tile = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, sequence = blockIdx.z, kv = head / RATIO, first = tile * SIDE;
    u32 rows = min(SIDE, s.tokens - first);
    fetch(queries, row_of(s, sequence, first, head), FUSED, rows);
    fetch(douts, p.dout + ((u64)sequence * s.tokens + first) * MIXED + head * D, MIXED, rows);
    u32 tiles = list_tiles(s, sequence, kv, tile, list);
    auto start = [&](u32 i) {
        if (i < tiles) {
            u32 key = (list[i] & ~WHOLE) * SIDE, count = min(SIDE, s.tokens - key);
            fetch(keys(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + kv), FUSED, count);
            fetch(values(i % STAGES), row_of(s, sequence, key, QUERY_HEADS + KV_HEADS + kv), FUSED, count);
            if (threadIdx.x < SIDE) ends[i % STAGES][threadIdx.x] = end_of(s, sequence, kv, key + threadIdx.x);
        }
        commit_copies();
    };
    float dq[DP / 8][4], lse[2], delta[2];
    clear(dq);
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u64 at = (u64)(sequence * QUERY_HEADS + head) * s.tokens + first + own_row(half);
        bool there = own_row(half) < rows;
        lse[half] = there ? p.lse[at] : infinity(), delta[half] = there ? p.delta[at] : 0.0f;
    }
    if (STAGES == 2) start(0);
    for (u32 i = 0; i < tiles; i++) {
        if (STAGES == 2) start(i + 1), wait_copies<1>();
        else start(i), wait_copies<0>();
        __syncthreads();
        float score[SIDE / 8][4], change[SIDE / 8][4];
        clear(score);
        clear(change);
        add_scores<STRIDE, DP>(score, queries, warp() * 16, keys(i % STAGES));
        add_scores<STRIDE, DP>(change, douts, warp() * 16, values(i % STAGES));
        u32 key = (list[i] & ~WHOLE) * SIDE;
        bool masked = !(list[i] & WHOLE);
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                u32 half = k / 2, query = first + own_row(half), column = own_column(j, k % 2);
                float weight = two_to((score[j][k] * s.scale - lse[half]) * LOG2_E);
                if (masked && (key + column > query || ends[i % STAGES][column] <= query)) weight = 0.0f;
                score[j][k] = weight * (change[j][k] - delta[half]);
            }
        add_mixed<STRIDE, DP>(dq, score, keys(i % STAGES));
        __syncthreads();
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = own_row(half);
        if (row >= rows) continue;
        W* to = p.dqkv + ((u64)sequence * s.tokens + first + row) * FUSED + head * D;
#pragma unroll
        for (u32 j = 0; j < DP / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++)
                if (own_column(j, c) < D) to[own_column(j, c)] = narrow<W>(dq[j][half * 2 + c] * s.scale);
    }
}

// Rows are keys here, and columns queries, so that weights are the left operand of both sums as they come.
extern "C" __global__ void __launch_bounds__(THREADS) back_keys(const __grid_constant__ Back p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ float stats[STAGES][2][SIDE];
    __shared__ u32 latest;
    const Shape& s = p.shape;
    W *keys = (W*)memory, *values = (W*)(memory + TILE_BYTES);
    auto queries = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    auto douts = [&](u32 stage) { return (W*)(memory + (3 + 2 * stage) * TILE_BYTES); };
    u32 tile = blockIdx.x, kv = blockIdx.y, sequence = blockIdx.z, first = tile * SIDE, rows = min(SIDE, s.tokens - first);
    fetch(keys, row_of(s, sequence, first, QUERY_HEADS + kv), FUSED, rows);
    fetch(values, row_of(s, sequence, first, QUERY_HEADS + KV_HEADS + kv), FUSED, rows);
    if (threadIdx.x == 0) latest = 0;
    __syncthreads();
    if (threadIdx.x < SIDE) atomicMax(&latest, min(s.tokens, end_of(s, sequence, kv, first + threadIdx.x)));
    __syncthreads();
    u32 end[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) end[half] = min(s.tokens, end_of(s, sequence, kv, first + own_row(half)));
    // All query heads of this KV head, each over the tiles of queries from this one on.
    u32 tiles = (latest + SIDE - 1) / SIDE - tile, steps = tiles * RATIO;
    auto start = [&](u32 i) {
        if (i < steps) {
            u32 head = kv * RATIO + i / tiles, query = (tile + i % tiles) * SIDE, count = min(SIDE, s.tokens - query);
            fetch(queries(i % STAGES), row_of(s, sequence, query, head), FUSED, count);
            fetch(douts(i % STAGES), p.dout + ((u64)sequence * s.tokens + query) * MIXED + head * D, MIXED, count);
            if (threadIdx.x < SIDE) {
                u64 at = (u64)(sequence * QUERY_HEADS + head) * s.tokens + query + threadIdx.x;
                bool there = threadIdx.x < count;
                stats[i % STAGES][0][threadIdx.x] = there ? p.lse[at] : infinity();
                stats[i % STAGES][1][threadIdx.x] = there ? p.delta[at] : 0.0f;
            }
        }
        commit_copies();
    };
    float dk[DP / 8][4], dv[DP / 8][4];
    clear(dk);
    clear(dv);
    if (STAGES == 2) start(0);
    for (u32 i = 0; i < steps; i++) {
        if (STAGES == 2) start(i + 1), wait_copies<1>();
        else start(i), wait_copies<0>();
        __syncthreads();
        u32 stage = i % STAGES, query = (tile + i % tiles) * SIDE;
        float weight[SIDE / 8][4], change[SIDE / 8][4];
        clear(weight);
        clear(change);
        add_scores<STRIDE, DP>(weight, keys, warp() * 16, queries(stage));
        add_scores<STRIDE, DP>(change, values, warp() * 16, douts(stage));
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                u32 half = k / 2, column = own_column(j, k % 2);
                float x = two_to((weight[j][k] * s.scale - stats[stage][0][column]) * LOG2_E);
                bool seen = query + column >= first + own_row(half) && query + column < end[half];
                weight[j][k] = seen ? x : 0.0f;
                change[j][k] = weight[j][k] * (change[j][k] - stats[stage][1][column]);
            }
        add_mixed<STRIDE, DP>(dv, weight, douts(stage));
        add_mixed<STRIDE, DP>(dk, change, queries(stage));
        __syncthreads();
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = own_row(half);
        if (row >= rows) continue;
        W* to = p.dqkv + ((u64)sequence * s.tokens + first + row) * FUSED + (QUERY_HEADS + kv) * D;
#pragma unroll
        for (u32 j = 0; j < DP / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                if (own_column(j, c) >= D) continue;
                to[own_column(j, c)] = narrow<W>(dk[j][half * 2 + c] * s.scale);
                to[KV_HEADS * D + own_column(j, c)] = narrow<W>(dv[j][half * 2 + c]);
            }
    }
}
