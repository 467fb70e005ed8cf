// How much probability entries got from the queries of one span, for prompts: two passes over tiles of 64 rows (queries of
// the query heads that share a KV head) and 64 entries. The first leaves each row's largest score and sum, the second adds
// up columns. No row of probabilities ever exists.

constexpr u32 KEY_STRIDE = padded<C>(DP);
constexpr float UNIT = sizeof(C) == 4 ? 1.0f : LOG2_E;

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
};

// Where rows of scores are exponents: of 2 where the products are 16 bits, of e where every digit counts.
__device__ __forceinline__ float power(float x) {
    if constexpr (sizeof(C) == 4) return expf(x);
    else return two_to(x);
}
__device__ __forceinline__ float base_of(float largest) { return largest == -infinity() ? 0.0f : largest; }

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

// Two neighbours in the format of keys.
template <typename T> __device__ __forceinline__ float2 two_of(const T* from) {
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(*(const u32*)from);
    else return *(const float2*)from;
}
constexpr u32 TWOS = DP / 2;
static_assert(D % 2 == 0, "numbers of a head come in pairs");

__device__ __forceinline__ void load_keys(const MassArgs& a, u32 lane_number, u32 lane_head, u32 tile, u32 length, C* keys) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 row = i / TWOS, column = i % TWOS * 2, entry = tile * SIDE + row;
        float2 x = make_float2(0.0f, 0.0f);
        if (entry < length && column < D) {
            x = two_of(a.lanes.page(lane_number, entry / PAGE_ENTRIES).keys(lane_head) + entry % PAGE_ENTRIES * D + column);
        }
        put_pair(keys + row * KEY_STRIDE + column, x.x, x.y);
    }
}
__device__ __forceinline__ void load_queries(const MassArgs& a, u32 head, u32 first, u32 rows, C* queries) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 row = first + i / TWOS, column = i % TWOS * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (row < rows && column < D) {
            x = two_of(a.qkv + (u64)(a.first_row + row / RATIO) * FUSED + (head * RATIO + row % RATIO) * D + column);
        }
        put_pair(queries + i / TWOS * KEY_STRIDE + column, x.x, x.y);
    }
}

// This thread's scores of rows from `first` on, -infinity where a query does not see an entry.
__device__ __forceinline__ void scores_of(const MassArgs& a, const Tiles& tiles, u32 first, u32 rows, float (&scores)[SIDE / 8][4]) {
    clear(scores);
    add_scores<KEY_STRIDE, DP>(scores, tiles.queries, warp() * 16, tiles.keys);
    const float scale = a.scale * UNIT;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = first + own_row(half), query = a.first_position + row / RATIO;
#pragma unroll
        for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 column = own_column(j, c);
                const bool seen = row < rows && tiles.positions[column] <= query && query < tiles.ends[column];
                scores[j][2 * half + c] = seen ? scores[j][2 * half + c] * scale : -infinity();
            }
        }
    }
}

