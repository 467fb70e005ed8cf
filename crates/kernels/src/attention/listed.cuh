// What the kernels of attention over prompts share: which entries of a lane a tile of queries sees, and their way to shared memory.
//
// A block has a tile of rows of one KV head: the heads of query 0, the heads of query 1 and so on, which all read the same keys and
// values. It lists LIST pages of the lane at a time: those that all rows see whole come as they are and need no mask; of the others, the
// entries that a row sees at all are gathered row by row. What no row sees costs neither bytes nor products: that passes over the upper
// triangle of a prompt, and over what died within it.

// TILE_PAGES (of a tile of keys or values), LIST, COPIERS (threads that list and copy, from FIRST_COPIER on) and MOST_SPANS come from the
// plan.
constexpr u32 TILE_ENTRIES = TILE_PAGES * PAGE_ENTRIES;
constexpr u32 LISTED = LIST * PAGE_ENTRIES;

struct PrefillArgs {
    Lanes lanes;
    const Span* spans;
    const W* qkv;
    W* mixed;
    float* sums;  // [rows][h]: the logarithm to 2 of what each row's exponentials add up to, if anybody asks
    const void* map; // of all pages, for the copy engine, or none
    u32 layer;
    float scale;
    u32 span_count;
    u32 first_tile[MOST_SPANS + 1];
};

// A block's queries, and the lane that they look at.
struct Place {
    u32 slot, first_row, kv_head, queries, first_position, last_position, length, pages;
    const u32* table;
    const u8* head; // keys of its head in page 0; values follow

