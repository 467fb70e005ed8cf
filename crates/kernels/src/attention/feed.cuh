// The reading side of `decode.cu`: which pages a block and a warp own, and the ring of tiles that they go through.

// A block takes at most half of a multiprocessor where kernels overlap, so that the kernel before still runs while this
// one's first tiles are on their way, and the next kernel's while this one runs.
//
// Tiles: keys or values of a page, or their codes and steps, then room for the positions and lifetimes beside keys, which are the longer
// ones. WARPS and TILES, the tiles of each warp's ring, come from `DecodePlan`.
constexpr u32 KNOWN_AT = PAGE_ENTRIES * (CODED ? KEY_ROW + 4 * KEY_GROUPS : ROW_BYTES);
constexpr u32 TILE_BYTES = KNOWN_AT + 256;
constexpr u32 RING_BYTES = TILES * TILE_BYTES;
static_assert(!DECODES || WARPS * RING_BYTES == RINGS_BYTES, "the host gives the rings other room");
constexpr u32 THREADS = 32 * WARPS;
// A block with fewer pages than this would cost more in the sum than it saves in the reading.
constexpr u32 FEWEST_PAGES = WARPS;
static_assert(TILES >= 3, "a tile is read while two are on their way");
static_assert(MEMBERS * D * 4 <= TILES * TILE_BYTES, "a warp's last part is left in its ring");

struct DecodeArgs {
    Lanes lanes;
    const Span* spans;
    const u32* first_pages; // of this layer: [units + 1]
    const W* qkv;
    W* mixed;
    float* parts;           // [blocks + units][MEMBERS][D], part of a block in a unit at block + unit; see `parts.cuh`
    float2* part_stats;     // [blocks + units][MEMBERS]: maximum and sum
    float* warp_parts;      // [blocks][WARPS][MEMBERS][D]
    float* told;            // scores in log2, [pages * LANE_HEADS][32][MEMBERS] in the order of the line; or none
    float2* told_stats;     // [units * LANE_HEADS][MEMBERS]: what `join` knows of each query head of the layer; or none
    u32 layer, units;
    float scale;
};

struct Share {
    u32 begin, end;
};
// Part `part` of `total` things cut into `parts`, the first ones longer by one.
__device__ __forceinline__ Share share_of(u32 total, u32 parts, u32 part) {
    u32 each = total / parts, more = total - each * parts;
    u32 begin = part * each + min(part, more);
    return Share{begin, begin + each + (part < more ? 1 : 0)};
}
__device__ __forceinline__ u32 part_with(u32 total, u32 parts, u32 thing) {
    u32 each = total / parts, more = total - each * parts, longer = more * (each + 1);
    return thing < longer ? thing / (each + 1) : more + (thing - longer) / each;
}

// A load that the first-level cache does not answer: what other kernels wrote while this one was there already.
__device__ __forceinline__ uint4 load_fresh(const uint4* from) {
    uint4 x;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from)
                 : "memory");
    return x;
}
__device__ __forceinline__ u32 load_fresh(const u32* from) {
    u32 x;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}
