// The gradients of keys and values, and what each pair of a key and a query is worth to the gates.
//
// Rows are keys and columns queries, so that weights are the left operand of both sums as they come, and four lanes hold a key's
// queries in order (`turned`). Worths go to memory in the order in which threads hold them: `blame.cu` reads them so.

enum { DENSE, HARD, SOFT };
// Of a block's worths, where several heads share a key.
constexpr u32 WORTH_BYTES = RATIO > 1 ? SIDE * SIDE * sizeof(float) : 0;

struct BackKeys {
    Shape shape;
    const W* dout;          // [b T][MIXED]
    const float* lse;       // [b][h][T]
    const float* delta;     // [b][h][T]
    W* dqkv;                // [b T][FUSED]
    float* carried;         // [b T][2 KV_HEADS D]: sums over the strips behind, or none where one strip is all
    W* worth;               // [b][KV_HEADS][tiles of T][tiles of the strip][64 x 64], with gates
    const u32* fades_at;    // [b][groups][T]: the first query for which a key's votes have no gradient any more (hard)
};

template <int RULE> __device__ __forceinline__ void back_keys_with(const BackKeys& p) {
    extern __shared__ __align__(16) u8 raw_memory[];
    // Of the columns of a tile: the logarithm of the sum of exponentials, and out . dout.
    __shared__ __align__(16) float stats[STAGES][2][SIDE];
    __shared__ u32 latest, latest_alive, earliest;
    u8* memory = whole_atoms(raw_memory);
    const Shape& s = p.shape;
    W *keys = (W*)memory, *values = (W*)(memory + TILE_BYTES);
    auto queries = [&](u32 stage) { return (W*)(memory + (2 + 2 * stage) * TILE_BYTES); };
    auto douts = [&](u32 stage) { return (W*)(memory + (3 + 2 * stage) * TILE_BYTES); };
    // Early tiles, which most queries see, first.
    u32 all = (s.tokens + SIDE - 1) / SIDE, kv = blockIdx.x, sequence = blockIdx.y, tile = blockIdx.z, first = tile * SIDE, rows = min(SIDE, s.tokens - first);
    fetch(keys, row_of(s, sequence, first, QUERY_HEADS + kv), FUSED, rows);
    fetch(values, row_of(s, sequence, first, QUERY_HEADS + KV_HEADS + kv), FUSED, rows);
    Ends ends(s, sequence, kv);
    if (threadIdx.x == 0) latest = latest_alive = 0, earliest = NEVER;
    __syncthreads();
    if (threadIdx.x < SIDE) {
        u32 key = first + threadIdx.x, end = ends.of(key), looked_at = end;
        if (RULE == HARD && key < s.tokens) {
            u32 in_sight = s.window == NEVER ? NEVER : key + s.window;
            looked_at = max(end, min(in_sight, p.fades_at[(u64)(sequence * s.groups + group_of(s, kv)) * s.tokens + key]));
        }
        atomicMin(&earliest, end);
        atomicMax(&latest_alive, end);
        atomicMax(&latest, looked_at);
    }
    __syncthreads();
    u32 end[2], key[2];
#pragma unroll
    for (u32 half = 0; half < 2; half++) key[half] = first + own_row(half), end[half] = ends.of(key[half]);
    // The tiles of the strip from this one on, each for all query heads of this KV head.
    u32 begin = max(tile, s.first_tile), behind = (min(s.tokens, latest) + SIDE - 1) / SIDE;
    behind = min(behind, s.first_tile + s.tiles);
    u32 steps = behind > begin ? (behind - begin) * RATIO : 0;
    auto start = [&](u32 i) {
        if (i < steps) {
            u32 head = kv * RATIO + i % RATIO, query = (begin + i / RATIO) * SIDE, count = min(SIDE, s.tokens - query);
            fetch<true>(queries(i % STAGES), row_of(s, sequence, query, head), FUSED, count);
            fetch<true>(douts(i % STAGES), p.dout + ((u64)sequence * s.tokens + query) * MIXED + head * D, MIXED, count);
            if (threadIdx.x < SIDE) {
                u32 row = turned(threadIdx.x);
                u64 at = (u64)(sequence * QUERY_HEADS + head) * s.tokens + query + row;
                // Of queries that are not there everything is 0, and so what comes of them.
                copy4(shared_address(&stats[i % STAGES][0][threadIdx.x]), p.lse + at, row < count ? 4 : 0);
                copy4(shared_address(&stats[i % STAGES][1][threadIdx.x]), p.delta + at, row < count ? 4 : 0);
            }
        }
        commit_copies();
    };
    // A thread's own sums of worths over the heads that share a key.
    float4* worths = (float4*)(memory + (2 + 2 * STAGES) * TILE_BYTES) + threadIdx.x;
    // And its logarithms of a tile, those of one key behind those of the other.
    constexpr u32 EACH = 16 / sizeof(Log), CHUNKS = 16 / EACH;
    uint4* own_logs = (uint4*)(worths + WORTH_BYTES / sizeof(float4));
    auto start_logs = [&](u32 query) {
#pragma unroll
        for (u32 i = 0; RULE == SOFT && i < 2 * CHUNKS; i++) {
            const Log* from = logs_of(s, sequence, kv, key[i / CHUNKS]) + query - s.first_tile * SIDE + lane() % 4 * 16;
            copy16(shared_address(own_logs + i * THREADS), from + i % CHUNKS * EACH);
        }
    };
    float dk[DP / 8][4], dv[DP / 8][4], scale = s.scale * LOG2_E;
    clear(dk);
    clear(dv);
    if (steps > 0) start_logs(begin * SIDE);
    start(0);
    for (u32 i = 0; i < steps; i++) {
        arrived<0>();
        if (STAGES == 2) start(i + 1);
        u32 stage = i % STAGES, now = begin + i / RATIO, query = now * SIDE;
        float weight[SIDE / 8][4], change[SIDE / 8][4];
        clear(weight);
        clear(change);
        start_products(weight, change);
        add_tile_scores(weight, keys, queries(stage));
        add_tile_scores(change, values, douts(stage));
        finish_products(weight, change);
        bool alive = RULE != HARD || query < latest_alive;
        bool first_head = RATIO == 1 || i % RATIO == 0, last_head = RATIO == 1 || i % RATIO == RATIO - 1;
        W* worth_of = RULE == DENSE ? nullptr
                                    : p.worth + (((u64)(sequence * KV_HEADS + kv) * all + tile) * s.tiles + now - s.first_tile) * (SIDE * SIDE);
        // Of the lane's queries, from which on a key is behind its query, and from which on it is not seen any more.
        float from[2], until[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 at = query + lane() % 4 * 16;
            from[half] = key[half] > at ? (float)(key[half] - at) : 0.0f;
            until[half] = end[half] > at ? (float)(end[half] - at) : 0.0f;
        }
        auto pairs = [&](auto ending, auto ordered) {
            float eight[2][8];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
                float worth[4], seen_of[2][2];
#pragma unroll
                for (u32 half = 0; RULE == SOFT && half < 2; half++) {
                    const Log* pair = (const Log*)(own_logs + (half * CHUNKS + 2 * j / EACH) * THREADS) + 2 * j % EACH;
                    seen_of[half][0] = widen(pair[0]), seen_of[half][1] = widen(pair[1]);
                }
                float2 lse = *(const float2*)&stats[stage][0][own_column(j, 0)], delta = *(const float2*)&stats[stage][1][own_column(j, 0)];
                float rest[2] = {-LOG2_E * lse.x, -LOG2_E * lse.y};
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    u32 half = k / 2;
                    float at = (float)(2 * j + k % 2), more = rest[k % 2];
                    if (RULE == SOFT) more += seen_of[half][k % 2];
                    float x = fmaf(weight[j][k], scale, more), gain = change[j][k] - (k % 2 ? delta.y : delta.x);
                    if constexpr (RULE == HARD) {
                        // What the query does not see may have any score. Of the weight it keeps all or nothing.
                        float own = two_to(ending ? fminf(20.0f * LOG2_E, x) : x), kept = own;
                        if (ending) kept *= at < until[half] && (!ordered || at >= from[half]) ? 1.0f : 0.0f;
                        // The exact change of dout . out if the entry were there rather than not. Bounded for one that is all that its
                        // query sees.
                        float whole = 1.0f - fminf(0.9f, kept);
                        if (ending) whole += own - kept;
                        worth[k] = own * gain * reciprocal(whole);
                        weight[j][k] = kept;
                        change[j][k] = kept * gain;
                    } else {
                        bool seen = (!ending || at < until[half]) && (!ordered || at >= from[half]);
                        float own = seen ? two_to(x) : 0.0f;
                        weight[j][k] = own;
                        worth[k] = change[j][k] = own * gain;
                    }
                }
                if constexpr (RULE == DENSE) continue;
                if (!first_head) {
                    float4 sofar = worths[j * THREADS];
                    worth[0] += sofar.x, worth[1] += sofar.y, worth[2] += sofar.z, worth[3] += sofar.w;
                }
                if (!last_head) worths[j * THREADS] = make_float4(worth[0], worth[1], worth[2], worth[3]);
                // Written as they come: together they would take the registers of a block.
#pragma unroll
                for (u32 k = 0; k < 4; k++) eight[k / 2][j % 4 * 2 + k % 2] = worth[k];
                if (j % 4 == 3 && last_head) {
#pragma unroll
                    for (u32 half = 0; half < 2; half++) put_eight(worth_of, half, j / 4, eight[half]);
                }
            }
        };
        if (now == tile) pairs(Yes(), Yes());
        else if (query + SIDE > earliest) pairs(Yes(), No());
        else pairs(No(), No());
        if (RULE == SOFT && last_head && i + 1 < steps) {
            start_logs(query + SIDE);
            commit_copies();
        }
        if (alive) {
            Weights<W> weights(weight), changes(change);
            start_products(dv, dk);
            add_tile_mixed(dv, weights, douts(stage));
            add_tile_mixed(dk, changes, queries(stage));
            finish_products(dv, dk);
        }
        if (STAGES == 1) {
            __syncthreads();
            start(i + 1);
        }
    }
    // Strips come from the last to the first; the one that holds the keys is the last of theirs.
    bool add = p.carried && s.first_tile + s.tiles < all, write = s.first_tile <= tile;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 row = own_row(half);
        if (row >= rows) continue;
        u64 token = (u64)sequence * s.tokens + first + row;
        float* sofar = p.carried + (token * 2 * KV_HEADS + kv) * D;
#pragma unroll
        for (u32 j = 0; j < DP / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                u32 column = own_column(j, c);
                if (column >= D) continue;
                float &x = dk[j][half * 2 + c], &y = dv[j][half * 2 + c];
                if (add) x += sofar[column], y += sofar[KV_HEADS * D + column];
                if (!write) sofar[column] = x, sofar[KV_HEADS * D + column] = y;
            }
        if (write) {
            W* to = p.dqkv + token * FUSED + (QUERY_HEADS + kv) * D;
            write_row(to, dk, half, s.scale);
            write_row(to + KV_HEADS * D, dv, half, 1.0f);
        }
    }
}
// Of heads of 64, registers of three blocks on a multiprocessor.
constexpr u32 BLOCKS = DP <= 64 && sizeof(W) == 2 ? 3 : 1;
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) back_keys(const __grid_constant__ BackKeys p) { back_keys_with<DENSE>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) back_keys_hard(const __grid_constant__ BackKeys p) { back_keys_with<HARD>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) back_keys_soft(const __grid_constant__ BackKeys p) { back_keys_with<SOFT>(p); }
