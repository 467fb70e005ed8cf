// Attention of many queries over a cache of 16 bits or of codes, bound by products: the flash attention scheme over paged lanes.
//
// A block has a tile of rows of one KV head: the heads of query 0, the heads of query 1 and so on, which all read the
// same keys and values. It first sorts some pages of the lane: those that all rows see whole come as they are and need
// no mask; of the others, the entries that a row sees at all are gathered row by row. What no row sees costs neither
// bytes nor products: that passes over the upper triangle of a prompt, and over what died within it.
//
// Warps own rows. Scores and sums stay in registers; keys and values come through two buffers each.

// WARPS, MT (tiles of 16 rows of a warp: each key that it reads serves all of them), TILE_PAGES and MOST_SPANS come from
// `PrefillPlan`.
constexpr bool WIDE = D > 128;
constexpr u32 THREADS = 32 * WARPS;
constexpr u32 TILE_ROWS = WARPS * MT * 16;
constexpr u32 TILE_ENTRIES = TILE_PAGES * PAGE_ENTRIES;
constexpr bool PREFILLS = SERVED && RATIO <= TILE_ROWS;
constexpr u32 TILE_QUERIES = PREFILLS ? TILE_ROWS / RATIO : 1;
constexpr bool KEEPS_QUERIES = D <= 64; // in registers
constexpr u32 NT = TILE_ENTRIES / 8;
constexpr u32 LIST = D <= 64 ? 128 : 64; // pages that are listed at a time
constexpr u32 LISTED = LIST * PAGE_ENTRIES;

// Shared memory: queries, then two buffers of keys and two of values.
constexpr u32 PAGE_TILE = PAGE_ENTRIES * ROW_BYTES;
constexpr u32 KEYS_AT = TILE_ROWS * ROW_BYTES;
constexpr u32 VALUES_AT = KEYS_AT + 2 * TILE_PAGES * PAGE_TILE;
static_assert(!PREFILLS || VALUES_AT + 2 * TILE_PAGES * PAGE_TILE == TILES_BYTES, "the host gives the tiles other room");
struct PrefillArgs {
    Lanes lanes;
    const Span* spans;
    const W* qkv;
    W* mixed;
    float* sums;  // [rows][h]: the logarithm to 2 of what each row's exponentials add up to, if anybody asks
    u32 layer;
    float scale;
    u32 span_count;
    u32 first_tile[MOST_SPANS + 1];
};

// What a block reads of LIST pages: whole ones, then entries of the others, by where each lies and which of the block's
// queries see it, `first | end << 8`.
struct List {
    u32 sources[LISTED];  // page * 32 + slot, or NEVER where the last tile has no entry
    u16 seen_by[LISTED];
    u32 whole[LIST];      // page numbers
    u32 pages[LIST], masks[LIST], starts[LIST];
    u32 whole_tiles, tiles;
};
constexpr u32 BY_NONE = 255;
constexpr u32 WHOLE = 1u << 31; // in `starts`: the page is one of `whole`

