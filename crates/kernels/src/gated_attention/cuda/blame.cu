// The gradients of gates: what later queries gain from a key's life goes to the votes that decide about it.
//
// A block owns 64 keys of one gate head and walks a strip's queries down, with what each key carries from later ones. The worth of
// pairs comes from `back_keys.cu`, scores from the same routine as in the votes. What comes out is left, row by row, for those who own
// queries.

struct Blame {
    Voter voter;
    const W* worth;          // as of BackKeys, gathered
    W* pairs;                // its tiles of each group's first KV head, [64 keys][64 turned queries], written; may be the same memory
    const u32* ends;         // [b][GROUPS][T]: the first query that no longer sees a key
    float* carried;          // [b][GROUPS][T]: from strip to strip
    float* d_key_gates;      // rows as those of gates
    double* partials;        // [b][GROUPS][tiles][3]: worth, weight, gradient of the bias
    u32* busy;               // [b][GROUPS][tiles][tiles of the strip]: whether a tile has gradients, written
    u32 fresh;               // whether gradients are written rather than added to
    u32 alone;               // whether keys end by this voter alone
    // The hard rule's.
    const u32* fades_at;     // as of HardVotes
    const float* trail;
    const float* lambda;     // [GROUPS]: added to the worth of every entry
    // The soft rule's.
    const float* curve;
    const Log* logs;         // [b][GROUPS][T][64 tiles]: of the own voter, under pressure, or none
    float per_pair;
    u32 queries;             // those whose pairs are under pressure
};
constexpr u32 DX_STRIDE = padded<W>(SIDE);

// Where a gate head has several KV heads, the worths of the first become the sum of all.
struct Gather {
    W* worth;                // as of BackKeys
    u32 tiles;               // of T
    u32 first_tile, strip;   // tiles of the strip
    u32 padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) gather_worth(Gather p) {
    u32 key = blockIdx.x / p.strip, tile = blockIdx.x % p.strip;
    if (key > p.first_tile + tile) return;
    u64 heads = (u64)p.tiles * p.strip * (SIDE * SIDE);
    W* worth = p.worth + (u64)blockIdx.y * GROUP_KV * heads + (u64)blockIdx.x * (SIDE * SIDE);
    float sum[SIDE / 8][4];
    clear(sum);
#pragma unroll 4
    for (u32 kv = 0; kv < GROUP_KV; kv++) {
        PairWords words;
        words.start(worth + kv * heads);
        words.add_to(sum);
    }
    put_pairs(worth, sum);
}

