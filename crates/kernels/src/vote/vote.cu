// Which query is the first to refuse an entry (the contract is in mod.rs), and the lowering that follows.
//
// Every entry belongs to one block or warp alone, for all queries of the launch: nobody else lowers it.

// MANY_COLUMNS: columns of 8 entries that a warp holds the key gates of, 64 registers at most; half of that where it
// does without many queries.
static_assert(MANY_COLUMNS * K_BLOCKS <= 16, "64 registers");
constexpr u32 FEW_COLUMNS = MANY_COLUMNS / 2;

// ---- few queries: a warp per page, and half tiles of query gates are made where they are needed --------------------

// One block on each multiprocessor that takes nearly half of it, so that the next kernel fits beside it.
constexpr u32 FEW_QUERIES = 8;
constexpr u32 FEW_TILE_BYTES = GATE_BYTES / 2 + (SCALED ? 64 : 0);
constexpr u32 KEY_BYTES = PAGE_ENTRIES * R * 2;
constexpr u32 PAGE_STAGE_BYTES = KEY_BYTES + 256;  // key gates, positions, lifetimes
static_assert(FEW_BYTES == FEW_TILE_BYTES + FEW_STAGES * PAGE_STAGE_BYTES, "the host gives a warp other room");
// Rows of keys of 128 bytes and more trade places in pairs, so that what 8 threads read at once is in different banks.
constexpr bool SWAPPED = R > 0 && R % 64 == 0;

// Page `page` of the line, which is in this place.
__device__ __forceinline__ Page page_at(const VoteArgs& args, const Place& place, u32 page) { return args.lanes.page(place.lane, page - place.first); }
// Whether this step has written nothing into it.
__device__ __forceinline__ bool is_old(const Place& place, u32 page) { return (page - place.first + 1) * PAGE_ENTRIES + place.queries <= place.length; }

// A copy of a page's key gates and positions; then of its lifetimes.
__device__ __forceinline__ void fetch_keys(Page page, const u8* stage) {
    const u32 thread = threadIdx.x % 32, shared = shared_address(stage);
#pragma unroll
    for (u32 i = 0; i < KEY_BYTES / 16; i += 32) {
        const u32 chunk = i + thread, place = SWAPPED ? chunk ^ (chunk / (R / 8 + !SWAPPED) % 2 * 4) : chunk;
        if (i + 32 <= KEY_BYTES / 16 || chunk < KEY_BYTES / 16) copy16(shared + place * 16, page.base + SIDE_OFFSET + chunk * 16);
    }
    if (thread < 8) copy16(shared + KEY_BYTES + thread * 16, page.base + POSITION_OFFSET + thread * 16);
}
__device__ __forceinline__ void fetch_lifetimes(Page page, const u8* stage) {
    const u32 thread = threadIdx.x % 32;
    if (thread < 8) copy16(shared_address(stage) + KEY_BYTES + 128 + thread * 16, page.base + LIFETIME_OFFSET + thread * 16);
}

// Splits the gates of the place's queries from `first` on, 8 at most.
template <typename T> __device__ __forceinline__ void split_few(const VoteArgs& args, const Place& span, u32 head, u32 first, u8* tile) {
    const u32 query = first + threadIdx.x % 32 / 4;
    const float* row = args.gates + (u64)(span.first_row + query) * 2 * args.heads * R + head * R;
    __syncwarp();
    split_row<T, 1>(query < span.queries ? row : nullptr, tile, 0);
    __syncwarp();
}

