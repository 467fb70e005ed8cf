// How much probability entries got from the queries of one span, where the attention of a prompt has told what every row's
// exponentials add up to: one pass, with tensor cores.
//
// A warp keeps the keys of its entries in registers, as rows of the product, and the queries stream by as its columns,
// through two buffers. So a probability is a multiply-add and a power of the product's element, the sums over
// queries stay in registers, and nobody else adds to them. Blocks of early entries see most queries and come first.

// WARPS and MT (tiles of 16 entries of a warp) come from `ColumnPlan`.
constexpr u32 THREADS = 32 * WARPS;
constexpr u32 OWN = MT * 16;
constexpr u32 ENTRIES = WARPS * OWN;
constexpr u32 ROWS = 64; // of a tile: queries of the heads that share a KV head, one query's side by side
static_assert(ENTRIES <= 2 * ROWS, "keys lie where the queries come later");

struct ColumnArgs {
    Lanes lanes;
    const W* qkv;         // [rows][(h + 2 g) d], queries turned
    const float* sums;    // [rows][h]: as `prefill.cu` tells them
    u32 slot, layer;
    u32 first_row, queries, first_position;  // the queries that count
    float scale;
    float fading;         // the logarithm to 2 of what a query's share is multiplied by for each query after it
    float keep;           // what the sums of before are multiplied by; 0 forgets them, whatever they are
};

__device__ __forceinline__ u32 warp_least(u32 x) {
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) x = min(x, __shfl_xor_sync(ALL, x, i));
    return x;
}
__device__ __forceinline__ u32 warp_most(u32 x) {
#pragma unroll
    for (u32 i = 16; i > 0; i /= 2) x = max(x, __shfl_xor_sync(ALL, x, i));
    return x;
}

__device__ __forceinline__ void columns(const ColumnArgs& a) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float logs[2][ROWS];
    __shared__ u32 bounds[4][WARPS];

    wait_for_previous();
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31, group = blockIdx.y;
    const u32 lane_number = a.lanes.lane(a.slot, a.layer, group), length = a.lanes.lengths[lane_number];
    const u32 first_entry = blockIdx.x * ENTRIES, rows = a.queries * RATIO;
    if (first_entry >= length) return;
    const u32* table = a.lanes.tables + (u64)lane_number * a.lanes.max_pages;
    const u32 base = shared_address(memory);
    auto entry_of = [&](u32 i, u32 half) { return first_entry + warp * OWN + i * 16 + half * 8 + thread / 4; };

    // Which queries see this thread's entries, and all of the block's. No query sees what is none.
    u32 positions[MT][2], ends[MT][2];
    u32 first = NEVER, last = 0, soonest = NEVER, latest = 0;
#pragma unroll
    for (u32 i = 0; i < MT; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 entry = entry_of(i, half);
            positions[i][half] = NEVER, ends[i][half] = 0;
            if (entry < length) {
                const Page page{a.lanes.pages + (u64)table[entry / PAGE_ENTRIES] * PAGE_BYTES};
                positions[i][half] = page.positions()[entry % PAGE_ENTRIES];
                ends[i][half] = page.expires_at()[entry % PAGE_ENTRIES];
            }
            first = min(first, positions[i][half]), last = max(last, positions[i][half]);
            soonest = min(soonest, ends[i][half]), latest = max(latest, ends[i][half]);
        }
    first = warp_least(first), last = warp_most(last), soonest = warp_least(soonest), latest = warp_most(latest);
    if (thread == 0) bounds[0][warp] = first, bounds[1][warp] = last, bounds[2][warp] = soonest, bounds[3][warp] = latest;
    __syncthreads();
#pragma unroll
    for (u32 w = 0; w < WARPS; w++) {
        first = min(first, bounds[0][w]), last = max(last, bounds[1][w]);
        soonest = min(soonest, bounds[2][w]), latest = max(latest, bounds[3][w]);
    }
    // The rows of queries that may see any of them.
    const u32 end_position = a.first_position + a.queries;
    const u32 from = max(first, a.first_position), to = min(latest, end_position);
    const u32 first_tile = from < to ? (from - a.first_position) * RATIO / ROWS : 0;
    const u32 end_tile = from < to ? ((to - a.first_position) * RATIO + ROWS - 1) / ROWS : 0;

    // Fragments of keys are read as rows, those of queries as the transposed operand.
    const u32 row_offset = chunk_offset(thread & 15, thread >> 4);
    const u32 column_offset = chunk_offset((thread & 7) + (thread >> 4) * 8, thread >> 3 & 1);
    const float scale = a.scale * LOG2_E;
    float sums[MT][2];
