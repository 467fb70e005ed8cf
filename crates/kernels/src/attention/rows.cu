// Attention one row and one head at a time, in f32: for f32 caches, for head widths that the tensor cores do not take,
// and the slow twin of the other two kernels.
//
// A block has a row and a query head; its warps take the pages in turn. A thread is an entry for the scores and some
// columns for the values. A row's own entry says where it is, so that spans are not needed.

constexpr u32 COLUMNS = (HEAD_DIM + 31) / 32;
constexpr u32 RATIO = QUERY_HEADS / KV_HEADS;
constexpr float LOG2_E = 1.4426950408889634f;
// Whole 16-byte pieces of a key, where its rows are aligned to them.
constexpr u32 PIECE = 16 / sizeof(C);
constexpr bool IN_PIECES = HEAD_DIM % PIECE == 0;

struct RowsArgs {
    Lanes lanes;
    const Row* rows;
    const W* qkv;
    W* mixed;
    const u32* first_pages; // as those of `decode.cu`, where row i is that of span i; and what is told
    float* told;
    float2* told_stats;
    u32 layer;
    float scale;
};

// A piece of a key as f32.
struct __align__(16) Piece {
    C x[PIECE];
};

__device__ __forceinline__ float dot(const float* query, const C* key) {
    // Four sums, so that one multiply-add does not wait for the one before.
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if constexpr (IN_PIECES) {
#pragma unroll 4
        for (u32 i = 0; i < HEAD_DIM; i += PIECE) {
            Piece piece = *(const Piece*)(key + i);
#pragma unroll
            for (u32 j = 0; j < PIECE; j++) sum[j % 4] = fmaf(query[i + j], widen(piece.x[j]), sum[j % 4]);
        }
    } else {
        for (u32 i = 0; i < HEAD_DIM; i++) sum[i % 4] = fmaf(query[i], widen(key[i]), sum[i % 4]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// The same with a key of codes.
__device__ __forceinline__ float dot_codes(const float* query, const u8* codes, const u32* steps) {
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (u32 i = 0; i < HEAD_DIM; i += 4) {
        const u32 four = *(const u32*)(codes + i), of_group = steps[i / KEY_GROUP];
#pragma unroll
        for (u32 j = 0; j < 4; j++) sum[j] = fmaf(query[i + j], decoded(four >> (8 * j) & 255, of_group), sum[j]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_rows(const __grid_constant__ RowsArgs a) {
    __shared__ float query[HEAD_DIM];
    __shared__ float mixed[WARPS][HEAD_DIM];
    __shared__ float maxima[WARPS], sums[WARPS];

    wait_for_previous();
    let_next_start();
    u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31;
    Row row = a.rows[blockIdx.x];
    if (!a.lanes.has(row.slot)) return;
    u32 head = blockIdx.y, kv_head = head / RATIO;
    u32 lane = a.lanes.lane(row.slot, a.layer, kv_head / LANE_HEADS);
    u32 length = a.lanes.lengths[lane];
    u64 stride = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
    for (u32 i = threadIdx.x; i < HEAD_DIM; i += 32 * WARPS) {
        query[i] = widen(a.qkv[blockIdx.x * stride + head * HEAD_DIM + i]);
    }
    __syncthreads();

    float maximum = -infinity(), sum = 0.0f, total[COLUMNS];
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) total[i] = 0.0f;
    for (u32 index = warp; index * PAGE_ENTRIES < length; index += WARPS) {
        Page page = a.lanes.page(lane, index);
        bool visible = index * PAGE_ENTRIES + thread < length && page.positions()[thread] <= row.position &&
                       row.position < page.expires_at()[thread];
        u32 seen = __ballot_sync(ALL, visible);
        float score = -infinity();
        const u32 lane_head = kv_head % LANE_HEADS;
        if constexpr (CODED) {
            if (visible) {
                score = a.scale * dot_codes(query, page.key_codes(lane_head) + thread * KEY_ROW,
                                            page.key_steps(lane_head) + thread * KEY_GROUPS);
            }
        } else {
            if (visible) score = dot(query, page.keys(lane_head) + thread * HEAD_DIM) * a.scale;
        }
        if constexpr (STATISTICS > 0) {
            if (a.told) {
                u32 unit = blockIdx.x * GROUPS + kv_head / LANE_HEADS, pages = (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
                u64 line = (u64)a.first_pages[unit] * LANE_HEADS + kv_head % LANE_HEADS * pages + index;
                a.told[(line * PAGE_ENTRIES + thread) * RATIO + head % RATIO] = score * LOG2_E;
            }
        }
        if (seen == 0) continue;
        float top = fmaxf(maximum, warp_max(score));
        float base = top == -infinity() ? 0.0f : top;
        float keep = expf(maximum - base), weight = visible ? expf(score - base) : 0.0f;
        maximum = top;
        sum = sum * keep + weight;
#pragma unroll
        for (u32 i = 0; i < COLUMNS; i++) total[i] *= keep;
        // Only what is seen is read: the rest may be anything.
        for (u32 left = seen; left != 0; left &= left - 1) {
            u32 entry = __ffs(left) - 1;
            float x = __shfl_sync(ALL, weight, entry);
#pragma unroll
            for (u32 i = 0; i < COLUMNS; i++) {
                u32 column = i * 32 + thread;
                if (column < HEAD_DIM) total[i] = fmaf(x, page.value(lane_head, entry, column), total[i]);
            }
        }
    }

    sum = warp_sum(sum);
    if (thread == 0) maxima[warp] = maximum, sums[warp] = sum;
#pragma unroll
    for (u32 i = 0; i < COLUMNS; i++) {
        u32 column = i * 32 + thread;
        if (column < HEAD_DIM) mixed[warp][column] = total[i];
    }
    __syncthreads();
    float top = -infinity();
    for (u32 i = 0; i < WARPS; i++) top = fmaxf(top, maxima[i]);
    float base = top == -infinity() ? 0.0f : top;
    if constexpr (STATISTICS > 0) {
        if (a.told && threadIdx.x == 0) {
            float all = 0.0f;
            for (u32 i = 0; i < WARPS; i++) all = fmaf(expf(maxima[i] - base), sums[i], all);
            a.told_stats[(u64)blockIdx.x * QUERY_HEADS + head] = make_float2(top * LOG2_E, all);
        }
    }
    for (u32 column = threadIdx.x; column < HEAD_DIM; column += 32 * WARPS) {
        float all = 0.0f, x = 0.0f;
        for (u32 i = 0; i < WARPS; i++) {
            float keep = expf(maxima[i] - base);
            all = fmaf(keep, sums[i], all);
            x = fmaf(keep, mixed[i][column], x);
        }
        a.mixed[((u64)blockIdx.x * QUERY_HEADS + head) * HEAD_DIM + column] = narrow<W>(all == 0.0f ? 0.0f : x / all);
    }
}