// x: tiles of rows, y: KV heads, z: which of the entries' tiles.
extern "C" __global__ void __launch_bounds__(THREADS) mass_rows(const __grid_constant__ MassArgs a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ Tiles tiles;
    wait_for_previous();
    tiles.queries = (C*)room;
    tiles.keys = tiles.queries + SIDE * KEY_STRIDE;
    __syncthreads();
    const u32 head = blockIdx.y, first = blockIdx.x * SIDE, rows = a.queries * RATIO;
    const u32 lane_number = a.lanes.lane(a.slot, a.layer, head / LANE_HEADS), length = a.lanes.lengths[lane_number];
    const u32 first_query = a.first_position + first / RATIO;
    const u32 last_query = a.first_position + min(first + SIDE - 1, rows - 1) / RATIO;
    load_queries(a, head, first, rows, tiles.queries);
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    for (u32 tile = blockIdx.z; tile * SIDE < length; tile += a.splits) {
        __syncthreads();
        load_known(a, lane_number, tile, length, tiles);
        __syncthreads();
        if (!may_see(tiles, first_query, last_query)) continue;
        load_keys(a, lane_number, head % LANE_HEADS, tile, length, tiles.keys);
        __syncthreads();
        float scores[SIDE / 8][4];
        scores_of(a, tiles, first, rows, scores);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            const float base = base_of(top);
            float total = sum[half] * power(largest[half] - base);
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) total += power(scores[j][2 * half] - base) + power(scores[j][2 * half + 1] - base);
            largest[half] = top;
            sum[half] = total;
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        // Four threads hold a row.
        for (u32 other = 1; other < 4; other *= 2) {
            const float top = __shfl_xor_sync(ALL, largest[half], other), more = __shfl_xor_sync(ALL, sum[half], other);
            const float both = fmaxf(top, largest[half]), base = base_of(both);
            sum[half] = sum[half] * power(largest[half] - base) + more * power(top - base);
            largest[half] = both;
        }
        const u32 row = first + own_row(half);
        if (lane() % 4 == 0 && row < rows) {
            a.rows[(u64)(blockIdx.z * KV_HEADS + head) * rows + row] = make_float2(largest[half], sum[half]);
        }
    }
}

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

// x: tiles of entries, y: lanes of the layer. Of lanes of several heads the sums are over all of them.
extern "C" __global__ void __launch_bounds__(THREADS) mass_entries(const __grid_constant__ MassArgs a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ Tiles tiles;
    __shared__ RowFactor factors[SIDE];
    __shared__ float columns[WARPS][SIDE];
    wait_for_previous();
    tiles.queries = (C*)room;
    tiles.keys = tiles.queries + SIDE * KEY_STRIDE;
    __syncthreads();
    const u32 tile = blockIdx.x, group = blockIdx.y, rows = a.queries * RATIO;
    const u32 lane_number = a.lanes.lane(a.slot, a.layer, group), length = a.lanes.lengths[lane_number];
    if (tile * SIDE >= length) return;
    load_known(a, lane_number, tile, length, tiles);
    float sums[SIDE / 8][2];
#pragma unroll
    for (u32 j = 0; j < SIDE / 8; j++) sums[j][0] = sums[j][1] = 0.0f;
    for (u32 lane_head = 0; lane_head < LANE_HEADS; lane_head++) {
        const u32 head = group * LANE_HEADS + lane_head;
        __syncthreads();
        load_keys(a, lane_number, lane_head, tile, length, tiles.keys);
        for (u32 first = 0; first < rows; first += SIDE) {
            __syncthreads();
            const u32 last_query = a.first_position + min(first + SIDE - 1, rows - 1) / RATIO;
            if (!may_see(tiles, a.first_position + first / RATIO, last_query)) continue;
            load_queries(a, head, first, rows, tiles.queries);
            if (threadIdx.x < SIDE) factors[threadIdx.x] = factor_of(a, head, first + threadIdx.x, rows);
            __syncthreads();
            float scores[SIDE / 8][4];
            scores_of(a, tiles, first, rows, scores);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const RowFactor by = factors[own_row(half)];
#pragma unroll
                for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                    for (u32 c = 0; c < 2; c++) sums[j][c] += power(scores[j][2 * half + c] - by.base) * by.factor;
                }
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            // Eight threads hold a column of their warp's rows.
            float sum = sums[j][c];
            for (u32 other = 4; other < 32; other *= 2) sum += __shfl_xor_sync(ALL, sum, other);
            if (lane() < 4) columns[warp()][own_column(j, c)] = sum;
        }
    }
    __syncthreads();
    const u32 entry = tile * SIDE + threadIdx.x;
    if (threadIdx.x >= SIDE || entry >= length) return;
    float sum = 0.0f;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) sum += columns[w][threadIdx.x];
    float* statistic = a.lanes.page(lane_number, entry / PAGE_ENTRIES).statistics() + entry % PAGE_ENTRIES;
    *statistic = (a.keep == 0.0f ? 0.0f : a.keep * *statistic) + sum;
}