    // Blocks have MOST queries, but for the last of a span.
    __device__ __forceinline__ Place(const PrefillArgs& a, u32 most) {
        // The last tiles of a prompt see most and begin first.
        u32 tile = gridDim.x - 1 - blockIdx.x, which = 0;
        for (u32 step = MOST_SPANS / 2; step > 0; step /= 2) {
            if (which + step < a.span_count && a.first_tile[which + step] <= tile) which += step;
        }
        Span span = a.spans[which];
        u32 first_query = (tile - a.first_tile[which]) * most;
        slot = span.slot, first_row = span.first_row + first_query, kv_head = blockIdx.y;
        queries = min(most, span.queries - first_query);
        first_position = span.first_position + first_query, last_position = first_position + queries - 1;
        if (!a.lanes.has(slot)) return;
        u32 lane = a.lanes.lane(slot, a.layer, kv_head / LANE_HEADS);
        length = a.lanes.lengths[lane], pages = (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
        table = a.lanes.tables + (u64)lane * a.lanes.max_pages;
        head = a.lanes.pages + (kv_head % LANE_HEADS) * HEAD_BYTES;
    }
    // Head `row` % RATIO of query `row` / RATIO, in activations and in what comes out.
    __device__ __forceinline__ u64 query_at(u32 row) const {
        return (u64)(first_row + row / RATIO) * QKV_STRIDE + (kv_head * RATIO + row % RATIO) * D;
    }
    __device__ __forceinline__ u64 mixed_at(u32 row) const {
        return (u64)(first_row + row / RATIO) * MIXED_STRIDE + (kv_head * RATIO + row % RATIO) * D;
    }
};

// What a block reads of LIST pages: whole ones, then entries of the others, by where each lies and the first and the last of the
// block's queries that see it, `first | last << 8`.
struct List {
    u32 sources[LISTED];  // page * 32 + slot, or NEVER where the last tile has no entry
    u16 seen_by[LISTED];
    u32 whole[LIST];      // page numbers
    u32 pages[LIST], masks[LIST], starts[LIST];
    u32 whole_tiles, tiles;
};
constexpr u32 BY_NONE = 255;
constexpr u32 WHOLE = 1u << 31; // in `starts`: the page is one of `whole`
__device__ __forceinline__ bool sees(u32 query, u32 by) { return query >= (by & 255) && query <= by >> 8; }

__device__ __forceinline__ void copiers_meet() {
    if constexpr (FIRST_COPIER == 0) __syncthreads();
    else asm volatile("bar.sync 1, %0;" ::"n"(COPIERS) : "memory");
}

// Lists what some row sees of the pages from page `from` of the lane on.
__device__ __forceinline__ void fill_list(List& list, const Lanes& lanes, const Place& place, u32 from) {
    constexpr u32 AT_ONCE = FIRST_COPIER == 0 ? 8 : 4; // pages, because each load waits long; who does so beside others has few registers
    u32 member = threadIdx.x - FIRST_COPIER, warp = member / 32, thread = member % 32, candidates = min(LIST, place.pages - from);
    u32 first_position = place.first_position, last_position = place.last_position;
    auto page_of = [&](u32 i) { return Page{lanes.pages + (u64)list.pages[i] * PAGE_BYTES}; };
    copiers_meet();
    for (u32 i = member; i < candidates; i += COPIERS) list.pages[i] = place.table[from + i];
    copiers_meet();
    for (u32 i = warp * AT_ONCE; i < candidates; i += COPIERS / 32 * AT_ONCE) {
        u32 position[AT_ONCE], expires_at[AT_ONCE];
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            if (i + j < candidates) {
                position[j] = page_of(i + j).positions()[thread];
                expires_at[j] = page_of(i + j).expires_at()[thread];
            }
        }
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            if (i + j >= candidates) break;
            bool there = (from + i + j) * PAGE_ENTRIES + thread < place.length;
            u32 some = __ballot_sync(ALL, there && position[j] <= last_position && expires_at[j] > first_position);
            bool every = __all_sync(ALL, there && position[j] <= first_position && expires_at[j] > last_position);
            if (thread == 0) list.masks[i + j] = some, list.starts[i + j] = every ? WHOLE : 0;
        }
    }
    copiers_meet();
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
    copiers_meet();
    for (u32 i = warp * AT_ONCE; i < candidates; i += COPIERS / 32 * AT_ONCE) {
        u32 position[AT_ONCE], expires_at[AT_ONCE];
        auto gathers = [&](u32 j) { return i + j < candidates && list.starts[i + j] < WHOLE && (list.masks[i + j] >> thread & 1); };
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            if (gathers(j)) {
                position[j] = page_of(i + j).positions()[thread];
                expires_at[j] = page_of(i + j).expires_at()[thread];
            }
        }
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            if (i + j < candidates && list.starts[i + j] >= WHOLE) {
                if (thread == 0) list.whole[list.starts[i + j] & ~WHOLE] = list.pages[i + j];
            } else if (gathers(j)) {
                u32 at = list.starts[i + j] + __popc(list.masks[i + j] & ((1u << thread) - 1));
                u32 first = position[j] > first_position ? position[j] - first_position : 0;
                list.sources[at] = list.pages[i + j] * PAGE_ENTRIES + thread;
                list.seen_by[at] = (u16)(first | min(expires_at[j] - first_position - 1, 255u) << 8);
            }
        }
    }
    copiers_meet();
}