// Lists what some row sees of `candidates` pages from page `from` of the lane on.
__device__ __forceinline__ void fill_list(List& list, const Lanes& lanes, const u32* table, u32 from, u32 candidates,
                                          u32 length, u32 first_position, u32 last_position) {
    u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31;
    auto page_of = [&](u32 i) { return Page{lanes.pages + (u64)list.pages[i] * PAGE_BYTES}; };
    __syncthreads();
    for (u32 i = threadIdx.x; i < candidates; i += THREADS) list.pages[i] = table[from + i];
    __syncthreads();
    // Eight pages at once, because each load waits long.
    for (u32 i = warp * 8; i < candidates; i += WARPS * 8) {
        u32 position[8], expires_at[8];
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            if (i + j < candidates) {
                position[j] = page_of(i + j).positions()[thread];
                expires_at[j] = page_of(i + j).expires_at()[thread];
            }
        }
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            if (i + j >= candidates) break;
            bool there = (from + i + j) * PAGE_ENTRIES + thread < length;
            u32 some = __ballot_sync(ALL, there && position[j] <= last_position && expires_at[j] > first_position);
            bool every = __all_sync(ALL, there && position[j] <= first_position && expires_at[j] > last_position);
            if (thread == 0) list.masks[i + j] = some, list.starts[i + j] = every ? WHOLE : 0;
        }
    }
    __syncthreads();
    if (warp == 0) {
        // First the pages that need no mask, as many as fill tiles, then what is left.
        u32 count = 0, whole = 0;
        for (u32 round = 0; round < 2; round++) {
            for (u32 i = thread; i < LIST; i += 32) {
                bool mine = i < candidates && (list.starts[i] >> 31 == 0) == (round == 1);
                u32 own = !mine ? 0 : round == 0 ? 1 : __popc(list.masks[i]), sum = own;
#pragma unroll
                for (u32 lane = 1; lane < 32; lane *= 2) {
                    u32 before = __shfl_up_sync(ALL, sum, lane);
                    if (thread >= lane) sum += before;
                }
                if (mine) list.starts[i] = (round == 0 ? WHOLE : 0) | (count + sum - own);
                count += __shfl_sync(ALL, sum, 31);
            }
            if (round == 0) {
                whole = count / TILE_PAGES;
                count = 0;
                for (u32 i = thread; i < candidates; i += 32) {
                    u32 start = list.starts[i];
                    if (start >= WHOLE && (start & ~WHOLE) >= whole * TILE_PAGES) list.starts[i] = 0;
                }
            }
        }
        // The last tile is filled up with entries that nobody sees.
        u32 gathered = (count + TILE_ENTRIES - 1) / TILE_ENTRIES;
        for (u32 i = count + thread; i < gathered * TILE_ENTRIES; i += 32) list.sources[i] = NEVER, list.seen_by[i] = BY_NONE;
        if (thread == 0) list.whole_tiles = whole, list.tiles = whole + gathered;
    }
    __syncthreads();
    for (u32 i = warp; i < candidates; i += WARPS) {
        u32 mask = list.masks[i], start = list.starts[i];
        if (start >= WHOLE) {
            if (thread == 0) list.whole[start & ~WHOLE] = list.pages[i];
        } else if (mask >> thread & 1) {
            u32 at = start + __popc(mask & ((1u << thread) - 1));
            u32 position = page_of(i).positions()[thread], expires_at = page_of(i).expires_at()[thread];
            u32 first = position > first_position ? position - first_position : 0;
            list.sources[at] = list.pages[i] * PAGE_ENTRIES + thread;
            list.seen_by[at] = (u16)(first | min(expires_at - first_position, 255u) << 8);
        }
    }
    __syncthreads();
}

// Copies a tile of whole pages; `part` is where keys or values begin in a page.
__device__ __forceinline__ void copy_pages(u32 tile, const u32* whole, const u8* part) {
    constexpr u32 PIECES = PAGE_ENTRIES * CHUNKS;
#pragma unroll
    for (u32 page = 0; page < TILE_PAGES; page++) {
        const u8* from = part + (u64)whole[page] * PAGE_BYTES;
#pragma unroll
        for (u32 i = 0; i < (PIECES + THREADS - 1) / THREADS; i++) {
            u32 chunk = i * THREADS + threadIdx.x, row = chunk / CHUNKS;
            if (PIECES % THREADS == 0 || chunk < PIECES) {
                copy16(tile + page * PAGE_TILE + chunk_offset(row, chunk % CHUNKS), from + chunk * 16);
            }
        }
    }
}

