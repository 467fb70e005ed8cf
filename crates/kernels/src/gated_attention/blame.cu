// The hard rule in training: when keys expire, and which vote is to blame for what their death cost.
//
// A block owns 64 keys of one gate head and walks the queries: up to find the running minimum of each key's scores, down to
// give what later queries would have gained to the query that holds the minimum. Scores come from one routine, so that both
// walks see equal bits.

constexpr u32 R = SIDE_WIDTH > 0 ? SIDE_WIDTH : 1, RP = (R + 15) / 16 * 16, GATES = GROUPS * R;
constexpr u32 GATE_STRIDE = padded<W>(RP);
// In 16 bits a gate is a sum of two numbers, in f32 it is one.
constexpr u32 PARTS = sizeof(W) == 2 ? 2 : 1;
constexpr u32 GATE_TILE = SIDE * GATE_STRIDE;
constexpr u32 GROUP_KV = KV_HEADS / GROUPS, GROUP_HEADS = QUERY_HEADS / GROUPS;
constexpr float HUGE = 1e30f;
// Below this score no gradient passes (Rust: LOWEST_SCORE).
constexpr float LOWEST_SCORE = -8.0f;

struct Voter {
    const float* query_gates;   // [b T][GATES]
    const float* key_gates;     // [b T][GATES]
    const float* bias;          // [GROUPS]
    const float* noise;         // [b][GROUPS][T], or none
    float shift;                // subtracted from every score
    u32 tokens, sinks, recent;
    u32 window;                 // NEVER for no window
    u32 padding;
};

// 64 rows of gates, split; rows from `count` on are 0.
__device__ __forceinline__ void fetch_gates(W* tile, const float* from, u32 count) {
    for (u32 i = threadIdx.x; i < SIDE * RP; i += THREADS) {
        u32 row = i / RP, column = i % RP;
        float x = row < count && column < R ? from[(u64)row * GATES + column] : 0.0f;
        W high = narrow<W>(x);
        tile[row * GATE_STRIDE + column] = high;
        if (PARTS == 2) tile[GATE_TILE + row * GATE_STRIDE + column] = narrow<W>(x - widen(high));
    }
}
// The scores of this warp's 16 queries and all 64 keys, before factor and bias.
__device__ __forceinline__ void gate_scores(float (&sums)[SIDE / 8][4], const W* queries, const W* keys) {
    clear(sums);
    if (PARTS == 2) {
        add_scores<GATE_STRIDE, RP>(sums, queries + GATE_TILE, warp() * 16, keys);
        add_scores<GATE_STRIDE, RP>(sums, queries, warp() * 16, keys + GATE_TILE);
    }
    add_scores<GATE_STRIDE, RP>(sums, queries, warp() * 16, keys);
}

struct Place {
    u32 tile, group, sequence;
    __device__ __forceinline__ Place(u32 index, u32 tiles) : tile(index % tiles), group(index / tiles % GROUPS), sequence(index / tiles / GROUPS) {}
    __device__ __forceinline__ u64 head() const { return (u64)sequence * GROUPS + group; }
};
__device__ __forceinline__ const float* gates_of(const float* all, const Voter& v, const Place& at, u32 token) {
    return all + ((u64)at.sequence * v.tokens + token) * GATES + at.group * R;
}
// What is added to each key's products.
__device__ __forceinline__ void fetch_offsets(float* offsets, const Voter& v, const Place& at) {
    if (threadIdx.x < SIDE) {
        u32 key = at.tile * SIDE + threadIdx.x;
        float noise = v.noise && key < v.tokens ? v.noise[at.head() * v.tokens + key] : 0.0f;
        offsets[threadIdx.x] = v.bias[at.group] - v.shift + noise;
    }
}

