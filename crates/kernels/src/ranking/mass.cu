// How much probability entries got from the queries of one span, for prompts: two passes over tiles of 64 rows (queries of
// the query heads that share a KV head) and 64 entries. The first leaves each row's largest score and sum, the second adds
// up columns. No row of probabilities ever exists.

struct MassArgs {
    Lanes lanes;
    const W* qkv;        // [rows][(h + 2 g) d], queries turned
    float2* rows;        // [splits][KV_HEADS][queries * RATIO]: largest score and sum
    u32 slot, layer;
    u32 first_row, queries, first_position;  // the queries that count
    u32 splits;
    float scale;
    float factor;        // what a query's share is multiplied by for each query that comes after it
    float keep;          // what the sums of before are multiplied by; 0 forgets them, whatever they are
    float temperature;   // what scores are divided by, with their noise
    u64 seed;            // of noise
    u32 noisy;           // whether there is any
    u32 everything;      // whether queries see what comes behind them too: whatever the next one will
    u32 apart;           // whether the largest of a KV head's query heads counts, otherwise their sum
};

// The query of a row, as what it sees is decided.
__device__ __forceinline__ u32 query_of(const MassArgs& a, u32 row) {
    return a.first_position + (a.everything ? a.queries : row / RATIO);
}

struct Tiles {
    C* queries;
    C* keys;
    u32 positions[SIDE], ends[SIDE];
};

// Positions and ends of a tile of entries; no query sees what is none. Whether a query from `first` to `last` may see this
// thread's; every thread must come.
__device__ __forceinline__ void load_known(const MassArgs& a, u32 lane_number, u32 tile, u32 length, Tiles& tiles) {
    if (threadIdx.x >= SIDE) return;
    const u32 entry = tile * SIDE + threadIdx.x;
    u32 position = NEVER, end = 0;
    if (entry < length) {
        const Page page = a.lanes.page(lane_number, entry / PAGE_ENTRIES);
        position = page.positions()[entry % PAGE_ENTRIES];
        end = page.expires_at()[entry % PAGE_ENTRIES];
    }
    tiles.positions[threadIdx.x] = position;
    tiles.ends[threadIdx.x] = end;
}
// After a barrier behind `load_known`; the same in all threads.
__device__ __forceinline__ bool may_see(const Tiles& tiles, u32 first, u32 last) {
    const u32 i = threadIdx.x % SIDE;
    return __syncthreads_or(tiles.positions[i] <= last && first < tiles.ends[i]);
}

__device__ __forceinline__ void load_keys(const MassArgs& a, u32 lane_number, u32 lane_head, u32 tile, u32 length, C* keys) {
    load_tile(keys, [&](u32 row, u32 column) {
        const u32 entry = tile * SIDE + row;
        if (entry >= length) return make_float2(0.0f, 0.0f);
        return two_of_key(a.lanes.page(lane_number, entry / PAGE_ENTRIES), lane_head, entry % PAGE_ENTRIES, column);
    });
}
__device__ __forceinline__ void load_queries(const MassArgs& a, u32 head, u32 first, u32 rows, C* queries) {
    load_tile(queries, [&](u32 i, u32 column) {
        const u32 row = first + i;
        if (row >= rows) return make_float2(0.0f, 0.0f);
        return two_of(a.qkv + (u64)(a.first_row + row / RATIO) * FUSED + (head * RATIO + row % RATIO) * D + column);
    });
}

// This thread's scores of rows of a KV head from `first` on, -infinity where a query does not see an entry.
template <bool SOFTENED>
__device__ __forceinline__ void scores_of(const MassArgs& a, const Tiles& tiles, u32 head, u32 first, u32 rows, float (&scores)[SIDE / 8][4]) {
    clear(scores);
    add_scores<KEY_STRIDE, DP>(scores, tiles.queries, warp() * 16, tiles.keys);
    const float scale = a.scale * UNIT;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = first + own_row(half), query = query_of(a, row);
        u64 of_head = 0;
        if constexpr (SOFTENED) of_head = noise_of(a.seed, a.layer, head * RATIO + row % RATIO);
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 column = own_column(j, c);
                const bool seen = row < rows && tiles.positions[column] <= query && query < tiles.ends[column];
                float& score = scores[j][2 * half + c];
                if (!seen) {
                    score = -infinity();
                } else if constexpr (SOFTENED) {
                    const float noise = a.noisy ? gumbel(noise_at(of_head, query, tiles.positions[column])) : 0.0f;
                    score = (score * a.scale + noise) / a.temperature * UNIT;
                } else {
                    score *= scale;
                }
            }
        }
    }
}

template <bool SOFTENED> __device__ __forceinline__ void add_up_rows(const MassArgs& a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ Tiles tiles;
    wait_for_previous();
    tiles.queries = (C*)room;
    tiles.keys = tiles.queries + SIDE * KEY_STRIDE;
    __syncthreads();
    const u32 head = blockIdx.y, first = blockIdx.x * SIDE, rows = a.queries * RATIO;
    const u32 lane_number = a.lanes.lane(a.slot, a.layer, head / LANE_HEADS), length = a.lanes.lengths[lane_number];
    const u32 first_query = query_of(a, first), last_query = query_of(a, min(first + SIDE - 1, rows - 1));
    load_queries(a, head, first, rows, tiles.queries);
    RowSums sums;
    for (u32 tile = blockIdx.z; tile * SIDE < length; tile += a.splits) {
        __syncthreads();
        load_known(a, lane_number, tile, length, tiles);
        __syncthreads();
        if (!may_see(tiles, first_query, last_query)) continue;
        load_keys(a, lane_number, head % LANE_HEADS, tile, length, tiles.keys);
        __syncthreads();
        float scores[SIDE / 8][4];
        scores_of<SOFTENED>(a, tiles, head, first, rows, scores);
        sums.add(scores);
    }
    sums.join();
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = first + own_row(half);
        if (lane() % 4 == 0 && row < rows) {
            a.rows[(u64)(blockIdx.z * KV_HEADS + head) * rows + row] = make_float2(sums.largest[half], sums.sum[half]);
        }
    }
}

