// Votes: when keys end under the hard rule, and what queries see of keys under the soft one.
//
// A block owns 64 keys of one gate head and walks the queries up, with each key's running minimum or sum.

struct HardVotes {
    Voter voter;
    u32* expires_at;   // [b][GROUPS][T]
    u32* fades_at;     // [b][GROUPS][T]: the first query from which no gradient passes to a key's votes, at the start of a tile
    float* trail;      // [b][GROUPS][tiles][T]: each key's smallest score before a tile of queries, in powers of two
};

extern "C" __global__ void __launch_bounds__(THREADS) hard_votes(const __grid_constant__ HardVotes p) {
    extern __shared__ __align__(16) u8 memory[];
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE;
    Place at(blockIdx.x, tiles);
    u32 first = at.tile * SIDE;
    W* key_gates = (W*)memory;
    auto query_gates = [&](u32 tile) { return key_gates + (1 + tile % 2) * PARTS * GATE_TILE; };
    {
        GateRows<false> rows;
        rows.read(at.gates(p.voter.key_gates, v, first), v.stride, min(SIDE, v.tokens - first));
        rows.put(key_gates);
    }
    Keys keys(v, at, LOG2_E);
    float smallest[2] = {HUGE, HUGE};
    u32 refused[2] = {NEVER, NEVER}, fades[2] = {NEVER, NEVER};
    float* trail = p.trail + at.head() * tiles * v.tokens;
    GateRows<true> next;
    next.read(at.gates(v.query_gates, v, first), v.stride, min(SIDE, v.tokens - first));
    for (u32 tile = at.tile; tile < tiles; tile++) {
        next.put(query_gates(tile));
        // Nothing passes any more, and so everyone has been refused.
        bool over = true;
#pragma unroll
        for (u32 half = 0; half < 2; half++) over &= keys.key[half] >= v.tokens || smallest[half] < LOWEST_SCORE;
        if (__syncthreads_and(over)) break;
        if (tile + 1 < tiles) next.read(at.gates(v.query_gates, v, (tile + 1) * SIDE), v.stride, min(SIDE, v.tokens - (tile + 1) * SIDE));
        float scores[2 * OWN];
        gate_scores(scores, keys, key_gates, query_gates(tile));
        u32 query = own_query(tile);
        bool whole = all_vote(v, at, tile);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            if (lane() % 4 == 0 && keys.key[half] < v.tokens) trail[(u64)tile * v.tokens + keys.key[half]] = smallest[half];
            if (!whole) hide_others(scores + half * OWN, v, keys.key[half], query);
            float least = HUGE;
#pragma unroll
            for (u32 i = 0; i < OWN; i++) least = smaller(least, scores[half * OWN + i]);
            smallest[half] = fminf(smallest[half], quad_min(least));
            if (smallest[half] < LOWEST_SCORE && fades[half] == NEVER) fades[half] = (tile + 1) * SIDE;
            u32 refusal = NEVER;
            if (!(least > 0.0f) && refused[half] == NEVER) refusal = first_refusal(scores + half * OWN, query);
            refused[half] = min(refused[half], quad_min(refusal));
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 key = keys.key[half];
        if (key >= v.tokens || lane() % 4 != 0) continue;
        bool sink = key < v.sinks;
        p.expires_at[at.row(v, key)] = refused[half] == NEVER || sink ? NEVER : max(refused[half], key + v.recent);
        p.fades_at[at.row(v, key)] = sink ? 0 : fades[half];
    }
}

// Where there are few keys the walk is cut into segments of tiles. Their sums come first, by a pass of their own, so that all
// segments can be walked at once.
struct SoftVotes {
    Voter voter;
    const float* curve;
    float* sums;        // [strips + 1][voters][b][GROUPS][T]: each key's sum of logarithms at the start of a strip, of this voter
    u64 strip_sums;     // elements of a strip of all voters
    float* segment_sums;   // [segments][b][GROUPS][T]
    Log* logs;          // [b][GROUPS][T][64 tiles]: what attention adds, written by the first voter, added to by others
    Log* own;           // the own voter's alone, where it is not the only one, or none
    Log* turned;        // [b][GROUPS][tiles of T][tiles][64 x 64]: `logs` as attention's threads hold them, of 16 bits, or none
    u32* ends;          // [b][GROUPS][T]: the first query that no longer sees a key, at the start of a tile; NEVER before
    u32* expires_at;    // [b][GROUPS][T]: as under the hard rule, NEVER before; of the own voter, or none
    double* survival;   // [b][GROUPS][tiles][segments][2]: what queries see, without and with the last one; of the own voter, or none
    u32 strip, add;
    u32 segment_tiles, segments;
};
constexpr u32 TURNED_STRIDE = padded<Log>(SIDE);
// Stands for the logarithm of 0: sums of it stay finite.
constexpr float DEAD = -1e30f;
__device__ __forceinline__ float at_least_dead(float sum) { return sum < DEAD ? DEAD : sum; }