struct Votes {
    Voter voter;
    u32* expires_at;   // [b][GROUPS][T]
    float* trail;      // [b][GROUPS][tiles][T]: each key's smallest score before a tile of queries
};
extern "C" __global__ void __launch_bounds__(THREADS) hard_votes(const __grid_constant__ Votes p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ float offsets[SIDE], minima[WARPS][SIDE];
    __shared__ u32 refusals[WARPS][SIDE];
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE;
    Place at(blockIdx.x, tiles);
    u32 first = at.tile * SIDE;
    W *keys = (W*)memory, *queries = keys + PARTS * GATE_TILE;
    fetch_offsets(offsets, v, at);
    fetch_gates(keys, gates_of(v.key_gates, v, at, first), min(SIDE, v.tokens - first));
    float factor = 1.0f / sqrtf((float)R);
    // Of key threadIdx.x, in the first threads.
    float smallest = HUGE;
    u32 refused = NEVER, key = first + threadIdx.x;
    bool mine = threadIdx.x < SIDE && key < v.tokens;
    float* trail = p.trail + at.head() * tiles * v.tokens;
    bool over = false;
    for (u32 tile = at.tile; tile < tiles; tile++) {
        if (mine) trail[(u64)tile * v.tokens + key] = smallest;
        // Nothing passes any more, and everyone has been refused.
        over = over || __syncthreads_and(!mine || smallest < LOWEST_SCORE);
        if (over) continue;
        u32 query = tile * SIDE;
        fetch_gates(queries, gates_of(v.query_gates, v, at, query), min(SIDE, v.tokens - query));
        __syncthreads();
        float score[SIDE / 8][4];
        gate_scores(score, queries, keys);
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                float least = HUGE;
                u32 refuses = NEVER, column = own_column(j, c);
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 row = query + own_row(half);
                    if (row <= first + column || row >= v.tokens) continue;
                    float x = fmaf(score[j][half * 2 + c], factor, offsets[column]);
                    least = fminf(least, x);
                    // Not a number refuses.
                    if (!(x > 0.0f)) refuses = min(refuses, row);
                }
#pragma unroll
                for (u32 i = 4; i < 32; i *= 2) {
                    least = fminf(least, __shfl_xor_sync(ALL, least, i));
                    refuses = min(refuses, __shfl_xor_sync(ALL, refuses, i));
                }
                if (lane() < 4) minima[warp()][column] = least, refusals[warp()][column] = refuses;
            }
        __syncthreads();
        if (mine) {
#pragma unroll
            for (u32 w = 0; w < WARPS; w++) {
                smallest = fminf(smallest, minima[w][threadIdx.x]);
                refused = min(refused, refusals[w][threadIdx.x]);
            }
        }
    }
    if (mine) {
        u32 end = refused == NEVER || key < v.sinks ? NEVER : max(refused, key + v.recent);
        p.expires_at[at.head() * v.tokens + key] = end;
    }
}

struct Blame {
    Voter voter;
    const W* qkv;               // [b T][FUSED]
    const W* dout;              // [b T][MIXED]
    const float* lse;           // [b][h][T]
    const float* delta;
    const u32* expires_at;      // [b][GROUPS][T]
    const float* trail;         // as of Votes
    const float* lambda;        // [GROUPS]: added to the worth of every entry
    float* d_query_gates;       // [b T][GATES], written
    float* d_key_gates;         // [b T][GATES], written
    double* partials;           // [b][GROUPS][tiles][3]: worth, weight, gradient of the bias
    u32* turns;                 // [1 + b GROUPS tiles], zero: a ticket, and whose turn it is to add to a tile of query gates
    float scale;
    u32 padding;
};

constexpr u32 CELL_STRIDE = SIDE + 1, DX_STRIDE = padded<W>(SIDE);