// x: tiles of rows, y: KV heads, z: which of the entries' tiles.
extern "C" __global__ void __launch_bounds__(THREADS) mass_rows(const __grid_constant__ MassArgs a) { add_up_rows<false>(a); }
// The same of scores that are noisy and divided by a temperature.
extern "C" __global__ void __launch_bounds__(THREADS) soft_mass_rows(const __grid_constant__ MassArgs a) { add_up_rows<true>(a); }

// What a row subtracts from its scores, and what it multiplies their powers by.
struct RowFactor {
    float base, factor;
};
__device__ __forceinline__ RowFactor factor_of(const MassArgs& a, u32 head, u32 row, u32 rows) {
    if (row >= rows) return RowFactor{0.0f, 0.0f};
    float top = -infinity();
    for (u32 i = 0; i < a.splits; i++) top = fmaxf(top, a.rows[(u64)(i * KV_HEADS + head) * rows + row].x);
    const float base = base_of(top);
    float sum = 0.0f;
    for (u32 i = 0; i < a.splits; i++) {
        const float2 part = a.rows[(u64)(i * KV_HEADS + head) * rows + row];
        sum += part.y * power(part.x - base);
    }
    const u32 after = a.queries - 1 - row / RATIO;
    const float weight = after == 0 || a.factor == 1.0f ? 1.0f : powf(a.factor, (float)after);
    return RowFactor{base, sum == 0.0f ? 0.0f : weight / sum};
}

// What the rows of a lane's heads give this thread's entry, of the first SIDE threads: those of one of the query heads that share
// a KV head, or of all of them.
template <bool SOFTENED>
__device__ __forceinline__ float given_by(const MassArgs& a, Tiles& tiles, u32 lane_number, u32 length, u32 member) {
    __shared__ RowFactor factors[SIDE];
    __shared__ float columns[WARPS][SIDE];
    const u32 tile = blockIdx.x, group = blockIdx.y, rows = a.queries * RATIO;
    ColumnSums given;
    for (u32 lane_head = 0; lane_head < LANE_HEADS; lane_head++) {
        const u32 head = group * LANE_HEADS + lane_head;
        __syncthreads();
        load_keys(a, lane_number, lane_head, tile, length, tiles.keys);
        for (u32 first = 0; first < rows; first += SIDE) {
            __syncthreads();
            if (!may_see(tiles, query_of(a, first), query_of(a, min(first + SIDE - 1, rows - 1)))) continue;
            load_queries(a, head, first, rows, tiles.queries);
            if (threadIdx.x < SIDE) {
                const u32 row = first + threadIdx.x;
                const bool counts = member == RATIO || row % RATIO == member;
                factors[threadIdx.x] = counts ? factor_of(a, head, row, rows) : RowFactor{0.0f, 0.0f};
            }
            __syncthreads();
            float scores[SIDE / 8][4];
            scores_of<SOFTENED>(a, tiles, head, first, rows, scores);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const RowFactor by = factors[own_row(half)];
                if (by.factor == 0.0f) continue;
#pragma unroll
                for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                    for (u32 c = 0; c < 2; c++) given.sums[j][c] += power(scores[j][2 * half + c] - by.base) * by.factor;
                }
            }
        }
    }
    return given.total(0.0f, columns);
}

template <bool SOFTENED> __device__ __forceinline__ void add_up_entries(const MassArgs& a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ Tiles tiles;
    wait_for_previous();
    tiles.queries = (C*)room;
    tiles.keys = tiles.queries + SIDE * KEY_STRIDE;
    __syncthreads();
    const u32 tile = blockIdx.x, lane_number = a.lanes.lane(a.slot, a.layer, blockIdx.y), length = a.lanes.lengths[lane_number];
    if (tile * SIDE >= length) return;
    load_known(a, lane_number, tile, length, tiles);
    // The largest of what query heads give, NaN above all; or the sum.
    float most = given_by<SOFTENED>(a, tiles, lane_number, length, a.apart ? 0 : RATIO);
    for (u32 member = 1; a.apart && member < RATIO; member++) {
        const float more = given_by<SOFTENED>(a, tiles, lane_number, length, member);
        if (more > most || more != more) most = more;
    }
    const u32 entry = tile * SIDE + threadIdx.x;
    if (threadIdx.x >= SIDE || entry >= length) return;
    float* statistic = a.lanes.page(lane_number, entry / PAGE_ENTRIES).statistics() + entry % PAGE_ENTRIES;
    *statistic = (a.keep == 0.0f ? 0.0f : a.keep * *statistic) + most;
}

// x: tiles of entries, y: lanes of the layer. Of lanes of several heads the sums are over all of them.
extern "C" __global__ void __launch_bounds__(THREADS) mass_entries(const __grid_constant__ MassArgs a) { add_up_entries<false>(a); }
extern "C" __global__ void __launch_bounds__(THREADS) soft_mass_entries(const __grid_constant__ MassArgs a) { add_up_entries<true>(a); }