// What the sigmoid's slope leaves of a gradient, at a score in powers of two; 0 at GONE, and of no vote.
constexpr float GONE = -126.0f;
__device__ __forceinline__ float slope_at(float score) {
    float other = two_to(-score), part = reciprocal(1.0f + other);
    return part * part * other;
}
// Over later lanes of the same key: what is handed to this one, where each adds its own to what goes through it, all or nothing.
__device__ __forceinline__ float handed_down(float carried, float own, float through) {
#pragma unroll
    for (u32 i = 3; i > 0; i--) {
        float other = __shfl_sync(ALL, own, (lane() & ~3u) + i), open = __shfl_sync(ALL, through, (lane() & ~3u) + i);
        if (lane() % 4 < i) carried = fmaf(open, carried, other);
    }
    return carried;
}
// The walk along the 16 queries of a lane and those of the three beside it, from the last to the first, for one key. Scores become
// their gradients; gives what the key carries on. `any` is set where a vote has a gradient.
//
// A minimum's gradient goes to the vote that holds it: what comes from later queries stops there. `keep` is 0 where it stops.
__device__ __forceinline__ float hard_walk(float* scores, const float (&worth)[OWN], float before, float carried, float lambda, bool decided,
                                           u32 from, u32 until, float& worth_sum, float& weight_sum, bool& any) {
    float least = HUGE;
#pragma unroll
    for (u32 i = 0; i < OWN; i++) least = fminf(least, scores[i]);
#pragma unroll
    for (u32 i = 1; i < 4; i++) {
        float other = __shfl_sync(ALL, least, (lane() & ~3u) + i - 1);
        if (lane() % 4 >= i) before = fminf(before, other);
    }
    bool holds = least < before, low = fminf(least, before) < LOWEST_SCORE;
    float keep[OWN];
#pragma unroll
    for (u32 i = 0; i < OWN; i++) {
        keep[i] = scores[i] < before ? 0.0f : 1.0f;
        before = fminf(before, scores[i]);
        scores[i] = before;
    }
    if (__any_sync(ALL, low || !decided)) {
#pragma unroll
        for (u32 i = 0; i < OWN; i++) scores[i] = (i >= from) & (i < until) & !(scores[i] < LOWEST_SCORE) ? scores[i] : GONE;
    }
    float own = 0.0f;
#pragma unroll
    for (u32 i = OWN; i-- > 0;) {
        float slope = slope_at(scores[i]), worth_here = slope * worth[i];
        worth_sum += worth_here, weight_sum += slope;
        scores[i] = fmaf(slope, lambda, worth_here);
        own = i + 1 < OWN ? fmaf(own, keep[(i + 1) % OWN], scores[i]) : scores[i];
    }
    float handed = handed_down(carried, own * keep[0], holds ? 0.0f : 1.0f);
#pragma unroll
    for (u32 i = OWN; i-- > 0;) {
        handed = i + 1 < OWN ? fmaf(handed, keep[(i + 1) % OWN], scores[i]) : handed + scores[i];
        scores[i] = fmaf(-handed, keep[i], handed);
    }
    any |= holds;
    return __shfl_sync(ALL, handed * keep[0], lane() & ~3u);
}
// The same of queries of which none holds a minimum: nothing stops, and one slope is that of all.
__device__ __forceinline__ float quiet_walk(float* scores, const float (&worth)[OWN], float before, float carried, float lambda,
                                            float& worth_sum, float& weight_sum) {
    float slope = slope_at(before), sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < OWN; i++) sum += worth[i], scores[i] = 0.0f;
    sum *= slope;
    worth_sum += sum, weight_sum += (float)OWN * slope;
    float own = fmaf((float)OWN * slope, lambda, sum), handed = handed_down(carried, own, 1.0f);
    return __shfl_sync(ALL, handed + own, lane() & ~3u);
}
// The same where votes are factors: a sum's gradient goes to every vote, by its slope.
__device__ __forceinline__ float soft_walk(float* scores, const float* gain, const Curve& curve, float carried) {
    float own = 0.0f, handed = carried;
#pragma unroll
    for (u32 i = 0; i < OWN; i++) own += gain[i];
#pragma unroll
    for (u32 i = 3; i > 0; i--) {
        float other = __shfl_sync(ALL, own, (lane() & ~3u) + i);
        if (lane() % 4 < i) handed += other;
    }
    become_slopes<OWN>(curve, scores);
#pragma unroll
    for (u32 i = OWN; i-- > 0;) handed += gain[i], scores[i] *= handed;
    return __shfl_sync(ALL, handed, lane() & ~3u);
}