extern "C" __global__ void __launch_bounds__(THREADS) hard_blame(const __grid_constant__ Blame p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ float offsets[SIDE], half_minimum[2][SIDE], half_carried[SIDE], stats[2][SIDE];
    __shared__ u32 ends[SIDE], ticket;
    __shared__ double totals[3][WARPS];
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE;
    // Blocks are numbered as they start, so that whoever is waited for has started.
    if (threadIdx.x == 0) ticket = atomicAdd(p.turns, 1u);
    __syncthreads();
    Place at(ticket, tiles);
    u32 first = at.tile * SIDE, count = min(SIDE, v.tokens - first);
    W *keys = (W*)memory, *values = (W*)(memory + TILE_BYTES), *queries = (W*)(memory + 2 * TILE_BYTES), *douts = (W*)(memory + 3 * TILE_BYTES);
    W *key_gates = (W*)(memory + 4 * TILE_BYTES), *query_gates = key_gates + PARTS * GATE_TILE;
    float *raws = (float*)(query_gates + PARTS * GATE_TILE), *worths = raws + SIDE * CELL_STRIDE;
    W* dx = (W*)raws;   // takes the scores' place
    const float* trail = p.trail + at.head() * tiles * v.tokens;
    const u32* expires_at = p.expires_at + at.head() * v.tokens;
    u32* turns = p.turns + 1 + at.head() * tiles;
    float factor = 1.0f / sqrtf((float)R), lambda = p.lambda[at.group];
    fetch_offsets(offsets, v, at);
    fetch_gates(key_gates, gates_of(v.key_gates, v, at, first), count);

    // Key threadIdx.x % 64 and half the queries of a tile belong to a thread: the upper half to the first two warps.
    u32 column = threadIdx.x % SIDE, half = threadIdx.x < SIDE ? 1 : 0, key = first + column;
    u32 window_end = key >= v.tokens ? 0 : v.window == NEVER ? NEVER : key + v.window;
    u32 decided_from = key < v.sinks || key >= v.tokens ? NEVER : key + v.recent;
    u32 end = key < v.tokens ? min(window_end, expires_at[key]) : 0;
    if (threadIdx.x < SIDE) ends[column] = end;
    float carried = 0.0f;
    double worth_sum = 0.0, weight_sum = 0.0, bias_sum = 0.0;
    float dk[RP / 8][4];
    clear(dk);
    bool fetched = false;
    auto kv_head = [&](u32 head) { return at.group * GROUP_KV + head / RATIO; };
    auto row_of = [&](u32 token, u32 head) { return p.qkv + ((u64)at.sequence * v.tokens + token) * FUSED + head * D; };

    for (u32 tile = tiles; tile-- > at.tile;) {
        u32 query = tile * SIDE, rows = min(SIDE, v.tokens - query);
        float before_tile = tile == at.tile || key >= v.tokens ? HUGE : trail[(u64)tile * v.tokens + key];
        // No query of the tile sees a key, and no score is near the threshold or decides.
        bool idle = end <= query && (before_tile < LOWEST_SCORE || decided_from == NEVER || window_end <= query);
        bool any = false;
        if (!__syncthreads_and(idle)) {
            float worth[SIDE / 8][4];
            clear(worth);
            for (u32 head = 0; head < GROUP_HEADS; head++) {
                u32 all = at.group * GROUP_HEADS + head;
                __syncthreads();
                if (GROUP_KV > 1 || !fetched) {
                    fetched = true;
                    fetch(keys, row_of(first, QUERY_HEADS + kv_head(head)), FUSED, count);
                    fetch(values, row_of(first, QUERY_HEADS + KV_HEADS + kv_head(head)), FUSED, count);
                }
                fetch(queries, row_of(query, all), FUSED, rows);
                fetch(douts, p.dout + ((u64)at.sequence * v.tokens + query) * MIXED + all * D, MIXED, rows);
                commit_copies();
                if (threadIdx.x < SIDE) {
                    u64 from = (u64)(at.sequence * QUERY_HEADS + all) * v.tokens + query + threadIdx.x;
                    bool there = threadIdx.x < rows;
                    stats[0][threadIdx.x] = there ? p.lse[from] : infinity(), stats[1][threadIdx.x] = there ? p.delta[from] : 0.0f;
                }
                wait_copies<0>();
                __syncthreads();
                float score[SIDE / 8][4], change[SIDE / 8][4];
                clear(score);
                clear(change);
                add_scores<STRIDE, DP>(score, queries, warp() * 16, keys);
                add_scores<STRIDE, DP>(change, douts, warp() * 16, values);
#pragma unroll
                for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) {
                        u32 row = own_row(k / 2);
                        float weight = two_to(fminf(20.0f, score[j][k] * p.scale - stats[0][row]) * LOG2_E);
                        float product = weight * (change[j][k] - stats[1][row]);
                        // The exact change of dout . out if the entry were there rather than not.
                        float whole = query + row < ends[own_column(j, k % 2)] ? 1.0f - fminf(0.9f, weight) : 1.0f + weight;
                        worth[j][k] += product / whole;
                    }
            }
            __syncthreads();
            fetch_gates(query_gates, gates_of(v.query_gates, v, at, query), rows);
            __syncthreads();
            float score[SIDE / 8][4];
            gate_scores(score, query_gates, key_gates);
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++)
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    u32 row = own_row(k / 2), mine = own_column(j, k % 2);
                    bool votes = query + row > first + mine && query + row < v.tokens;
                    raws[row * CELL_STRIDE + mine] = votes ? fmaf(score[j][k], factor, offsets[mine]) : HUGE;
                    worths[row * CELL_STRIDE + mine] = worth[j][k];
                }
            __syncthreads();
            float raw[SIDE / 2], least = HUGE;