// Every thread waits for the kernel before; what it does not write is fetched first.
template <typename T> __device__ __forceinline__ void vote_few(const VoteArgs& args, u8* shared, Ballot<32>& ballot, u32 worker, u32 workers) {
    constexpr u32 ENTRIES = FEW_COLUMNS * 8;
    u8 *tile = shared, *stages = shared + FEW_TILE_BYTES;
    const u32 thread = threadIdx.x % 32, total = args.first_pages[args.units];
    const u32 begin = (u64)total * worker / workers, end = (u64)total * (worker + 1) / workers;
    if (begin == end) {
        wait_for_previous();
        return;
    }
    Place place = seek(args, begin), ahead = place;
    u32 fetched = 0;
#pragma unroll
    for (u32 i = 0; i < FEW_STAGES; i++) {
        if (begin + i >= end) break;
        if (begin + i >= ahead.first + ahead.pages) ahead = seek(args, begin + i);
        if (!is_old(ahead, begin + i)) continue;
        fetch_keys(page_at(args, ahead, begin + i), stages + i * PAGE_STAGE_BYTES);
        fetched |= 1u << i;
    }
    wait_for_previous();
    let_next_start();
    ahead = place;
    auto fetch = [&](u32 page, bool keys) {
        if (page < end) {
            if (page >= ahead.first + ahead.pages) ahead = seek(args, page);
            const Page held = page_at(args, ahead, page);
            u8* stage = stages + (page - begin) % FEW_STAGES * PAGE_STAGE_BYTES;
            if (keys) fetch_keys(held, stage);
            fetch_lifetimes(held, stage);
        }
        commit_copies();
    };
#pragma unroll
    for (u32 i = 0; i < FEW_STAGES; i++) fetch(begin + i, (fetched >> i & 1) == 0);
    u32 head = 0;
    float threshold = 0;
    for (u32 page = begin; page < end; page++) {
        if (page == begin || page >= place.first + place.pages) {
            if (page != begin) place = seek(args, page);
            head = args.heads > 1 ? place.unit % GROUPS : 0;
            threshold = -args.bias[head] * args.root;
            if (place.queries <= FEW_QUERIES) split_few<T>(args, place, head, 0, tile);
        }
        const u8* stage = stages + (page - begin) % FEW_STAGES * PAGE_STAGE_BYTES;
        const u32* positions = (const u32*)(stage + KEY_BYTES);
        wait_copies<FEW_STAGES - 1>();
        __syncwarp();
#pragma unroll 1
        for (u32 slot = 0; slot < PAGE_ENTRIES; slot += ENTRIES) {
            uint4 keys[FEW_COLUMNS][K_BLOCKS];
#pragma unroll
            for (u32 c = 0; c < FEW_COLUMNS; c++) {
                const u32 row = slot + 8 * c + thread / 4;
#pragma unroll
                for (u32 block = 0; block < K_BLOCKS; block++) {
                    const u32 k = block * 32 + thread % 4 * 8;
                    keys[c][block] = load_keys<T>((const T*)stage + row * R, SWAPPED ? k ^ (row % 2 * 32) : k);
                }
            }
            const u32 own = slot + thread;
            const bool is_entry = thread < ENTRIES && (page - place.first) * PAGE_ENTRIES + own < place.length;
            u32 position = 0;
            if (thread < ENTRIES) {
                position = positions[own];
                ballot.set(thread, is_entry, position, positions[PAGE_ENTRIES + own]);
            }
            __syncwarp();
            for (u32 query = 0; query < place.queries; query += FEW_QUERIES) {
                const u32 n = place.position + query, rows = min(FEW_QUERIES, place.queries - query);
                const u32 open = open_entries<FEW_COLUMNS>(ballot, 0, n, n + rows - 1);
                if (!__any_sync(ALL, open != 0)) continue;
                if (place.queries > FEW_QUERIES) split_few<T>(args, place, head, query, tile);
                // The tile's other rows are zeros, which refuse unless the bias is positive.
                const u32 known = thread / 4 < rows ? 0x33333333u : 0;
                const u32 mask = open & known & refusals<T, FEW_COLUMNS, 1>(tile, keys, threshold);
                settle(ballot, 0, mask, n, 0, rows);
                __syncwarp();
            }
            if (is_entry && args.lower) {
                const u32 n = ballot.refused_by[thread];
                if (n != NEVER) lower(page_at(args, place, page), own, position, n, n, args.floors);
            }
            __syncwarp();
        }
        fetch(page + FEW_STAGES, true);
    }
}

extern "C" __global__ void __launch_bounds__(32 * FEW_WARPS, 16 / FEW_WARPS) vote_few(VoteArgs args) {
    if constexpr (IS_HALF) {
        extern __shared__ __align__(16) u8 shared[];
        __shared__ __align__(16) Ballot<32> ballots[FEW_WARPS];
        const u32 warp = threadIdx.x / 32;
        vote_few<Half>(args, shared + warp * FEW_BYTES, ballots[warp], warp * gridDim.x + blockIdx.x, FEW_WARPS * gridDim.x);
    } else {
        wait_for_previous();
    }
}

// ---- many queries: their gates are split once, and a block walks them past a few pages ----------------------

constexpr u32 MANY_WARPS = MANY_THREADS / 32;

// One warp per half of a tile and head.
extern "C" __global__ void __launch_bounds__(MANY_THREADS) split(VoteArgs args) {
    wait_for_previous();
    let_next_start();
    if constexpr (IS_HALF) {
        const u32 warp = blockIdx.x * MANY_WARPS + threadIdx.x / 32, half = warp % 2, head = warp / 2 % args.heads;
        const u32 tile = warp / 2 / args.heads, row = args.first_row + tile * TILE + half * 8 + threadIdx.x % 32 / 4;
        if (args.first_row + tile * TILE >= args.end_row) return;
        const float* gates = args.gates + (u64)row * 2 * args.heads * R + head * R;
        split_row<Half>(row < args.end_row ? gates : nullptr, args.tiles + ((u64)tile * args.heads + head) * TILE_BYTES, half);
    }
}