// Copies a tile of rows that the list names; `part` is where keys or values begin in a page.
__device__ __forceinline__ void gather(u32 tile, const u32* sources, const u8* part) {
    constexpr u32 PIECES = TILE_ENTRIES * CHUNKS;
#pragma unroll
    for (u32 i = 0; i < (PIECES + THREADS - 1) / THREADS; i++) {
        u32 chunk = i * THREADS + threadIdx.x, row = chunk / CHUNKS;
        if (PIECES % THREADS == 0 || chunk < PIECES) {
            u32 source = sources[row];
            bool there = source != NEVER;
            u64 offset = there ? (u64)(source / PAGE_ENTRIES) * PAGE_BYTES + source % PAGE_ENTRIES * (D * 2) : 0;
            // A row without an entry is zeros: 0 times what lies there might not be 0.
            copy16(tile + chunk_offset(row, chunk % CHUNKS), part + offset + chunk % CHUNKS * 16, there ? 16 : 0);
        }
    }
}

// The same two for pages of codes, which become numbers on the way. Keys or values of `head`.
template <bool VALUES> __device__ __forceinline__ uint4 number_chunk(u8* page, u32 head, u32 slot, u32 chunk) {
    const Page from{page};
    if constexpr (VALUES) return chunk_of_codes<VALUE_BITS>(from.value_codes(head), (const u8*)from.value_steps(head), slot, chunk);
    else return chunk_of_codes<8>(from.key_codes(head), (const u8*)from.key_steps(head), slot, chunk);
}
template <bool VALUES> __device__ __forceinline__ void decode_pages(u32 tile, const u32* whole, u8* pages, u32 head) {
    for (u32 i = threadIdx.x; i < TILE_ENTRIES * CHUNKS; i += THREADS) {
        const u32 entry = i / CHUNKS, chunk = i % CHUNKS, page = entry / PAGE_ENTRIES, slot = entry % PAGE_ENTRIES;
        store_shared(tile + page * PAGE_TILE + chunk_offset(slot, chunk),
                     number_chunk<VALUES>(pages + (u64)whole[page] * PAGE_BYTES, head, slot, chunk));
    }
}
template <bool VALUES> __device__ __forceinline__ void decode_gathered(u32 tile, const u32* sources, u8* pages, u32 head) {
    for (u32 i = threadIdx.x; i < TILE_ENTRIES * CHUNKS; i += THREADS) {
        const u32 row = i / CHUNKS, chunk = i % CHUNKS, source = sources[row];
        uint4 x = make_uint4(0, 0, 0, 0);
        if (source != NEVER) {
            x = number_chunk<VALUES>(pages + (u64)(source / PAGE_ENTRIES) * PAGE_BYTES, head, source % PAGE_ENTRIES, chunk);
        }
        store_shared(tile + chunk_offset(row, chunk), x);
    }
}

// Eight activations as a 16-byte chunk.
__device__ __forceinline__ uint4 chunk_of(const W* x) {
    if constexpr (Same<W, T>::value) return *(const uint4*)x;
    return make_uint4(pair_of(x), pair_of(x + 2), pair_of(x + 4), pair_of(x + 6));
}