template <bool HARD> __device__ __forceinline__ void blame(const Blame& p) {
    extern __shared__ __align__(16) u8 memory[];
    __shared__ u32 latest, latest_worth;
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE, behind = min(tiles, v.first_tile + v.tiles);
    Place at(blockIdx.x, behind);
    u32 first = at.tile * SIDE, count = min(SIDE, v.tokens - first), begin = max(at.tile, v.first_tile);
    W* key_gates = (W*)memory;
    auto query_gates = [&](u32 tile) { return key_gates + PARTS * GATE_TILE * (1 + tile % 2); };
    W* dx = key_gates + 3 * PARTS * GATE_TILE;
    if (threadIdx.x == 0) latest = latest_worth = 0;
    {
        GateRows<false> rows;
        rows.read(at.gates(v.key_gates, v, first), v.stride, count);
        rows.put(key_gates);
    }
    Keys keys(v, at, HARD ? LOG2_E : 1.0f);
    __syncthreads();
    if (threadIdx.x < count) {
        u32 key = first + threadIdx.x, end = p.ends[at.row(v, key)], in_sight = v.window == NEVER ? NEVER : key + v.window;
        if (HARD) end = max(end, p.fades_at[at.row(v, key)]);
        atomicMax(&latest_worth, min(end, in_sight));
        // What is dead for another voter's sake is still under pressure here.
        atomicMax(&latest, HARD || p.alone || !p.logs ? min(end, in_sight) : in_sight);
    }
    __syncthreads();
    u32* busy = p.busy + (at.head() * tiles + at.tile) * v.tiles;
    u32 top = min(behind, (min(latest, v.tokens) + SIDE - 1) / SIDE);
    for (u32 tile = max(top, begin) + threadIdx.x; tile < behind; tile += THREADS) busy[tile - v.first_tile] = 0;
    float carried[2] = {0.0f, 0.0f}, brought = 0.0f;
    double sums[3] = {0.0, 0.0, 0.0};
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (behind < tiles && keys.key[half] < v.tokens) carried[half] = p.carried[at.row(v, keys.key[half])];
        brought += carried[half];
    }
    float dk[RP / 8][4], factor = 1.0f / sqrtf((float)R), lambda = HARD ? p.lambda[at.group] : 0.0f;
    clear(dk);
    u64 places = ((u64)(at.sequence * KV_HEADS + at.group * GROUP_KV) * tiles + at.tile) * v.tiles - v.first_tile;
    GateRows<true> next;
    // What a tile needs from memory is on its way while the one before is worked on.
    PairWords coming;
    float before[2] = {HUGE, HUGE}, first_of[2] = {HUGE, HUGE};
    auto start = [&](u32 tile) {
        next.read(at.gates(v.query_gates, v, tile * SIDE), v.stride, min(SIDE, v.tokens - tile * SIDE));
        if (tile * SIDE < latest_worth) coming.start(p.worth + (places + tile) * (SIDE * SIDE));
        else coming.clear();
#pragma unroll
        for (u32 half = 0; half < 2; half++)
            first_of[half] = HARD && tile > at.tile && keys.key[half] < v.tokens ? p.trail[(at.head() * tiles + tile) * v.tokens + keys.key[half]] : HUGE;
    };
    if (top > begin) start(top - 1);
    for (u32 tile = top; tile-- > begin;) {
        next.put(query_gates(tile));
        __syncthreads();
        PairWords words = coming;
        bool unchanged[2];
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            unchanged[half] = HARD && tile + 1 < top && all_vote(v, at, tile) && first_of[half] == before[half] && !(before[half] < LOWEST_SCORE);
            before[half] = first_of[half];
        }
        if (tile > begin) start(tile - 1);
        W* out = p.pairs + (places + tile) * (SIDE * SIDE);
        LogRow logs[2];
        if (!HARD && p.logs) {
#pragma unroll
            for (u32 half = 0; half < 2; half++)
                logs[half].start(p.logs + at.row(v, min(keys.key[half], v.tokens - 1)) * (v.tiles * SIDE) + own_query(tile) - v.first_tile * SIDE);
        }
        u32 query = own_query(tile), decided_from[2], decided_until[2];
        // Of the lane's queries, those that the votes decide about.
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 until = min(v.tokens, keys.window_end[half]);
            decided_from[half] = keys.decided_from[half] > query ? min(keys.decided_from[half] - query, OWN) : 0;
            decided_until[half] = until > query ? min(until - query, OWN) : 0;
        }
        auto decided = [&](u32 half) { return decided_from[half] == 0 && decided_until[half] == OWN; };
        // No vote of a tile holds a key's minimum if it is as small before the next. Then scores are not wanted.
        bool quiet[2] = {__all_sync(ALL, unchanged[0] && decided(0)) != 0, __all_sync(ALL, unchanged[1] && decided(1)) != 0};
        float scores[2 * OWN], worth_sum = 0.0f, weight_sum = 0.0f, bias = 0.0f;
        bool any = false;
        if (!(quiet[0] && quiet[1])) gate_scores(scores, keys, key_gates, query_gates(tile));
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 key = keys.key[half];
            float own[OWN];
            words.row(own, half);
            if (quiet[half]) {
                carried[half] = quiet_walk(scores + half * OWN, own, before[half], carried[half], lambda, worth_sum, weight_sum);
                continue;
            }
            if (!all_vote(v, at, tile)) hide_others(scores + half * OWN, v, key, query);
            if constexpr (HARD) {
                carried[half] = hard_walk(scores + half * OWN, own, before[half], carried[half], lambda, decided(half), decided_from[half],
                                          decided_until[half], worth_sum, weight_sum, any);
            } else {
                if (p.logs && key < v.tokens) {
#pragma unroll
                    for (u32 i = 0; i < OWN; i++) own[i] = query + i < p.queries ? fmaf(p.per_pair, two_to(logs[half].get(i)), own[i]) : own[i];
                }
                if (!decided(half)) {
#pragma unroll
                    for (u32 i = 0; i < OWN; i++) own[i] = (i >= decided_from[half]) & (i < decided_until[half]) ? own[i] : 0.0f;
                }
                carried[half] = soft_walk(scores + half * OWN, own, Curve(p.curve), carried[half]);
#pragma unroll
                for (u32 i = 0; i < OWN; i++) {
                    bias += scores[half * OWN + i];
                    // NaN must go on to the weights, where the trainer sees it.
                    any |= scores[half * OWN + i] != 0.0f;
                }
            }
        }
        float pairs[SIDE / 8][4];