// A block's pages: what it reads of the queries' gates is shared by all their entries.
constexpr u32 BLOCK_ENTRIES = BLOCK_PAGES * PAGE_ENTRIES;
// The warps divide the block's entries among them, and the warps with the same entries take turns with the tiles.
constexpr u32 PARTITIONS = BLOCK_ENTRIES / (8 * MANY_COLUMNS);
static_assert(TURNS * PARTITIONS == MANY_WARPS, "the host makes room for other turns");
constexpr u32 STAGE_BYTES = TURNS * TILE_BYTES;
// Tiles for which it pays to load a block's keys once more.
constexpr u32 RANGE_TILES = 4 * TURNS;
static_assert(BLOCK_ENTRIES <= 32 * MANY_WARPS, "one thread per entry");

// Waits for the `threads` threads of barrier `id`; whether `wanted` held for any of them.
__device__ __forceinline__ bool meet_or(u32 id, u32 threads, bool wanted) {
    u32 any;
    __syncwarp();
    asm volatile("{ .reg .pred p, q; setp.ne.u32 p, %1, 0; bar.red.or.pred q, %2, %3, p; selp.u32 %0, 1, 0, q; }"
                 : "=r"(any)
                 : "r"((u32)wanted), "r"(id), "r"(threads)
                 : "memory");
    return any != 0;
}

