// Attention of many queries over a cache of 16 bits or of codes, bound by products: the flash attention scheme over paged lanes.
//
// Warps own rows. Scores and sums stay in registers; keys and values come through two buffers each.

// WARPS, and MT, tiles of 16 rows of a warp: each key that it reads serves all of them.
constexpr bool WIDE = D > 128;
constexpr u32 THREADS = 32 * WARPS;
static_assert(COPIERS == THREADS && FIRST_COPIER == 0, "all threads list and copy");
constexpr u32 TILE_ROWS = WARPS * MT * 16;
constexpr bool PREFILLS = SERVED && RATIO <= TILE_ROWS;
constexpr bool KEEPS_QUERIES = D <= 64; // in registers
constexpr u32 NT = TILE_ENTRIES / 8;

// Shared memory: queries, then two buffers of keys and two of values.
constexpr u32 PAGE_TILE = PAGE_ENTRIES * ROW_BYTES;
constexpr u32 KEYS_AT = TILE_ROWS * ROW_BYTES;
constexpr u32 VALUES_AT = KEYS_AT + 2 * TILE_PAGES * PAGE_TILE;
static_assert(!PREFILLS || VALUES_AT + 2 * TILE_PAGES * PAGE_TILE == TILES_BYTES, "the host gives the tiles other room");
__device__ __forceinline__ void prefill(const PrefillArgs& a) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ List list;

    wait_for_previous();
    let_next_start();
    u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31;
    const Place place(a, TILE_ROWS / RATIO);
    if (!a.lanes.has(place.slot)) return;
    u32 base = shared_address(memory);

    for (u32 i = threadIdx.x; i < TILE_ROWS * CHUNKS; i += THREADS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (row / RATIO < place.queries) x = chunk_of(a.qkv + place.query_at(row) + chunk * 8);
        *(uint4*)(memory + chunk_offset(row, chunk)) = x;
    }
    __syncthreads();

    // Fragments of queries and values are read at row thread % 16, those of keys as the transposed operand.
    u32 row_offset = chunk_offset(thread & 15, thread >> 4);
    u32 key_offset = chunk_offset((thread & 7) + (thread >> 4) * 8, thread >> 3 & 1);
    u32 query_tile = base + warp * MT * 16 * ROW_BYTES;
    u32 kept_queries[KEEPS_QUERIES ? D / 16 : 1][MT][4];
    if constexpr (KEEPS_QUERIES) {
#pragma unroll
        for (u32 step = 0; step < D / 16; step++)
#pragma unroll
            for (u32 i = 0; i < MT; i++) {
                load_matrices(kept_queries[step][i], query_tile + i * 16 * ROW_BYTES + chunks_right(row_offset, step));
            }
    }
    float scale = a.scale * LOG2_E;
    float mixed[MT][D / 8][4], maximum[MT][2], sum[MT][2];