#pragma unroll
            for (u32 i = 0; i < SIDE / 2; i++) raw[i] = raws[(half * 32 + i) * CELL_STRIDE + column], least = fminf(least, raw[i]);
            half_minimum[half][column] = least;
            __syncthreads();
            float smallest = before_tile;
            if (half == 1) smallest = fminf(smallest, half_minimum[0][column]);
            // The minimum up to each query, and whether it holds it.
            float minimum[SIDE / 2];
            u32 holds = 0;
#pragma unroll
            for (u32 i = 0; i < SIDE / 2; i++) {
                holds |= raw[i] < smallest ? 1u << i : 0u;
                smallest = fminf(smallest, raw[i]);
                minimum[i] = smallest;
            }
            // The upper half carries what came from the tiles above; the lower half, what the upper one hands down.
            float sum = half == 1 ? carried : 0.0f;
            u32 highest = holds ? 31 - __clz(holds) : 32;
            float blamed[SIDE / 2], tile_worth = 0.0f, tile_weight = 0.0f, tile_bias = 0.0f;
#pragma unroll
            for (u32 i = SIDE / 2; i-- > 0;) {
                u32 row = query + half * 32 + i;
                float m = minimum[i], tail = two_to(-fabsf(m) * LOG2_E), whole = 1.0f + tail;
                bool counts = !(m < LOWEST_SCORE) && row >= decided_from && row < window_end && row < v.tokens;
                float phi = counts ? tail / (whole * whole) : 0.0f;
                float worth_here = counts ? phi * worths[(half * 32 + i) * CELL_STRIDE + column] : 0.0f;
                tile_worth += worth_here, tile_weight += phi;
                sum += fmaf(phi, lambda, worth_here);
                bool here = holds >> i & 1;
                blamed[i] = here ? sum : 0.0f;
                sum = here ? 0.0f : sum;
            }
            if (half == 1) half_carried[column] = sum;
            __syncthreads();
            if (half == 0) {
                float handed = half_carried[column];
#pragma unroll
                for (u32 i = 0; i < SIDE / 2; i++) blamed[i] += i == highest ? handed : 0.0f;
                sum = holds ? sum : sum + handed;
                half_carried[column] = sum;
            }