__device__ __forceinline__ void prefetch(const void* from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// What an early tile lacks, because the step writes it: a lane's last entry, and of keys what is known of their page.
struct Lack {
    const u8* row;   // this thread's chunk of the last entry; null if the tile is without it
    const u8* known; // positions, then lifetimes; null for values
    u32 to;          // where the chunk goes
};

// The reading side of a warp: which tile comes next, and into which slot of the ring.
//
// Early tiles are asked for before `wait_for_previous`. Until then the last entry of a lane and all lifetimes may still
// be written; `complete` adds them.
struct Feed {
    Place place;
    u32 head, page, left;
    u32 table, table_page; // this thread's of 32 page numbers, from page `table_page` on
    u32 slot, count;
    const u8* page_base;

    template <bool EARLY> __device__ __forceinline__ void keys(const DecodeArgs& a, u32 ring, Lack& lack) {
        if (left > 0) {
            u32 thread = threadIdx.x & 31;
            if (page - table_page >= 32) {
                table_page = page;
                u32 mine = page + thread;
                table = mine < place.pages ? a.lanes.tables[(u64)place.lane * a.lanes.max_pages + mine] : 0;
            }
            page_base = a.lanes.pages + (u64)__shfl_sync(ALL, table, page - table_page) * PAGE_BYTES;
            count = place.length - page * PAGE_ENTRIES;
            u32 tile = ring + slot * TILE_BYTES;
            const u8* known = page_base + POSITION_OFFSET;
            const Page from{(u8*)page_base};
            if constexpr (CODED) copy_codes<EARLY, KEY_ROW, KEY_GROUPS>(tile, from.key_codes(head), from.key_steps(head), lack);
            else copy<EARLY>(tile, page_base + head * HEAD_BYTES, lack);
            if constexpr (EARLY) {
                lack.known = known;
                if (thread < 2) prefetch(known + thread * 128);
            } else if (thread < 16) {
                copy16(tile + KNOWN_AT + thread * 16, known + thread * 16);
            }
        }
        step();
    }
    template <bool EARLY> __device__ __forceinline__ void values(const DecodeArgs& a, u32 ring, Lack& lack) {
        if (left > 0) {
            u32 tile = ring + slot * TILE_BYTES;
            const Page from{(u8*)page_base};
            if constexpr (CODED) copy_codes<EARLY, VALUE_ROW, VALUE_GROUPS>(tile, from.value_codes(head), from.value_steps(head), lack);
            else copy<EARLY>(tile, page_base + head * HEAD_BYTES + PAGE_ENTRIES * D * 2, lack);
            left -= 1;
            page += 1;
            if (page == place.pages) {
                page = 0;
                head += 1;
                if (head == LANE_HEADS && left > 0) {
                    place = seek(a, place.first + place.pages);
                    head = 0;
                    table_page = NEVER - 64; // far from every page
                }
            }
        }
        step();
    }
    __device__ __forceinline__ void keys(const DecodeArgs& a, u32 ring) {
        Lack none;
        keys<false>(a, ring, none);
    }
    __device__ __forceinline__ void values(const DecodeArgs& a, u32 ring) {
        Lack none;
        values<false>(a, ring, none);
    }
    // What lies behind the last entry may be anything, and 0 times NaN is not 0: it is read as zeros.
    template <bool EARLY> __device__ __forceinline__ void copy(u32 tile, const u8* source, Lack& lack) {
        u32 thread = threadIdx.x & 31;
        // A page that is not the lane's last holds no new entry.
        u32 newest = EARLY && count <= PAGE_ENTRIES ? count - 1 : NEVER;
#pragma unroll
        for (u32 i = 0; i < CHUNKS; i++) {
            u32 chunk = i * 32 + thread, row = chunk / CHUNKS;
            if (row != newest) {
                copy16(tile + chunk_offset(row, chunk % CHUNKS), source + chunk * 16, row < count ? 16 : 0);
            }
        }
        if (EARLY && newest != NEVER && thread < CHUNKS) {
            lack.row = source + (newest * CHUNKS + thread) * 16;
            lack.to = tile + chunk_offset(newest, thread);
        }
    }
    // Rows of codes, their chunks in the places of `code_offset`, then their steps. Early copies leave out all that a new entry's are in.
    template <bool EARLY, u32 ROW, u32 OF_ENTRY>
    __device__ __forceinline__ void copy_codes(u32 tile, const u8* rows, const u32* steps, Lack& lack) {
        constexpr u32 OF_ROW = ROW < 16 ? 1 : ROW / 16, BYTES = 4 * OF_ENTRY;
        const u32 thread = threadIdx.x & 31, newest = EARLY && count <= PAGE_ENTRIES ? count - 1 : NEVER;
        const u8* all_steps = (const u8*)steps;
        const u32 steps_to = tile + PAGE_ENTRIES * ROW;
#pragma unroll
        for (u32 i = 0; i < OF_ROW; i++) {
            const u32 chunk = i * 32 + thread, row = chunk / OF_ROW;
            if (row != newest) copy16(tile + code_offset<ROW>(row, chunk % OF_ROW), rows + chunk * 16, row < count ? 16 : 0);
        }
        // Of the 16 bytes of steps that hold some of the new entry's.
        const u32 first = newest * BYTES / 16, last = (newest * BYTES + BYTES - 1) / 16;
#pragma unroll
        for (u32 i = thread; i < PAGE_ENTRIES * BYTES / 16; i += 32) {
            if (newest == NEVER || i < first || i > last) copy16(steps_to + i * 16, all_steps + i * 16, i * 16 < count * BYTES ? 16 : 0);
        }
        if (EARLY && newest != NEVER) {
            const u32 more = first + thread - 16;
            if (thread < OF_ROW) {
                lack.row = rows + (newest * OF_ROW + thread) * 16;
                lack.to = tile + code_offset<ROW>(newest, thread);
            } else if (thread >= 16 && more <= last) {
                lack.row = all_steps + more * 16;
                lack.to = steps_to + more * 16;
            }
        }
    }
    __device__ __forceinline__ void step() {
        commit_copies();
        slot = slot + 1 == TILES ? 0 : slot + 1;
    }
};

// The first tiles of a warp, all slots of its ring.
__device__ __forceinline__ void ask_early(const DecodeArgs& a, Feed& feed, u32 ring, Lack (&lacks)[TILES]) {
#pragma unroll
    for (u32 i = 0; i < TILES; i++) {
        lacks[i] = Lack{nullptr, nullptr, 0};
        if (i % 2 == 0) feed.keys<true>(a, ring, lacks[i]);
        else feed.values<true>(a, ring, lacks[i]);
    }
}
// What they lacked, in two parts: the loads, and where they go.
struct Late {
    uint4 row;
    u32 position, lifetime;
};
__device__ __forceinline__ void load_late(const Lack (&lacks)[TILES], Late (&late)[TILES]) {
    u32 thread = threadIdx.x & 31;
#pragma unroll
    for (u32 i = 0; i < TILES; i++) {
        if (lacks[i].row) late[i].row = load_fresh((const uint4*)lacks[i].row);
        if (i % 2 == 0 && lacks[i].known) {
            late[i].position = load_fresh((const u32*)lacks[i].known + thread);
            late[i].lifetime = load_fresh((const u32*)lacks[i].known + 32 + thread);
        }
    }
}
__device__ __forceinline__ void store_late(u8* ring_memory, u32 ring, const Lack (&lacks)[TILES],
                                           const Late (&late)[TILES]) {
    u32 thread = threadIdx.x & 31;
#pragma unroll
    for (u32 i = 0; i < TILES; i++) {
        if (lacks[i].row) *(uint4*)(ring_memory + (lacks[i].to - ring)) = late[i].row;
        if (i % 2 == 0 && lacks[i].known) {
            u32* known = (u32*)(ring_memory + i * TILE_BYTES + KNOWN_AT);
            known[thread] = late[i].position;
            known[32 + thread] = late[i].lifetime;
        }
    }
}
