// What entries get within chunks of the text whose tokens all see each other.

constexpr u32 KEY_STRIDE = padded<C>(DP), TWOS = DP / 2;
constexpr float UNIT = sizeof(C) == 4 ? 1.0f : LOG2_E;
static_assert(D % 2 == 0, "numbers of a head come in pairs");

__device__ __forceinline__ float power(float x) {
    if constexpr (sizeof(C) == 4) return expf(x);
    else return two_to(x);
}
template <typename T> __device__ __forceinline__ float2 two_of(const T* from) {
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(*(const u32*)from);
    else return *(const float2*)from;
}

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
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 rank = first + i / TWOS, column = i % TWOS * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (rank < end && column < D) {
            const Place at = place_of(a, head / RATIO, rank);
            const u32 row = at.page.positions()[at.slot] - a.first_position;
            if (row < a.queries) x = two_of(a.qkv + (u64)(a.first_row + row) * FUSED + head * D + column);
        }
        put_pair(to + i / TWOS * KEY_STRIDE + column, x.x, x.y);
    }
}
__device__ __forceinline__ void load_keys(const CompactorArgs& a, u32 kv_head, u32 first, u32 end, C* to) {
    for (u32 i = threadIdx.x; i < SIDE * TWOS; i += THREADS) {
        const u32 rank = first + i / TWOS, column = i % TWOS * 2;
        float2 x = make_float2(0.0f, 0.0f);
        if (rank < end && column < D) {
            const Place at = place_of(a, kv_head, rank);
            const u32 head = kv_head % LANE_HEADS;
            if constexpr (CODED) x = make_float2(at.page.key(head, at.slot, column), at.page.key(head, at.slot, column + 1));
            else x = two_of(at.page.keys(head) + at.slot * D + column);
        }
        put_pair(to + i / TWOS * KEY_STRIDE + column, x.x, x.y);
    }
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
    float largest[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};
    for (u32 from = tile.begin; from < tile.end; from += SIDE) {
        __syncthreads();
        load_keys(a, kv_head, from, tile.end, keys);
        __syncthreads();
        float scores[SIDE / 8][4];
        clear(scores);
        add_scores<KEY_STRIDE, DP>(scores, queries, warp() * 16, keys);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = largest[half];
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) {
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& score = scores[j][2 * half + c];
                    score = from + own_column(j, c) < tile.end ? score * UNIT : -infinity();
                    top = fmaxf(top, score);
                }
            }
            const float base = top == -infinity() ? 0.0f : top;
            float total = sum[half] * power(largest[half] - base);
#pragma unroll
            for (u32 j = 0; j < SIDE / 8; j++) total += power(scores[j][2 * half] - base) + power(scores[j][2 * half + 1] - base);
            largest[half] = top;
            sum[half] = total;
        }
    }
    const float missing = (float)(a.chunk - (tile.end - tile.begin));
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        // Four threads hold a row.
        for (u32 other = 1; other < 4; other *= 2) {
            const float top = __shfl_xor_sync(ALL, largest[half], other), more = __shfl_xor_sync(ALL, sum[half], other);
            const float both = fmaxf(top, largest[half]), base = both == -infinity() ? 0.0f : both;
            sum[half] = sum[half] * power(largest[half] - base) + more * power(top - base);
            largest[half] = both;
        }
        float top = largest[half], total = sum[half];
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
    float sums[SIDE / 8][2];
#pragma unroll
    for (u32 j = 0; j < SIDE / 8; j++) sums[j][0] = sums[j][1] = 0.0f;
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
                for (u32 c = 0; c < 2; c++) sums[j][c] += power(scores[j][2 * half + c] * UNIT - row.x) * row.y;
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
    const u32 rank = tile.first + threadIdx.x;
    if (threadIdx.x >= SIDE || rank >= tile.end) return;
    float sum = (float)(a.chunk - (tile.end - tile.begin)) / (float)a.chunk;
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) sum += columns[w][threadIdx.x];
    a.masses[(u64)head * a.stride + rank] = sum;
}