#pragma unroll
            for (u32 i = 0; i < SIDE / 2; i++) {
                dx[(half * 32 + i) * DX_STRIDE + column] = narrow<W>(blamed[i]);
                tile_bias += blamed[i];
                // NaN must go on to the weights, where the trainer sees it.
                any |= blamed[i] != 0.0f;
            }
            worth_sum += (double)tile_worth, weight_sum += (double)tile_weight, bias_sum += (double)tile_bias;
            any = __syncthreads_or(any);
            carried = half_carried[column];
        }
        float dq[RP / 8][4];
        clear(dq);
        if (any) {
#pragma unroll
            for (u32 k = 0; k < SIDE; k += 16) {
                Left<W> rows_left, columns_left;
                load_left<DX_STRIDE>(rows_left, dx, warp() * 16, k);
                load_left_turned<DX_STRIDE>(columns_left, dx, k, warp() * 16);
#pragma unroll
                for (u32 c = 0; c < RP / 16; c++) {
                    Right<W> b[2];
                    load_right<GATE_STRIDE>(b, key_gates, k, 16 * c);
                    multiply(dq[2 * c], rows_left, b[0]);
                    multiply(dq[2 * c + 1], rows_left, b[1]);
                    load_right<GATE_STRIDE>(b, query_gates, k, 16 * c);
                    multiply(dk[2 * c], columns_left, b[0]);
                    multiply(dk[2 * c + 1], columns_left, b[1]);
                }
            }
        }
        // In the order of the keys: the same sums in every run.
        if (threadIdx.x == 0) {
            u32 turn;
            do {
                asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(turn) : "l"(turns + tile) : "memory");
            } while (turn != at.tile);
        }
        __syncthreads();
        if (any || at.tile == 0) {
#pragma unroll
            for (u32 side = 0; side < 2; side++) {
                u32 row = own_row(side);
                if (row >= rows) continue;
                float* to = p.d_query_gates + ((u64)at.sequence * v.tokens + query + row) * GATES + at.group * R;
#pragma unroll
                for (u32 j = 0; j < RP / 8; j++)
#pragma unroll
                    for (u32 c = 0; c < 2; c++) {
                        u32 to_column = own_column(j, c);
                        if (to_column >= R) continue;
                        float sofar = at.tile == 0 ? 0.0f : __ldcg(to + to_column);
                        __stcg(to + to_column, fmaf(dq[j][side * 2 + c], factor, sofar));
                    }
            }
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(turns + tile), "r"(at.tile + 1) : "memory");
    }
#pragma unroll
    for (u32 side = 0; side < 2; side++) {
        u32 row = own_row(side);
        if (row >= count) continue;
        float* to = p.d_key_gates + ((u64)at.sequence * v.tokens + first + row) * GATES + at.group * R;
#pragma unroll
        for (u32 j = 0; j < RP / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++)
                if (own_column(j, c) < R) to[own_column(j, c)] = dk[j][side * 2 + c] * factor;
    }
    double sums[3] = {worth_sum, weight_sum, bias_sum};
#pragma unroll
    for (u32 i = 0; i < 3; i++) {
#pragma unroll
        for (u32 step = 16; step > 0; step /= 2) sums[i] += __shfl_xor_sync(ALL, sums[i], step);
        if (lane() == 0) totals[i][warp()] = sums[i];
    }
    __syncthreads();
    if (threadIdx.x < 3) {
        double total = 0.0;
        for (u32 w = 0; w < WARPS; w++) total += totals[threadIdx.x][w];
        p.partials[(at.head() * tiles + at.tile) * 3 + threadIdx.x] = total;
    }
}

struct Totals {
    const double* partials;   // [sequences][GROUPS][tiles][3]
    double* margin;           // [GROUPS][2]: worth and weight, written
    float* d_bias;            // [GROUPS], added to
    u32 sequences, tiles;
};
extern "C" __global__ void __launch_bounds__(THREADS) blame_totals(Totals p) {
    if (threadIdx.x >= 3) return;
    double total = 0.0;
    for (u32 sequence = 0; sequence < p.sequences; sequence++)
        for (u32 tile = 0; tile < p.tiles; tile++)
            total += p.partials[(((u64)sequence * GROUPS + blockIdx.x) * p.tiles + tile) * 3 + threadIdx.x];
    if (threadIdx.x < 2) p.margin[2 * blockIdx.x + threadIdx.x] = total;
    else p.d_bias[blockIdx.x] += (float)total;
}