#pragma unroll
        for (u32 i = 0; i < 2 * OWN; i++) pairs[i % OWN / 2][i / OWN * 2 + i % 2] = scores[i];
        sums[0] += (double)worth_sum, sums[1] += (double)weight_sum, sums[2] += (double)bias;
#pragma unroll
        for (u32 half = 0; half < 2; half++)
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++)
                put_pair(dx + own_row(half) * DX_STRIDE + own_column(j, 0), pairs[j][half * 2], pairs[j][half * 2 + 1]);
        any = __syncthreads_or(any);
        if (threadIdx.x == 0) busy[tile - v.first_tile] = any;
        if (!any) continue;
        constexpr u32 CHUNKS = SIDE / PAIR_CHUNK;
#pragma unroll
        for (u32 i = 0; i < PAIR_CHUNKS; i++) {
            u32 chunk = i * THREADS + threadIdx.x;
            *(uint4*)(out + chunk * PAIR_CHUNK) = *(const uint4*)(dx + chunk / CHUNKS * DX_STRIDE + chunk % CHUNKS * PAIR_CHUNK);
        }
#pragma unroll
        for (u32 j = 0; j < SIDE / 16; j++) {
            Left<W> left = as_left<W>(pairs[2 * j], pairs[2 * j + 1]);
#pragma unroll
            for (u32 c = 0; c < RP / 16; c++) {
                Right<W> b[2];
                load_right<GATE_STRIDE>(b, query_gates(tile), 16 * j, 16 * c);
                multiply(dk[2 * c], left, b[0]);
                multiply(dk[2 * c + 1], left, b[1]);
            }
        }
    }
    // What a key's votes got is what came to it less what it carries on.
    if (HARD) sums[2] = sums[0] + (double)lambda * sums[1] + (lane() % 4 == 0 ? (double)brought - (double)carried[0] - (double)carried[1] : 0.0);
    bool first_strip = behind == tiles;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 key = keys.key[half];
        if (key >= v.tokens) continue;
        if (lane() % 4 == 0) p.carried[at.row(v, key)] = carried[half];
        add_gates(at.gates(p.d_key_gates, v, key), dk, half, factor, p.fresh && first_strip);
    }
    double* partials = p.partials + (at.head() * tiles + at.tile) * 3;
#pragma unroll
    for (u32 i = 0; i < 3; i++) {
        double total = in_order(sums[i]);
        if (threadIdx.x == 0) partials[i] = first_strip ? total : partials[i] + total;
    }
}
// As many as have room for their tiles in shared memory where gates are 64 wide.
constexpr u32 BLOCKS = RP <= 64 && sizeof(W) == 2 ? 3 : 1, HARD_BLOCKS = RP <= 16 && sizeof(W) == 2 ? 4 : BLOCKS;
extern "C" __global__ void __launch_bounds__(THREADS, HARD_BLOCKS) hard_blame(const __grid_constant__ Blame p) { blame<true>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) soft_blame(const __grid_constant__ Blame p) { blame<false>(p); }