// One of `ranges` parts of the queries of one span against a block's pages of one lane. With several parts, what each
// finds meets in `found`, one number per entry.
template <typename T>
__device__ __forceinline__ void vote_pages(const VoteArgs& args, const Place& span, u32 first_page, u32 pages, u32 range, u32 ranges, u32* found, u8* stages,
                                           Ballot<BLOCK_ENTRIES>& ballot, u32& lowest) {
    u32 row = max(span.first_row, args.first_row);
    u32 end_row = min(span.first_row + span.queries, args.end_row);
    if (row >= end_row) return;
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32, head = args.heads > 1 ? span.unit % GROUPS : 0;
    const u32 lane = span.lane, length = span.length;
    const float threshold = -args.bias[head] * args.root;
    const u32 first_query = span.position - span.first_row;  // of row 0, if it were the span's; may wrap

    if (threadIdx.x == 0) lowest = NEVER;
    __syncthreads();
    u32 position = NEVER;
    if (threadIdx.x < BLOCK_ENTRIES) {
        const u32 entry = first_page * PAGE_ENTRIES + threadIdx.x;
        const bool is_entry = threadIdx.x / 32 < pages && entry < length;
        u32 expires = 0;
        if (is_entry) {
            const Page page = args.lanes.page(lane, entry / PAGE_ENTRIES);
            position = page.positions()[thread], expires = page.expires_at()[thread];
        }
        ballot.set(threadIdx.x, is_entry, position, expires);
        // Parts before this one may have come to an end.
        if (ranges > 1 && is_entry) ballot.refused_by[threadIdx.x] = *(volatile u32*)(found + threadIdx.x);
        const u32 least = __reduce_min_sync(ALL, position);
        if (thread == 0) atomicMin(&lowest, least);
    }
    __syncthreads();
    // Nobody votes on what comes after it: begin behind the first entry.
    const u32 before = lowest;
    if (before >= first_query + end_row - 1) return;
    if (first_query + row <= before) row += before + 1 - (first_query + row);
    if (ranges > 1) {
        const u32 first = (row - args.first_row) / TILE, tiles = (end_row - args.first_row + TILE - 1) / TILE - first;
        row = max(row, args.first_row + (first + tiles * range / ranges) * TILE);
        end_row = min(end_row, args.first_row + (first + tiles * (range + 1) / ranges) * TILE);
        if (row >= end_row) return;
    }
    const u32 last_query = first_query + end_row - 1;

    const u32 first_entry = warp % PARTITIONS * 8 * MANY_COLUMNS, turn = warp / PARTITIONS;
    uint4 keys[MANY_COLUMNS][K_BLOCKS];
#pragma unroll
    for (u32 c = 0; c < MANY_COLUMNS; c++) {
        const u32 entry = first_entry + 8 * c, page = entry / PAGE_ENTRIES;
        if (page < pages) {
            const Page held = args.lanes.page(lane, first_page + page);
#pragma unroll
            for (u32 block = 0; block < K_BLOCKS; block++) keys[c][block] = load_keys<T>(held, entry % PAGE_ENTRIES + thread / 4, block);
        } else {
#pragma unroll
            for (u32 block = 0; block < K_BLOCKS; block++) keys[c][block] = make_uint4(0, 0, 0, 0);
        }
    }

    // Tiles of this turn alone: its warps copy them, and only they wait for each other.
    const u32 first_tile = (row - args.first_row) / TILE + turn, end_tile = (end_row - args.first_row + TILE - 1) / TILE;
    const u32 steps = first_tile < end_tile ? (end_tile - first_tile + TURNS - 1) / TURNS : 0;
    constexpr u32 TURN_THREADS = 32 * PARTITIONS, CHUNKS = TILE_BYTES / 16;
    const u32 place = threadIdx.x % TURN_THREADS;
    const u64 stride = (u64)args.heads * TILE_BYTES * TURNS;
    const u8* source = args.tiles + ((u64)first_tile * args.heads + head) * TILE_BYTES + place * 16;
    u8* stage = stages + turn * TILE_BYTES;
    const u32 target = shared_address(stage) + place * 16;
    auto fetch = [&](u32 step) {
        if (step < steps) {
            const u32 shared = target + step % STAGES * STAGE_BYTES;
#pragma unroll
            for (u32 i = 0; i < CHUNKS; i += TURN_THREADS) {
                if (i + TURN_THREADS <= CHUNKS || i + place < CHUNKS) copy16(shared + i * 16, source + i * 16);
            }
            source += stride;
        }
        commit_copies();
    };
#pragma unroll
    for (u32 step = 0; step + 1 < STAGES; step++) fetch(step);
    u32 open = open_entries<MANY_COLUMNS>(ballot, first_entry, first_query + row, last_query);
    for (u32 step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        // The turn's copies of this step are there, all its warps are done with the stage that is filled next, and if
        // every entry has its answer none of them goes on.
        if (!meet_or(1 + turn, TURN_THREADS, open != 0)) break;
        fetch(step + STAGES - 1);
        if (!__any_sync(ALL, open != 0)) continue;
        const u32 tile_row = args.first_row + (first_tile + step * TURNS) * TILE;
        const u32 low = row > tile_row ? row - tile_row : 0, high = min(end_row - tile_row, TILE);
        const u32 mask = open & refusals<T, MANY_COLUMNS>(stage + step % STAGES * STAGE_BYTES, keys, threshold);
        const bool refused = __any_sync(ALL, mask != 0);
        if (refused) {
            settle(ballot, first_entry, mask, first_query + tile_row, low, high);
            __syncwarp();
        }
        // Now and then also what the other warps have found.
        if (refused || step % 8 == 7) {
            open = open_entries<MANY_COLUMNS>(ballot, first_entry, first_query + tile_row + low, last_query);
        }
    }
    wait_copies<0>();
    __syncthreads();
    if (threadIdx.x < BLOCK_ENTRIES) {
        const u32 n = ballot.refused_by[threadIdx.x];
        if (n == NEVER) return;
        if (ranges > 1) {
            atomicMin(found + threadIdx.x, n);
        } else if (args.lower) {
            lower(args.lanes.page(lane, first_page + threadIdx.x / 32), thread, position, n, n, args.floors);
        }
    }
}