// A tile's logarithms, left in shared memory with keys in rows, go to memory with queries in rows, in the order in which a product's
// threads hold them (`Logs` of attend.cu).
__device__ __forceinline__ void put_turned(Log* to, const Log* tile) {
    if constexpr (sizeof(W) == 2) {
        u32 matrix = lane() / 8;
#pragma unroll
        for (u32 j = 0; j < SIDE / 16; j++) {
            u32 x[4];
            load_matrices_transposed(x, shared_address(tile + (16 * j + matrix / 2 * 8 + lane() % 8) * TURNED_STRIDE + warp() * 16 + matrix % 2 * 8));
            ((uint4*)to)[j * THREADS + threadIdx.x] = make_uint4(x[0], x[1], x[2], x[3]);
        }
    }
}

template <bool SUMS> __device__ __forceinline__ void soft_votes_with(const SoftVotes& p) {
    extern __shared__ __align__(16) u8 memory[];
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE, behind = min(tiles, v.first_tile + v.tiles), segment = blockIdx.y;
    Place at(blockIdx.x, behind);
    u32 first = at.tile * SIDE, begin = max(at.tile, v.first_tile + segment * p.segment_tiles);
    u32 end = min(behind, v.first_tile + (segment + 1) * p.segment_tiles);
    double* survival = p.survival + ((at.head() * behind + at.tile) * p.segments + segment) * 2;
    if (begin >= end) {
        if (!SUMS && p.survival && threadIdx.x < 2) survival[threadIdx.x] = 0.0;
        return;
    }
    Curve curve(p.curve);
    W* key_gates = (W*)memory;
    auto query_gates = [&](u32 tile) { return key_gates + (1 + tile % 2) * PARTS * GATE_TILE; };
    Log* tile_logs = (Log*)(key_gates + 3 * PARTS * GATE_TILE);
    {
        GateRows<false> rows;
        rows.read(at.gates(v.key_gates, v, first), v.stride, min(SIDE, v.tokens - first));
        rows.put(key_gates);
    }
    Keys keys(v, at, 1.0f);
    float sum[2] = {0.0f, 0.0f};
    u32 dead_from[2] = {NEVER, NEVER}, refused[2] = {NEVER, NEVER};
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (SUMS || keys.key[half] >= v.tokens) continue;
        u64 row = at.row(v, keys.key[half]);
        if (at.tile < v.first_tile) sum[half] = p.sums[p.strip * p.strip_sums + row];
        for (u32 before = 0; before < segment; before++)
            if (v.first_tile + (before + 1) * p.segment_tiles > at.tile)
                sum[half] = at_least_dead(sum[half] + p.segment_sums[(u64)before * at.rows(v) + row]);
        if (sum[half] <= 0.5f * DEAD) dead_from[half] = 0;
    }
    double seen[2] = {0.0, 0.0};
    GateRows<true> next;
    next.read(at.gates(v.query_gates, v, begin * SIDE), v.stride, min(SIDE, v.tokens - begin * SIDE));
    for (u32 tile = begin; tile < end; tile++) {
        next.put(query_gates(tile));
        __syncthreads();
        if (tile + 1 < end) next.read(at.gates(v.query_gates, v, (tile + 1) * SIDE), v.stride, min(SIDE, v.tokens - (tile + 1) * SIDE));
        float scores[2 * OWN];
        gate_scores(scores, keys, key_gates, query_gates(tile));
        u32 query = own_query(tile);
        // Whether votes decide about all pairs, none of them of the last query.
        bool inner = all_vote(v, at, tile) && v.sinks <= first && tile * SIDE >= first + SIDE - 1 + v.recent && v.window == NEVER &&
                     (tile + 1) * SIDE < v.tokens;
        float here = 0.0f, last = 0.0f;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 key = keys.key[half];
            // A huge score is a vote of 1.
            if (!all_vote(v, at, tile)) hide_others(scores + half * OWN, v, key, query);
            if (!SUMS && p.expires_at) {
                u32 refusal = refused[half] == NEVER ? first_refusal(scores + half * OWN, query) : NEVER;
                refused[half] = min(refused[half], quad_min(refusal));
            }
            become_logs<OWN>(curve, scores + half * OWN);
            float total = 0.0f;
#pragma unroll
            for (u32 i = 0; i < OWN; i++) total += scores[half * OWN + i], scores[half * OWN + i] = total;
            float before = sum[half];
#pragma unroll
            for (u32 i = 1; i < 4; i++) {
                float other = __shfl_sync(ALL, total, (lane() & ~3u) + i - 1);
                if (lane() % 4 >= i) before += other;
            }
            sum[half] = at_least_dead(__shfl_sync(ALL, before + total, lane() | 3u));
            if (sum[half] <= 0.5f * DEAD && dead_from[half] == NEVER) dead_from[half] = (tile + 1) * SIDE;
            if (SUMS) continue;
            float logs[OWN];
#pragma unroll
            for (u32 i = 0; i < OWN; i++) logs[i] = at_least_dead(before + scores[half * OWN + i]);
            if (!inner) {
#pragma unroll
                for (u32 i = 0; i < OWN; i++) logs[i] = query + i < keys.decided_from[half] ? 0.0f : logs[i];
            }
            if (p.survival && inner) {
#pragma unroll
                for (u32 i = 0; i < OWN; i++) here += two_to(logs[i]);
            } else if (p.survival) {
                u32 until = min(v.tokens, keys.window_end[half]);
#pragma unroll
                for (u32 i = 0; i < OWN; i++) {
                    u32 k = query + i;
                    float gate = (k >= key) & (k < until) ? two_to(logs[i]) : 0.0f;
                    here += k + 1 < v.tokens ? gate : 0.0f, last += k + 1 < v.tokens ? 0.0f : gate;
                }
            }
            // Whoever is not there leaves nothing in memory.
            bool there = key < v.tokens;
            u64 place = at.row(v, key) * (v.tiles * SIDE) + query - v.first_tile * SIDE;
            if (p.own && there) store(p.own + place, logs);
            if (p.add && there) {
                float sofar[OWN];
                load(sofar, p.logs + place);
#pragma unroll
                for (u32 i = 0; i < OWN; i++) logs[i] += sofar[i];
            }
            if (there) store(p.logs + place, logs);
            if (p.turned) store(tile_logs + own_row(half) * TURNED_STRIDE + lane() % 4 * OWN, logs);
        }
        if (!SUMS && p.turned) {
            __syncthreads();
            put_turned(p.turned + ((at.head() * tiles + at.tile) * v.tiles + tile - v.first_tile) * (SIDE * SIDE), tile_logs);
        }
        seen[0] += (double)here, seen[1] += (double)here + (double)last;
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 key = keys.key[half];
        if (key >= v.tokens || lane() % 4 != 0) continue;
        u64 row = at.row(v, key);
        if (SUMS) p.segment_sums[(u64)segment * at.rows(v) + row] = sum[half];
        else if (end == behind) p.sums[(p.strip + 1) * p.strip_sums + row] = sum[half];
        if (SUMS || key < v.sinks) continue;
        // Who was dead before has an end.
        if (dead_from[half] != NEVER && dead_from[half] > 0) atomicMin(p.ends + row, max(dead_from[half], key + v.recent));
        if (refused[half] != NEVER) atomicMin(p.expires_at + row, max(refused[half], key + v.recent));
    }
    if (SUMS || !p.survival) return;
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        double total = in_order(seen[i]);
        if (threadIdx.x == 0) survival[i] = total;
    }
}
extern "C" __global__ void __launch_bounds__(THREADS) soft_sums(const __grid_constant__ SoftVotes p) { soft_votes_with<true>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) soft_votes(const __grid_constant__ SoftVotes p) { soft_votes_with<false>(p); }

struct SurvivalTotals {
    const double* of;   // [count][2]
    double* to;         // [2]: written by the first strip, added to by others
    u32 count, add;
};
extern "C" __global__ void __launch_bounds__(THREADS) survival_totals(SurvivalTotals p) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < p.count; i += THREADS) sum += p.of[(u64)i * 2 + blockIdx.x];
    sum = in_order(sum);
    if (threadIdx.x == 0) p.to[blockIdx.x] = p.add ? p.to[blockIdx.x] + sum : sum;
}