__device__ __forceinline__ void prefill(const PrefillArgs& a) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ List list;

    wait_for_previous();
    let_next_start();
    u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31;
    // The last tiles of a prompt see most and begin first.
    u32 tile = gridDim.x - 1 - blockIdx.x, kv_head = blockIdx.y;
    u32 which = 0;
    for (u32 step = MOST_SPANS / 2; step > 0; step /= 2) {
        if (which + step < a.span_count && a.first_tile[which + step] <= tile) which += step;
    }
    Span span = a.spans[which];
    u32 first_query = (tile - a.first_tile[which]) * TILE_QUERIES;
    u32 queries = min(TILE_QUERIES, span.queries - first_query);
    u32 first_position = span.first_position + first_query, last_position = first_position + queries - 1;
    if (!a.lanes.has(span.slot)) return;
    u32 lane = a.lanes.lane(span.slot, a.layer, kv_head / LANE_HEADS);
    u32 length = a.lanes.lengths[lane], pages = (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
    const u32* table = a.lanes.tables + (u64)lane * a.lanes.max_pages;
    const u8* head = a.lanes.pages + (kv_head % LANE_HEADS) * HEAD_BYTES;
    u32 base = shared_address(memory);

    const W* rows = a.qkv + (u64)(span.first_row + first_query) * QKV_STRIDE + kv_head * RATIO * D;
    for (u32 i = threadIdx.x; i < TILE_ROWS * CHUNKS; i += THREADS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS, query = row / RATIO;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (query < queries) x = chunk_of(rows + (u64)query * QKV_STRIDE + (row % RATIO) * D + chunk * 8);
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

    for (u32 from = 0; from < pages; from += LIST) {
        fill_list(list, a.lanes, table, from, min(LIST, pages - from), length, first_position, last_position);
        u32 tiles = list.tiles, whole_tiles = list.whole_tiles;

        auto fetch_part = [&](u32 tile, u32 place, const u8* part) {
            place += tile % 2 * TILE_PAGES * PAGE_TILE;
            if (tile < whole_tiles) copy_pages(place, list.whole + tile * TILE_PAGES, part);
            else if (tile < tiles) gather(place, list.sources + (tile - whole_tiles) * TILE_ENTRIES, part);
            commit_copies();
        };
        auto decode_part = [&](u32 tile, u32 keys, u32 values) {
            const u32 lane_head = kv_head % LANE_HEADS, buffer = tile % 2 * TILE_PAGES * PAGE_TILE;
            if (tile < whole_tiles) {
                const u32* whole = list.whole + tile * TILE_PAGES;
                decode_pages<false>(keys + buffer, whole, a.lanes.pages, lane_head);
                decode_pages<true>(values + buffer, whole, a.lanes.pages, lane_head);
            } else if (tile < tiles) {
                const u32* sources = list.sources + (tile - whole_tiles) * TILE_ENTRIES;
                decode_gathered<false>(keys + buffer, sources, a.lanes.pages, lane_head);
                decode_gathered<true>(values + buffer, sources, a.lanes.pages, lane_head);
            }
        };
        auto fetch = [&](u32 tile) {
            if constexpr (CODED) {
                decode_part(tile, base + KEYS_AT, base + VALUES_AT);
            } else {
                fetch_part(tile, base + KEYS_AT, head);
                fetch_part(tile, base + VALUES_AT, head + PAGE_ENTRIES * D * 2);
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
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 c = 0; c < 2; c++) {
                        u32 by = seen_by[j * 8 + 2 * (thread % 4) + c];
#pragma unroll
                        for (u32 i = 0; i < MT; i++)
#pragma unroll
                            for (u32 half = 0; half < 2; half++) {
                                u32 query = ((warp * MT + i) * 16 + half * 8 + thread / 4) / RATIO;
                                float& x = score[i][j][half * 2 + c];
                                x = query >= (by & 255) && query < by >> 8 ? x : -infinity();
                            }
                    }
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

    W* out = a.mixed + (u64)(span.first_row + first_query) * MIXED_STRIDE + kv_head * RATIO * D;
#pragma unroll
    for (u32 i = 0; i < MT; i++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float total = sum[i][half];
            total += __shfl_xor_sync(ALL, total, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            float factor = total == 0.0f ? 0.0f : 1.0f / total;
            u32 row = (warp * MT + i) * 16 + half * 8 + thread / 4, query = row / RATIO;
            if (query >= queries) continue;
            if (a.sums && thread % 4 == 0) {
                float* to = a.sums + (u64)(span.first_row + first_query + query) * QUERY_HEADS + kv_head * RATIO + row % RATIO;
                // What saw nothing gives nothing: 2 to the minus infinity.
                *to = total == 0.0f ? infinity() : fmaf(base_of(maximum[i][half]), scale, log2f(total));
            }
            W* to = out + (u64)query * MIXED_STRIDE + (row % RATIO) * D + 2 * (thread % 4);
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
