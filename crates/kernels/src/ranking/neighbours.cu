// What entries get within chunks of the text whose tokens all see each other.

// One tile of SIDE ranks of a chunk, block x, and the chunk's bounds.
struct Tile {
    u32 first, begin, end;
};
__device__ __forceinline__ Tile tile_of(const CompactorArgs& a, Judged judged) {
    const u32 tiles = (min(a.chunk, a.stride) + SIDE - 1) / SIDE, number = blockIdx.x / tiles;
    // Chunks are no more than ranks.
    const u64 begin = (u64)judged.begin + (u64)number * a.chunk;
    if (begin >= judged.end) return Tile{judged.end, judged.end, judged.end};
    const u32 end = (u32)min((u64)judged.end, begin + a.chunk);
    return Tile{min((u32)begin + blockIdx.x % tiles * SIDE, end), (u32)begin, end};
}
// Rows of zeros behind the chunk's end, and where a token's query is not in this step: it looks at everything evenly.
__device__ __forceinline__ void load_queries(const CompactorArgs& a, u32 head, u32 first, u32 end, C* to) {
    load_tile(to, [&](u32 i, u32 column) {
        if (first + i >= end) return make_float2(0.0f, 0.0f);
        const Place at = place_of(a, head / RATIO, first + i);
        const u32 row = at.page.positions()[at.slot] - a.first_position;
        if (row >= a.queries) return make_float2(0.0f, 0.0f);
        return two_of(a.qkv + (u64)(a.first_row + row) * FUSED + head * D + column);
    });
}
__device__ __forceinline__ void load_keys(const CompactorArgs& a, u32 kv_head, u32 first, u32 end, C* to) {
    load_tile(to, [&](u32 i, u32 column) {
        if (first + i >= end) return make_float2(0.0f, 0.0f);
        const Place at = place_of(a, kv_head, first + i);
        return two_of_key(at.page, kv_head % LANE_HEADS, at.slot, column);
    });
}

// x: tiles of every chunk, y: query heads. What each query's exponentials add up to. The last chunk is filled up with keys of
// score 0.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_rows(const __grid_constant__ CompactorArgs a) {
    extern __shared__ __align__(128) u8 room[];
    wait_for_previous();
    C *queries = (C*)room, *keys = queries + SIDE * KEY_STRIDE;
    const u32 head = blockIdx.y, kv_head = head / RATIO;
    const Tile tile = tile_of(a, judged_of(a, kv_head));
    if (tile.first >= tile.end) return;
    load_queries(a, head, tile.first, tile.end, queries);
    RowSums sums;
    for (u32 from = tile.begin; from < tile.end; from += SIDE) {
        __syncthreads();
        load_keys(a, kv_head, from, tile.end, keys);
        __syncthreads();
        float scores[SIDE / 8][4];
        clear(scores);
        add_scores<KEY_STRIDE, DP>(scores, queries, warp() * 16, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& score = scores[j][2 * half + c];
                    score = from + own_column(j, c) < tile.end ? score * UNIT : -infinity();
                }
            }
        }
        sums.add(scores);
    }
    sums.join();
    const float missing = (float)(a.chunk - (tile.end - tile.begin));
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float top = sums.largest[half], total = sums.sum[half];
        if (missing > 0.0f) {
            const float both = fmaxf(top, 0.0f);
            total = total * power(top - both) + missing * power(-both);
            top = both;
        }
        const u32 rank = tile.first + own_row(half);
        if (lane() % 4 == 0 && rank < tile.end) a.rows[(u64)head * a.stride + rank] = make_float2(top, 1.0f / total);
    }
}

// The same grid, of keys: what all of a chunk's queries give them; queries that fill it up look at everything evenly.
extern "C" __global__ void __launch_bounds__(THREADS) compactor_columns(const __grid_constant__ CompactorArgs a) {
    extern __shared__ __align__(128) u8 room[];
    __shared__ float2 rows[SIDE];
    __shared__ float columns[WARPS][SIDE];
    wait_for_previous();
    C *queries = (C*)room, *keys = queries + SIDE * KEY_STRIDE;
    const u32 head = blockIdx.y, kv_head = head / RATIO;
    const Tile tile = tile_of(a, judged_of(a, kv_head));
    if (tile.first >= tile.end) return;
    load_keys(a, kv_head, tile.first, tile.end, keys);
    ColumnSums given;
    for (u32 from = tile.begin; from < tile.end; from += SIDE) {
        __syncthreads();
        load_queries(a, head, from, tile.end, queries);
        if (threadIdx.x < SIDE) {
            const u32 rank = from + threadIdx.x;
            rows[threadIdx.x] = rank < tile.end ? a.rows[(u64)head * a.stride + rank] : make_float2(0.0f, 0.0f);
        }
        __syncthreads();
        float scores[SIDE / 8][4];
        clear(scores);
        add_scores<KEY_STRIDE, DP>(scores, queries, warp() * 16, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const float2 row = rows[own_row(half)];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 2; c++) given.sums[j][c] += power(scores[j][2 * half + c] * UNIT - row.x) * row.y;
            }
        }
    }
    // Queries that fill the chunk up, then those that there are.
    const float even = (float)(a.chunk - (tile.end - tile.begin)) / (float)a.chunk;
    const float attended = given.total(even, columns);
    const u32 rank = tile.first + threadIdx.x;
    if (threadIdx.x >= SIDE || rank >= tile.end) return;
    a.masses[(u64)head * a.stride + rank] = attended;
}
