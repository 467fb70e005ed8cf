// Attention of a decode step over a cache of 16 bits or of codes: one query per sequence, bound by reading keys and values once.
//
// The pages of a layer lie in one line: lane after lane, in a lane head after head. Blocks own equal pieces of the line
// and in a block each warp an equal piece, so that ragged lanes balance and no launch parameter depends on a length. A
// warp has its own ring of tiles that `cp.async` fills across the borders of units; a unit is one KV head of one lane.
//
// A query's RATIO heads are the columns of the products: S^T [32, 8] = K q^T and O^T [d, 8] = V^T P^T, which needs half
// the products and half the registers of the other way round, whose 16 rows would be mostly padding.
//
// A unit that one warp owns is written at once. The parts of others meet in shared memory, and those that several
// blocks own in device memory.

__device__ __forceinline__ void decode(const DecodeArgs& a) {
    extern __shared__ __align__(128) u8 rings[];
    __shared__ Parts parts;

    // Before `wait_for_previous`, only what this layer's kernels do not write is read: where lanes lie, and entries
    // other than the step's own.
    let_next_start();
    u32 warp = threadIdx.x / 32, thread = threadIdx.x & 31;
    Probe probe = look(a, 0, a.units);
    u32 total = a.first_pages[a.units] * LANE_HEADS;
    // Lanes without a page are nobody's in the line; their queries get zeros below.
    bool empty = false;
    for (u32 i = blockIdx.x + threadIdx.x * gridDim.x; i < a.units; i += gridDim.x * THREADS) {
        u32 slot = a.spans[i / GROUPS].slot;
        empty |= a.first_pages[i] == a.first_pages[i + 1] && a.lanes.has(slot);
    }
    u32 blocks = min(gridDim.x, (total + FEWEST_PAGES - 1) / FEWEST_PAGES);
    Share block = blockIdx.x < blocks ? share_of(total, blocks, blockIdx.x) : Share{0, 0};
    Share own = share_of(block.end - block.begin, WARPS, warp);
    u32 remaining = own.end - own.begin;
    u8* ring_memory = rings + warp * RING_BYTES;
    u32 ring = shared_address(ring_memory);
    float scale = a.scale * LOG2_E;
    if (thread < 2) parts.left[2 * warp + thread].unit = NEVER;
    __syncwarp();

    if (remaining > 0) {
        u32 begin = block.begin + own.begin;
        Feed feed;
        feed.place = seek(a, probe, begin / LANE_HEADS);
        u32 offset = begin - feed.place.first * LANE_HEADS;
        feed.head = offset / feed.place.pages;
        feed.page = offset - feed.head * feed.place.pages;
        feed.left = remaining;
        feed.table = 0;
        feed.table_page = NEVER - 64;
        feed.slot = 0;
        feed.count = 0;
        feed.page_base = nullptr;
        Place place = feed.place;
        u32 head = feed.head, page = feed.page, slot = 0;
        u32 heads = ((place.unit % GROUPS) * LANE_HEADS + head) * RATIO;
        Pick<CODED, CodedState, State>::type state;
        {
            Lack lacks[TILES];
            Late late[TILES];
            ask_early(a, feed, ring, lacks);
            wait_for_previous();
            load_late(lacks, late);
            state.begin(a.qkv + (u64)place.first_row * QKV_STRIDE + heads * D);
            store_late(ring_memory, ring, lacks, late);
        }
        while (true) {
            u32 pages = min(remaining, place.pages - page);
            for (u32 i = 0; i < pages; i++) {
                decltype(state)::Weights weights;
                wait_copies<TILES - 1>();
                __syncwarp();
                const u32* known = (const u32*)(ring_memory + slot * TILE_BYTES + KNOWN_AT);
                u32 count = place.length - (page + i) * PAGE_ENTRIES;
                u32 seen = __ballot_sync(ALL, thread < count && known[thread] <= place.position &&
                                                  place.position < known[32 + thread]);
                float* told = nullptr;
                if constexpr (STATISTICS > 0) {
                    u64 line = (u64)place.first * LANE_HEADS + head * place.pages + page + i;
                    if (a.told) told = a.told + line * PAGE_ENTRIES * MEMBERS;
                }
                if (seen != 0 || told) state.keys(ring_memory + slot * TILE_BYTES, seen, scale, told, weights);
                __syncwarp();
                if constexpr (TILES % 2 == 0) feed.keys(a, ring);
                else feed.values(a, ring);
                slot = slot + 1 == TILES ? 0 : slot + 1;

                wait_copies<TILES - 1>();
                __syncwarp();
                if (seen != 0) state.values(ring_memory + slot * TILE_BYTES, seen, weights);
                __syncwarp();
                if constexpr (TILES % 2 == 0) feed.values(a, ring);
                else feed.keys(a, ring);
                slot = slot + 1 == TILES ? 0 : slot + 1;
            }
            remaining -= pages;
            state.end();
            u32 out = place.first_row * MIXED_STRIDE + heads * D;
            if (pages == place.pages) {
                W* rows = a.mixed + out;
                state.each([=](u32 member, u32 column, float x, float sum) {
                    rows[member * D + column] = narrow<W>(x * inverse(sum));
                });
                if constexpr (STATISTICS > 0) {
                    if (a.told) state.leave_stats((Stats*)a.told_stats + (place.unit * LANE_HEADS + head) * MEMBERS);
                }
            } else {
                // A unit in the middle of a warp's piece is whole, so this is its first or its last.
                u32 to = 2 * warp + (remaining == 0 ? 1 : 0);
                float* part = remaining == 0 ? (float*)ring_memory
                                             : a.warp_parts + (u64)(blockIdx.x * WARPS + warp) * MEMBERS * D;
                state.each([=](u32 member, u32 column, float x, float) { part[member * D + column] = x; });
                state.leave_stats(parts.stats[to]);
                if (thread == 0) {
                    u32 first = place.first * LANE_HEADS + head * place.pages;
                    parts.left[to] = Left{place.unit * LANE_HEADS + head, first, place.pages, out};
                }
            }
            if (remaining == 0) break;
            page = 0;
            head += 1;
            if (head == LANE_HEADS) {
                // The feed is mostly there already.
                u32 next = place.first + place.pages;
                if (feed.place.first == next) place = feed.place;
                else place = seek(a, next);
                head = 0;
            }
            heads = ((place.unit % GROUPS) * LANE_HEADS + head) * RATIO;
            state.begin(a.qkv + (u64)place.first_row * QKV_STRIDE + heads * D);
        }
    } else {
        wait_for_previous();
    }

    if (__syncthreads_or(empty)) {
        for (u32 i = blockIdx.x; i < a.units; i += gridDim.x) {
            Span span = a.spans[i / GROUPS];
            if (!a.lanes.has(span.slot) || a.first_pages[i] != a.first_pages[i + 1]) continue;
            W* rows = a.mixed + (u64)span.first_row * MIXED_STRIDE + (i % GROUPS) * LANE_HEADS * RATIO * D;
            for (u32 j = threadIdx.x; j < LANE_HEADS * RATIO * D; j += THREADS) rows[j] = narrow<W>(0.0f);
        }
    }
    join(a, block, total, blocks, parts, [&](u32 slot) -> const float* {
        u32 owner = slot / 2;
        return slot % 2 ? (const float*)(rings + owner * RING_BYTES)
                        : a.warp_parts + (u64)(blockIdx.x * WARPS + owner) * MEMBERS * D;
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_decode(const __grid_constant__ DecodeArgs a) {
    if constexpr (DECODES) decode(a);
    else wait_for_previous();
}