// Tile `tile` of a list on its way to shared memory, keys or values of a head. `offset(row, chunk)` is where a chunk of 16 bytes goes,
// `part` where keys or values of the head begin in page 0. Pages that are seen whole:
template <typename Offset>
__device__ __forceinline__ void copy_pages(const List& list, u32 tile, u32 to, const u8* part, Offset offset) {
    constexpr u32 PIECES = PAGE_ENTRIES * CHUNKS;
#pragma unroll
    for (u32 page = 0; page < TILE_PAGES; page++) {
        const u8* from = part + (u64)list.whole[tile * TILE_PAGES + page] * PAGE_BYTES;
#pragma unroll
        for (u32 i = 0; i < (PIECES + COPIERS - 1) / COPIERS; i++) {
            u32 piece = i * COPIERS + threadIdx.x - FIRST_COPIER;
            if (PIECES % COPIERS == 0 || piece < PIECES) {
                copy16(to + offset(page * PAGE_ENTRIES + piece / CHUNKS, piece % CHUNKS), from + piece * 16);
            }
        }
    }
}
// Entries of others:
template <typename Offset>
__device__ __forceinline__ void gather_tile(const List& list, u32 tile, u32 to, const u8* part, Offset offset) {
    constexpr u32 PIECES = TILE_ENTRIES * CHUNKS;
    const u32* sources = list.sources + (tile - list.whole_tiles) * TILE_ENTRIES;
#pragma unroll
    for (u32 i = 0; i < (PIECES + COPIERS - 1) / COPIERS; i++) {
        u32 piece = i * COPIERS + threadIdx.x - FIRST_COPIER, row = piece / CHUNKS, chunk = piece % CHUNKS;
        if (PIECES % COPIERS != 0 && piece >= PIECES) continue;
        u32 source = sources[row];
        // A row without an entry is zeros: 0 times what lies there might not be 0.
        bool there = source != NEVER;
        u64 from = there ? (u64)(source / PAGE_ENTRIES) * PAGE_BYTES + source % PAGE_ENTRIES * (D * 2) : 0;
        copy16(to + offset(row, chunk), part + from + chunk * 16, there ? 16 : 0);
    }
}
// Either of pages of codes, which become numbers on the way.
template <bool VALUES, typename Offset>
__device__ __forceinline__ void decode_tile(const List& list, u32 tile, u32 to, u8* pages, u32 head, Offset offset) {
    const u32* whole = list.whole + tile * TILE_PAGES;
    const u32* sources = list.sources + (tile - list.whole_tiles) * TILE_ENTRIES;
    bool gathered = tile >= list.whole_tiles;
    for (u32 i = threadIdx.x - FIRST_COPIER; i < TILE_ENTRIES * CHUNKS; i += COPIERS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        u32 source = gathered ? sources[row] : whole[row / PAGE_ENTRIES] * PAGE_ENTRIES + row % PAGE_ENTRIES;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (source != NEVER) {
            const Page page{pages + (u64)(source / PAGE_ENTRIES) * PAGE_BYTES};
            u32 slot = source % PAGE_ENTRIES;
            if constexpr (VALUES) x = chunk_of_codes<VALUE_BITS>(page.value_codes(head), (const u8*)page.value_steps(head), slot, chunk);
            else x = chunk_of_codes<8>(page.key_codes(head), (const u8*)page.key_steps(head), slot, chunk);
        }
        store_shared(to + offset(row, chunk), x);
    }
}

// Eight activations as a 16-byte chunk.
__device__ __forceinline__ uint4 chunk_of(const W* x) {
    if constexpr (Same<W, T>::value) return *(const uint4*)x;
    return make_uint4(pair_of(x), pair_of(x + 2), pair_of(x + 4), pair_of(x + 6));
}

// Of a row's exponentials, 2 to `scale` times its scores less `maximum`.
__device__ __forceinline__ void tell_sum(const PrefillArgs& a, const Place& place, u32 row, float maximum, float scale, float total) {
    if (!a.sums) return;
    // What saw nothing gives nothing: 2 to the minus infinity.
    a.sums[(u64)(place.first_row + row / RATIO) * QUERY_HEADS + place.kv_head * RATIO + row % RATIO] =
        total == 0.0f ? infinity() : fmaf(base_of(maximum), scale, log2f(total));
}

// A warp's scores of 16 rows from `first` on, as products leave them to its threads: those of entries that a row's query does not see become nothing.
template <u32 N> __device__ __forceinline__ void hide_unseen(float (&score)[N][4], const u16* seen_by, u32 first, u32 thread) {
#pragma unroll
    for (u32 j = 0; j < N; j++)
#pragma unroll
        for (u32 c = 0; c < 2; c++) {
            u32 by = seen_by[j * 8 + 2 * (thread % 4) + c];
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float& x = score[j][half * 2 + c];
                x = sees((first + half * 8 + thread / 4) / RATIO, by) ? x : -infinity();
            }
        }
}