#pragma unroll
    for (u32 i = 0; i < MT; i++) sums[i][0] = sums[i][1] = 0.0f;

    for (u32 lane_head = 0; lane_head < LANE_HEADS; lane_head++) {
        const u32 head = group * LANE_HEADS + lane_head;
        __syncthreads();
        for (u32 i = threadIdx.x; i < ENTRIES * CHUNKS; i += THREADS) {
            const u32 row = i / CHUNKS, chunk = i % CHUNKS, entry = first_entry + row;
            const bool there = entry < length;
            const Page page{a.lanes.pages + (u64)table[there ? entry / PAGE_ENTRIES : 0] * PAGE_BYTES};
            if constexpr (CODED) {
                uint4 x = make_uint4(0, 0, 0, 0);
                if (there) x = chunk_of_codes<8>(page.key_codes(lane_head), (const u8*)page.key_steps(lane_head), entry % PAGE_ENTRIES, chunk);
                store_shared(base + chunk_offset(row, chunk), x);
                continue;
            }
            const u8* key = (const u8*)page.keys(lane_head) + (there ? entry % PAGE_ENTRIES : 0) * (D * 2);
            copy16(base + chunk_offset(row, chunk), key + chunk * 16, there ? 16 : 0);
        }
        commit_copies();
        wait_copies<0>();
        __syncthreads();
        u32 keys[MT][D / 16][4];
#pragma unroll
        for (u32 i = 0; i < MT; i++)
#pragma unroll
            for (u32 step = 0; step < D / 16; step++) {
                load_matrices(keys[i][step], base + (warp * OWN + i * 16) * ROW_BYTES + chunks_right(row_offset, step));
            }
        // Everyone has its keys, and queries take their place.
        __syncthreads();

        const W* queries = a.qkv + (u64)a.first_row * QKV_STRIDE + head * RATIO * D;
        const float* told = a.sums + (u64)a.first_row * QUERY_HEADS + head * RATIO;
        auto fetch = [&](u32 tile) {
            const u32 place = tile % 2 * ROWS;
            for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
                const u32 row = i / CHUNKS, chunk = i % CHUNKS, number = tile * ROWS + row;
                const bool there = number < rows;
                const W* from = queries + (there ? (u64)(number / RATIO) * QKV_STRIDE + number % RATIO * D : 0) + chunk * 8;
                const u32 offset = chunk_offset(place + row, chunk);
                if constexpr (Same<W, T>::value) {
                    copy16(base + offset, from, there ? 16 : 0);
                } else {
                    uint4 x = make_uint4(0, 0, 0, 0);
                    if (there) x = make_uint4(pair_of(from), pair_of(from + 2), pair_of(from + 4), pair_of(from + 6));
                    *(uint4*)(memory + offset) = x;
                }
            }
            commit_copies();
            if (threadIdx.x < ROWS) {
                const u32 number = tile * ROWS + threadIdx.x, query = number / RATIO;
                // What is no row gives nothing: 2 to the minus infinity.
                float log = infinity();
                if (number < rows) {
                    log = told[(u64)query * QUERY_HEADS + number % RATIO] - (float)(a.queries - 1 - query) * a.fading;
                }
                logs[tile % 2][threadIdx.x] = log;
            }
        };

        if (first_tile < end_tile) fetch(first_tile);
        for (u32 tile = first_tile; tile < end_tile; tile++) {
            wait_copies<0>();
            // Everyone's queries are here, and nobody reads the other buffer any more.
            __syncthreads();
            if (tile + 1 < end_tile) fetch(tile + 1);
            const u32 first_query = a.first_position + tile * ROWS / RATIO;
            const u32 last_query = a.first_position + min(tile * ROWS + ROWS - 1, rows - 1) / RATIO;
            const bool whole = last <= first_query && last_query < soonest;
            const u32 place = base + tile % 2 * ROWS * ROW_BYTES;
#pragma unroll
            for (u32 j = 0; j < ROWS / 16; j++) {
                float score[MT][2][4];
#pragma unroll
                for (u32 i = 0; i < MT; i++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) score[i][0][k] = score[i][1][k] = 0.0f;
#pragma unroll
                for (u32 step = 0; step < D / 16; step++) {
                    u32 query[4];
                    load_matrices(query, place + j * 16 * ROW_BYTES + chunks_right(column_offset, step));
#pragma unroll
                    for (u32 i = 0; i < MT; i++) {
                        mma<T>(score[i][0], keys[i][step], query[0], query[1]);
                        mma<T>(score[i][1], keys[i][step], query[2], query[3]);
                    }
                }
#pragma unroll
                for (u32 n = 0; n < 2; n++)
#pragma unroll
                    for (u32 c = 0; c < 2; c++) {
                        const u32 column = j * 16 + n * 8 + 2 * (thread % 4) + c;
                        const float log = logs[tile % 2][column];
                        const u32 query = a.first_position + (tile * ROWS + column) / RATIO;
#pragma unroll
                        for (u32 i = 0; i < MT; i++)
#pragma unroll
                            for (u32 half = 0; half < 2; half++) {
                                const float power = two_to(fmaf(score[i][n][half * 2 + c], scale, -log));
                                const bool seen = whole || (positions[i][half] <= query && query < ends[i][half]);
                                sums[i][half] += seen ? power : 0.0f;
                            }
                    }
            }
        }
    }

#pragma unroll
    for (u32 i = 0; i < MT; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            // Four threads have a row's columns.
            float sum = sums[i][half];
            sum += __shfl_xor_sync(ALL, sum, 1);
            sum += __shfl_xor_sync(ALL, sum, 2);
            const u32 entry = entry_of(i, half);
            if (thread % 4 != 0 || entry >= length) continue;
            const Page page{a.lanes.pages + (u64)table[entry / PAGE_ENTRIES] * PAGE_BYTES};
            float* statistic = page.statistics() + entry % PAGE_ENTRIES;
            *statistic = (a.keep == 0.0f ? 0.0f : a.keep * *statistic) + sum;
        }
}

// x: ENTRIES entries, y: lanes of the layer. Of lanes of several heads the sums are over all of them.
extern "C" __global__ void __launch_bounds__(THREADS) mass_columns(const __grid_constant__ ColumnArgs a) {
    if constexpr (SERVED) columns(a);
    else wait_for_previous();
}
