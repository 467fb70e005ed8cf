// The gradients of keys and values, and what each pair of a key and a query is worth to the gates.
//
// Rows are keys and columns queries, so that weights are the left operand of both sums as they come, and four lanes hold a key's
// queries in order (`turned`). Worths go to memory in the order in which threads hold them: `blame.cu` reads them so.

enum { DENSE, HARD, SOFT };

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

// The exact change of dout . out if an entry were there rather than not is `weight * change` over this. Bounded for an entry that
// is all that its query sees.
__device__ __forceinline__ float whole_of(bool living, float weight) { return living ? 1.0f - fminf(0.9f, weight) : 1.0f + weight; }

template <int RULE> __device__ __forceinline__ void back_keys_with(const BackKeys& p) {
    extern __shared__ __align__(16) u8 raw_memory[];
    // Of the columns of a tile: the logarithm of the sum of exponentials, negative and in powers of two, and out . dout.
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
    if (threadIdx.x == 0) latest = latest_alive = 0, earliest = NEVER;
    __syncthreads();
    if (threadIdx.x < SIDE) {
        u32 key = first + threadIdx.x, end = end_of(s, sequence, kv, key), looked_at = end;
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
    for (u32 half = 0; half < 2; half++) key[half] = first + own_row(half), end[half] = end_of(s, sequence, kv, key[half]);
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
                stats[i % STAGES][0][threadIdx.x] = row < count ? -p.lse[at] * LOG2_E : -infinity();
                stats[i % STAGES][1][threadIdx.x] = row < count ? p.delta[at] : 0.0f;
            }
        }
        commit_copies();
    };
    float dk[DP / 8][4], dv[DP / 8][4], worth[SIDE / 8][4], scale = s.scale * LOG2_E;
    clear(dk);
    clear(dv);
    start(0);
    for (u32 i = 0; i < steps; i++) {
        arrived<0>();
        if (STAGES == 2) start(i + 1);
        u32 stage = i % STAGES, now = begin + i / RATIO, query = now * SIDE;
        float weight[SIDE / 8][4], change[SIDE / 8][4];
        LogRow logs[2];
        if (RULE == SOFT) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) logs[half].start(logs_of(s, sequence, kv, key[half]) + query - s.first_tile * SIDE + lane() % 4 * 16);
        }
        clear(weight);
        clear(change);
        start_products(weight, change);
        add_tile_scores(weight, keys, queries(stage));
        add_tile_scores(change, values, douts(stage));
        finish_products(weight, change);
        bool alive = RULE != HARD || query < latest_alive;
        bool masked = now == tile || query + SIDE > earliest;
        auto pairs = [&](auto hiding) {
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
                float2 rest = *(const float2*)&stats[stage][0][own_column(j, 0)], delta = *(const float2*)&stats[stage][1][own_column(j, 0)];
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    u32 half = k / 2, at = query + lane() % 4 * 16 + 2 * j + k % 2;
                    float more = k % 2 ? rest.y : rest.x;
                    if (RULE == SOFT) more += logs[half].get(2 * j + k % 2);
                    float x = fmaf(weight[j][k], scale, more);
                    if (RULE == HARD) x = fminf(20.0f * LOG2_E, x);
                    float own = two_to(x), product = own * (change[j][k] - (k % 2 ? delta.y : delta.x));
                    bool living = !hiding || at < end[half], seen = !hiding || (living && at >= key[half]);
                    float worth_here = RULE == HARD ? product * reciprocal(whole_of(living, own)) : seen ? product : 0.0f;
                    if (RULE != DENSE) worth[j][k] = RATIO > 1 && i % RATIO > 0 ? worth[j][k] + worth_here : worth_here;
                    weight[j][k] = seen ? own : 0.0f;
                    change[j][k] = seen ? product : 0.0f;
                }
            }
        };
        if (masked) pairs(Yes());
        else pairs(No());
        if (RULE != DENSE && i % RATIO == RATIO - 1) {
            u64 place = ((u64)(sequence * KV_HEADS + kv) * all + tile) * s.tiles + now - s.first_tile;
            put_pairs(p.worth + place * (SIDE * SIDE), worth);
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
extern "C" __global__ void __launch_bounds__(THREADS) back_keys(const __grid_constant__ BackKeys p) { back_keys_with<DENSE>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) back_keys_hard(const __grid_constant__ BackKeys p) { back_keys_with<HARD>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) back_keys_soft(const __grid_constant__ BackKeys p) { back_keys_with<SOFT>(p); }