#pragma unroll
    for (u32 i = 0; i < MT; i++) {
#pragma unroll
        for (u32 j = 0; j < D / 8; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) mixed[i][j][k] = 0.0f;
#pragma unroll
        for (u32 k = 0; k < 2; k++) maximum[i][k] = -infinity(), sum[i][k] = 0.0f;
    }

    for (u32 from = 0; from < place.pages; from += LIST) {
        fill_list(list, a.lanes, place, from);
        u32 tiles = list.tiles, whole_tiles = list.whole_tiles;

        auto offset = [](u32 row, u32 chunk) { return chunk_offset(row, chunk); };
        auto fetch = [&](u32 tile) {
            u32 keys = base + KEYS_AT + tile % 2 * TILE_PAGES * PAGE_TILE, values = keys + VALUES_AT - KEYS_AT;
            if constexpr (CODED) {
                if (tile >= tiles) return;
                decode_tile<false>(list, tile, keys, a.lanes.pages, place.kv_head % LANE_HEADS, offset);
                decode_tile<true>(list, tile, values, a.lanes.pages, place.kv_head % LANE_HEADS, offset);
            } else {
                auto copy = [&](u32 to, const u8* part) {
                    if (tile < whole_tiles) copy_pages(list, tile, to, part, offset);
                    else if (tile < tiles) gather_tile(list, tile, to, part, offset);
                    commit_copies();
                };
                copy(keys, place.head);
                copy(values, place.head + PAGE_ENTRIES * D * 2);
            }
        };

        fetch(0);
        for (u32 tile = 0; tile < tiles; tile++) {
            u32 buffer = tile % 2 * TILE_PAGES;
            wait_copies<1>();
            // Everyone's keys are here, and nobody reads the other buffers any more.
            __syncthreads();
            fetch(tile + 1);

            float score[MT][NT][4];
#pragma unroll
            for (u32 i = 0; i < MT; i++)
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) score[i][j][k] = 0.0f;
            u32 keys = base + KEYS_AT + buffer * PAGE_TILE;
#pragma unroll
            for (u32 step = 0; step < D / 16; step++) {
                u32 query[MT][4];
#pragma unroll
                for (u32 i = 0; i < MT; i++) {
                    if constexpr (KEEPS_QUERIES) {
#pragma unroll
                        for (u32 k = 0; k < 4; k++) query[i][k] = kept_queries[step][i][k];
                    } else {
                        load_matrices(query[i], query_tile + i * 16 * ROW_BYTES + chunks_right(row_offset, step));
                    }
                }
#pragma unroll
                for (u32 j = 0; j < NT / 2; j++) {
                    u32 key[4];
                    load_matrices(key, keys + j * 16 * ROW_BYTES + chunks_right(key_offset, step));
#pragma unroll
                    for (u32 i = 0; i < MT; i++) {
                        mma<T>(score[i][2 * j], query[i], key[0], key[1]);
                        mma<T>(score[i][2 * j + 1], query[i], key[2], key[3]);
                    }
                }
            }

            if (tile >= whole_tiles) {
                const u16* seen_by = list.seen_by + (tile - whole_tiles) * TILE_ENTRIES;
#pragma unroll
                for (u32 i = 0; i < MT; i++) hide_unseen(score[i], seen_by, (warp * MT + i) * 16, thread);
            }

            bool moved = false;
            float keep[MT][2];
            u32 weights[MT][NT][2];
#pragma unroll
            for (u32 i = 0; i < MT; i++)
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float top = maximum[i][half];
#pragma unroll
                    for (u32 j = 0; j < NT; j++) top = fmaxf(top, fmaxf(score[i][j][half * 2], score[i][j][half * 2 + 1]));
                    top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
                    top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
                    float subtracted = base_of(top) * scale;
                    // Of equal maxima: a scaled difference that is not exactly 0 would grow the sums.
                    keep[i][half] = top == maximum[i][half] ? 1.0f : two_to(maximum[i][half] * scale - subtracted);
                    moved |= top != maximum[i][half];
                    maximum[i][half] = top;
                    float more = 0.0f;
#pragma unroll
                    for (u32 j = 0; j < NT; j++) {
                        float x = two_to(fmaf(score[i][j][half * 2], scale, -subtracted));
                        float y = two_to(fmaf(score[i][j][half * 2 + 1], scale, -subtracted));
                        more += x + y;
                        weights[i][j][half] = narrow2<T>(x, y);
                    }
                    sum[i][half] = sum[i][half] * keep[i][half] + more;
                }
            if (__any_sync(ALL, moved)) {
#pragma unroll
                for (u32 i = 0; i < MT; i++)
#pragma unroll
                    for (u32 j = 0; j < D / 8; j++)
#pragma unroll
                        for (u32 k = 0; k < 4; k++) mixed[i][j][k] *= keep[i][k / 2];
            }

            wait_copies<2>();
            __syncthreads();
            u32 values = base + VALUES_AT + buffer * PAGE_TILE;
#pragma unroll
            for (u32 step = 0; step < TILE_ENTRIES / 16; step++) {
#pragma unroll
                for (u32 j = 0; j < D / 16; j++) {
                    u32 value[4];
                    load_matrices_transposed(value, values + step * 16 * ROW_BYTES + chunks_right(row_offset, j));
#pragma unroll
                    for (u32 i = 0; i < MT; i++) {
                        u32 weight[4] = {weights[i][2 * step][0], weights[i][2 * step][1], weights[i][2 * step + 1][0],
                                         weights[i][2 * step + 1][1]};
                        mma<T>(mixed[i][2 * j], weight, value[0], value[1]);
                        mma<T>(mixed[i][2 * j + 1], weight, value[2], value[3]);
                    }
                }
            }
        }
    }

#pragma unroll
    for (u32 i = 0; i < MT; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float total = sum[i][half];
            total += __shfl_xor_sync(ALL, total, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            float factor = total == 0.0f ? 0.0f : 1.0f / total;
            u32 row = (warp * MT + i) * 16 + half * 8 + thread / 4, query = row / RATIO;
            if (query >= place.queries) continue;
            if (thread % 4 == 0) tell_sum(a, place, row, maximum[i][half], scale, total);
            W* to = a.mixed + place.mixed_at(row) + 2 * (thread % 4);
#pragma unroll
            for (u32 j = 0; j < D / 8; j++) {
                store_pair(to + j * 8, mixed[i][j][half * 2] * factor, mixed[i][j][half * 2 + 1] * factor);
            }
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, WIDE ? 1 : 2) attention_prefill(const __grid_constant__ PrefillArgs a) {
    if constexpr (PREFILLS) prefill(a);
    else wait_for_previous();
}