// A block owns 64 queries of one gate head and walks the keys up.
struct BlameQueries {
    Voter voter;
    const W* pairs;          // what Blame left
    const u32* busy;
    float* d_query_gates;    // rows as those of gates
    u32 fresh, padding;
};
extern "C" __global__ void __launch_bounds__(THREADS) blame_queries(const __grid_constant__ BlameQueries p) {
    extern __shared__ __align__(16) u8 memory[];
    const Voter& v = p.voter;
    u32 tiles = (v.tokens + SIDE - 1) / SIDE, strip = min(v.tiles, tiles - v.first_tile);
    // Late tiles, which have most keys, first.
    Place at(blockIdx.x, strip);
    u32 tile = v.first_tile + strip - 1 - at.tile;
    auto dx = [&](u32 key) { return (W*)memory + key % 2 * (SIDE * DX_STRIDE); };
    auto key_gates = [&](u32 key) { return (W*)memory + 2 * SIDE * DX_STRIDE + key % 2 * GATE_TILE; };
    const u32* busy = p.busy + at.head() * tiles * v.tiles + tile - v.first_tile;
    u64 place = (u64)(at.sequence * KV_HEADS + at.group * GROUP_KV) * tiles * v.tiles + tile - v.first_tile;
    auto start = [&](u32 key) {
        if (key <= tile && busy[key * v.tiles]) {
            const W* from = p.pairs + (place + (u64)key * v.tiles) * (SIDE * SIDE);
#pragma unroll
            for (u32 i = 0; i < PAIR_CHUNKS; i++) {
                u32 chunk = i * THREADS + threadIdx.x;
                constexpr u32 CHUNKS = SIDE / PAIR_CHUNK;
                copy16(shared_address(dx(key) + chunk / CHUNKS * DX_STRIDE + chunk % CHUNKS * PAIR_CHUNK), from + chunk * PAIR_CHUNK);
            }
        }
        commit_copies();
    };
    float dq[RP / 8][4], factor = 1.0f / sqrtf((float)R);
    clear(dq);
    GateRows<false> next;
    next.read(at.gates(v.key_gates, v, 0), v.stride, min(SIDE, v.tokens));
    start(0);
    for (u32 key = 0; key <= tile; key++) {
        next.put<1>(key_gates(key));
        wait_copies<0>();
        __syncthreads();
        start(key + 1);
        if (key < tile) next.read(at.gates(v.key_gates, v, (key + 1) * SIDE), v.stride, min(SIDE, v.tokens - (key + 1) * SIDE));
        if (!busy[key * v.tiles]) continue;
#pragma unroll
        for (u32 j = 0; j < SIDE / 16; j++) {
            Left<W> left;
            load_left_turned<DX_STRIDE>(left, dx(key), 16 * j, warp() * 16);
#pragma unroll
            for (u32 c = 0; c < RP / 16; c++) {
                Right<W> b[2];
                load_right<GATE_STRIDE>(b, key_gates(key), 16 * j, 16 * c);
                multiply(dq[2 * c], left, b[0]);
                multiply(dq[2 * c + 1], left, b[1]);
            }
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 token = tile * SIDE + turned(own_row(half));
        if (token < v.tokens) add_gates(at.gates(p.d_query_gates, v, token), dq, half, factor, p.fresh);
    }
}

struct BlameTotals {
    const double* partials;   // [sequences][GROUPS][tiles][3]
    double* margin;           // [GROUPS][2]: worth and weight, written, or none
    float* d_bias;            // [GROUPS], added to
    u32 sequences, tiles;
};
extern "C" __global__ void __launch_bounds__(THREADS) blame_totals(BlameTotals p) {
    u32 group = blockIdx.x / 3, which = blockIdx.x % 3;
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < p.sequences * p.tiles; i += THREADS)
        sum += p.partials[(((u64)(i / p.tiles) * GROUPS + group) * p.tiles + i % p.tiles) * 3 + which];
    sum = in_order(sum);
    if (threadIdx.x > 0) return;
    if (which == 2) p.d_bias[group] += (float)sum;
    else if (p.margin) p.margin[2 * group + which] = sum;
}