// Where there are too few pages to fill the device, several blocks share a group of pages and divide the queries among
// them; the last one to end lowers. Earlier queries come first, so that later blocks know what they have refused.
extern "C" __global__ void __launch_bounds__(MANY_THREADS, 2) vote_many(VoteArgs args) {
    wait_for_previous();
    let_next_start();
    if constexpr (IS_HALF) {
        extern __shared__ __align__(16) u8 stages[];
        __shared__ __align__(16) Ballot<BLOCK_ENTRIES> ballot;
        __shared__ u32 lowest;
        const u32 total = args.first_pages[args.units], groups = (total + BLOCK_PAGES - 1) / BLOCK_PAGES;
        if (groups == 0) return;
        const u32 tiles = (args.end_row - args.first_row + TILE - 1) / TILE;
        const u32 ranges = groups > args.room ? 1 : max(min(gridDim.x / groups, tiles / RANGE_TILES), 1u);
        for (u32 item = blockIdx.x; item < groups * ranges; item += gridDim.x) {
            const u32 group = item % groups;
            const u32 begin = group * BLOCK_PAGES, end = min(begin + BLOCK_PAGES, total);
            u32* found = args.found + group * BLOCK_ENTRIES;
            // Calls f(lane's place, its first page here, how many, the first of them in this block).
            auto each = [&](auto f) {
                for (u32 page = begin; page < end;) {
                    const Place place = seek(args, page);
                    const u32 stop = min(place.first + place.pages, end);
                    f(place, page - place.first, stop - page, page - begin);
                    page = stop;
                }
            };
            each([&](const Place& place, u32 first, u32 pages, u32 before) {
                __syncthreads();
                vote_pages<Half>(args, place, first, pages, item / groups, ranges, found + before * PAGE_ENTRIES, stages, ballot, lowest);
            });
            if (ranges == 1) continue;
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) {
                lowest = atomicAdd(args.tickets + group, 1);
                __threadfence();
            }
            __syncthreads();
            if (lowest != ranges - 1) continue;
            each([&](const Place& place, u32 first, u32 pages, u32 before) {
                if (threadIdx.x >= pages * PAGE_ENTRIES) return;
                const u32 n = atomicExch(found + before * PAGE_ENTRIES + threadIdx.x, NEVER);
                if (n == NEVER || !args.lower) return;
                const Page page = args.lanes.page(place.lane, first + threadIdx.x / 32);
                lower(page, threadIdx.x % 32, page.positions()[threadIdx.x % 32], n, n, args.floors);
            });
            if (threadIdx.x == 0) args.tickets[group] = 0;
        }
    }
}

// ---- f32 caches: one chain of multiply-adds per query and entry, a warp per page ----------------------------------

constexpr u32 PLAIN_STRIDE = PAGE_ENTRIES + 1;  // so that rows of keys spread over the banks

extern "C" __global__ void __launch_bounds__(32 * PLAIN_WARPS) vote_plain(VoteArgs args) {
    wait_for_previous();
    let_next_start();
    if constexpr (CACHE_TYPE == 0 && SIDE_WIDTH > 0) {
        constexpr u32 AT_ONCE = 4;
        extern __shared__ __align__(16) u8 panels[];
        float* keys = (float*)panels + threadIdx.x / 32 * (R * PLAIN_STRIDE);  // [r][33]
        const u32 thread = threadIdx.x % 32, total = args.first_pages[args.units];
        const u32 worker = threadIdx.x / 32 * gridDim.x + blockIdx.x, workers = PLAIN_WARPS * gridDim.x;
        const u64 pitch = 2ull * args.heads * R;
        const u32 end = (u64)total * (worker + 1) / workers;
        for (u32 page = (u64)total * worker / workers; page < end; page++) {
            const Place span = seek(args, page);
            const u32 head = args.heads > 1 ? span.unit % GROUPS : 0;
            const bool is_entry = (page - span.first) * PAGE_ENTRIES + thread < span.length;
            const float threshold = -args.bias[head] * args.root;
            const Page held = page_at(args, span, page);
            const float* side = (const float*)(held.base + SIDE_OFFSET);
            __syncwarp();
            for (u32 i = thread; i < PAGE_ENTRIES * R; i += 32) keys[i % R * PLAIN_STRIDE + i / R] = side[i];
            __syncwarp();
            const u32 position = is_entry ? held.positions()[thread] : NEVER, expires = held.expires_at()[thread];
            u32 refused_by = NEVER;
            const u32 lowest = __reduce_min_sync(ALL, position);
            u32 query = lowest < span.position ? 0 : lowest - span.position + 1;
            if (lowest == NEVER) query = span.queries;
            for (; query < span.queries; query += AT_ONCE) {
                const u32 n = span.position + query, last = span.queries - 1;
                if (!__any_sync(ALL, is_entry && refused_by == NEVER && expires > n)) break;
                const float* rows[AT_ONCE];
                float sums[AT_ONCE];
#pragma unroll
                for (u32 i = 0; i < AT_ONCE; i++) {
                    rows[i] = args.gates + (span.first_row + min(query + i, last)) * pitch + head * R;
                    sums[i] = 0;
                }
#pragma unroll 4
                for (u32 k = 0; k < R; k++) {
                    const float key = keys[k * PLAIN_STRIDE + thread];
#pragma unroll
                    for (u32 i = 0; i < AT_ONCE; i++) sums[i] = fmaf(rows[i][k], key, sums[i]);
                }
#pragma unroll
                for (u32 i = 0; i < AT_ONCE; i++) {
                    const bool votes = query + i <= last && position < n + i && n + i < expires;
                    if (is_entry && votes && !(sums[i] > threshold)) refused_by = min(refused_by, n + i);
                }
            }
            if (is_entry && refused_by != NEVER && args.lower) lower(held, thread, position, refused_by, refused_by, args.floors);
        }
    }
}
