// Lanes that lose entries.

// Of a slot whose pages held all that they were given.
constexpr u64 NO_OVERFLOW = ~0ull;

struct DeathRecord {
    u32 slot, layer, group, position, expires_at, killer;
};
struct ReclaimArgs {
    Lanes lanes;
    const Span* spans;
    u32* status;          // [2 + SPAN_WORDS * spans]: free pages, lanes that could not grow, then for each span its sums
                          // and the two halves of its slot's overflow
    u32* totals;          // [1 + 3 * spans]: a ticket, then the sums; zero before and after
    DeathRecord* deaths;  // null: nobody wants to know
    u32* death_count;
    u32 death_capacity;
};

// Pages that are looked at together where entries move: one per thread.
constexpr u32 WINDOW = THREADS;

// Some entries of WINDOW pages, in order: which of each page, and how many there are before it.
struct Selection {
    u32 masks[WINDOW];
    u32 before[WINDOW];
};

struct Shared {
    u32 dead;              // entries of the lane that are dead
    u32 dead_masks[WINDOW];  // the first pages' dead, so that a lane of 8192 entries is read once
    u32 warp_sums[THREADS / 32];
    u32 base;
    Selection holes, sources;
    u64 targets[THREADS], origins[THREADS];  // pages of the entries that move now
    u32 slots[THREADS];                      // target | origin << 16
};

// A lane as its block sees it.
struct Sweep {
    const Lanes& lanes;
    u32 lane, length, now;
    __device__ __forceinline__ u32 pages() const { return (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES; }
    __device__ __forceinline__ const u32* table() const { return lanes.tables + (u64)lane * lanes.max_pages; }
    // Slots of page p that hold an entry below `end`.
    __device__ __forceinline__ static u32 below(u32 p, u32 end) {
        const u32 first = p * PAGE_ENTRIES;
        if (end <= first) return 0;
        return end - first >= PAGE_ENTRIES ? ALL : (1u << (end - first)) - 1;
    }
};

// Which slots of four lifetimes have ended.
__device__ __forceinline__ u32 ended(uint4 ends, u32 now) {
    return (u32)(ends.x <= now) | (u32)(ends.y <= now) << 1 | (u32)(ends.z <= now) << 2 | (u32)(ends.w <= now) << 3;
}

// The sum over the threads before this one, and `total` over all; every thread must come.
__device__ __forceinline__ u32 scan_block(u32 x, Shared& shared, u32& total) {
    const u32 thread = threadIdx.x % 32;
    u32 sum = x;
#pragma unroll
    for (u32 i = 1; i < 32; i *= 2) {
        const u32 before = __shfl_up_sync(ALL, sum, i);
        if (thread >= i) sum += before;
    }
    __syncthreads();
    if (thread == 31) shared.warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    u32 before = 0;
    total = 0;
#pragma unroll
    for (u32 i = 0; i < THREADS / 32; i++) {
        if (i < threadIdx.x / 32) before += shared.warp_sums[i];
        total += shared.warp_sums[i];
    }
    return before + sum - x;
}

// The dead of page p.
__device__ __forceinline__ u32 dead_of(const Sweep& sweep, const Shared& shared, u32 p) {
    if (p >= sweep.pages()) return 0;
    if (p < WINDOW) return shared.dead_masks[p];
    const uint4* ends = (const uint4*)sweep.lanes.page(sweep.lane, p).expires_at();
    u32 mask = 0;
#pragma unroll
    for (u32 i = 0; i < PAGE_ENTRIES / 4; i++) mask |= ended(ends[i], sweep.now) << (4 * i);
    return mask & Sweep::below(p, sweep.length);
}

// Selects dead entries below `live` (holes) or living ones from there on, in the window's pages from `first` on;
// gives their number. Every thread must come.
__device__ __forceinline__ u32 select(const Sweep& sweep, Shared& shared, Selection& selection, u32 first, u32 live, bool holes) {
    const u32 p = first + threadIdx.x, dead = dead_of(sweep, shared, p), low = Sweep::below(p, live);
    const u32 mask = holes ? dead & low : ~dead & ~low & Sweep::below(p, sweep.length);
    u32 total;
    const u32 before = scan_block(__popc(mask), shared, total);
    selection.masks[threadIdx.x] = mask;
    selection.before[threadIdx.x] = before;
    __syncthreads();
    return total;
}

// Page (of the window) and slot of the `rank`-th selected entry, of which there are more than `rank`.
__device__ __forceinline__ void find(const Selection& selection, u32 rank, u32& page, u32& slot) {
    u32 low = 0;
#pragma unroll
    for (u32 step = WINDOW / 2; step > 0; step /= 2) {
        if (selection.before[low + step] <= rank) low += step;
    }
    u32 mask = selection.masks[low];
    for (u32 left = rank - selection.before[low]; left > 0; left--) mask &= mask - 1;
    page = low;
    slot = __ffs(mask) - 1;
}

struct alignas(16) Bytes16 { u32 x[4]; };
template <u32 BYTES> struct Unit;
template <> struct Unit<16> { typedef Bytes16 type; };
template <> struct Unit<8> { typedef u64 type; };
template <> struct Unit<4> { typedef u32 type; };
template <> struct Unit<2> { typedef u16 type; };
__device__ constexpr u32 unit_of(u32 row) { return row % 16 == 0 ? 16 : row % 8 == 0 ? 8 : row % 4 == 0 ? 4 : 2; }

// Moves rows of ROW bytes of `count` entries; row i of a page's panel j lies at offset + j * 32 * ROW + i * ROW.
template <u32 ROW, u32 PANELS> __device__ __forceinline__ void move_rows(const Shared& shared, u32 count, u32 offset) {
    typedef typename Unit<unit_of(ROW)>::type V;
    constexpr u32 ROW_UNITS = ROW / sizeof(V), UNITS = ROW_UNITS * PANELS, AHEAD = 4;
    for (u32 first = threadIdx.x; first < count * UNITS; first += THREADS * AHEAD) {
        V parts[AHEAD];
        u8* targets[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 unit = first + i * THREADS;
            targets[i] = nullptr;
            if (unit < count * UNITS) {
                const u32 pair = unit / UNITS, part = unit % UNITS;
                const u32 place = offset + part / ROW_UNITS * (PAGE_ENTRIES * ROW) + part % ROW_UNITS * (u32)sizeof(V);
                const u32 slots = shared.slots[pair];
                parts[i] = *(const V*)((const u8*)shared.origins[pair] + place + (slots >> 16) * ROW);
                targets[i] = (u8*)shared.targets[pair] + place + (slots & 0xffff) * ROW;
            }
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            if (targets[i] != nullptr) *(V*)targets[i] = parts[i];
        }
    }
}

// Sets dead_masks and `dead`: one pass over the lifetimes, 8 threads a page, several pages of each in flight.
__device__ __forceinline__ void count_dead(const Sweep& sweep, Shared& shared) {
    constexpr u32 AHEAD = 4, STEP = THREADS / 8;
    const u32 part = threadIdx.x % 8, pages = sweep.pages();
    const u32* table = sweep.table();
    shared.dead_masks[threadIdx.x] = 0;
    if (threadIdx.x == 0) shared.dead = 0;
    __syncthreads();
    u32 count = 0;
    for (u32 first = 0; first < pages; first += STEP * AHEAD) {
        u32 numbers[AHEAD];
        uint4 ends[AHEAD];
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 p = first + i * STEP + threadIdx.x / 8;
            numbers[i] = p < pages ? table[p] : NEVER;
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            ends[i] = make_uint4(NEVER, NEVER, NEVER, NEVER);
            if (numbers[i] != NEVER) {
                ends[i] = ((const uint4*)Page{sweep.lanes.pages + numbers[i] * PAGE_BYTES}.expires_at())[part];
            }
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; i++) {
            const u32 p = first + i * STEP + threadIdx.x / 8;
            u32 mask = ended(ends[i], sweep.now) << (4 * part) & Sweep::below(p, sweep.length);
            if (!__any_sync(ALL, mask != 0)) continue;
            mask |= __shfl_xor_sync(ALL, mask, 1);
            mask |= __shfl_xor_sync(ALL, mask, 2);
            mask |= __shfl_xor_sync(ALL, mask, 4);
            if (part == 0) {
                count += __popc(mask);
                if (p < WINDOW) shared.dead_masks[p] = mask;
            }
        }
    }
    if (count > 0) atomicAdd(&shared.dead, count);
    __syncthreads();
}

__device__ __forceinline__ void record_deaths(const ReclaimArgs& args, const Sweep& sweep, Shared& shared, u32 slot) {
    if (threadIdx.x == 0) shared.base = atomicAdd(args.death_count, shared.dead);
    for (u32 first = 0; first < sweep.pages(); first += WINDOW) {
        const u32 p = first + threadIdx.x;
        u32 mask = dead_of(sweep, shared, p), total;
        u32 index = scan_block(__popc(mask), shared, total);
        // The scan's barriers have made `base` known.
        index += shared.base;
        for (; mask != 0; mask &= mask - 1, index++) {
            if (index >= args.death_capacity) continue;
            const u32 i = __ffs(mask) - 1;
            const Page page = sweep.lanes.page(sweep.lane, p);
            args.deaths[index] = DeathRecord{slot, blockIdx.x / GROUPS, blockIdx.x % GROUPS,
                                             page.positions()[i], page.expires_at()[i], page.killers()[i]};
        }
        __syncthreads();
        if (threadIdx.x == 0) shared.base += total;
    }
    __syncthreads();
}

// Fills the holes below `live`, in ascending order, with the living entries from there on, in ascending order. No
// entry is both read and written, so rounds need no order among their threads.
__device__ __forceinline__ void compact(const Sweep& sweep, Shared& shared, u32 live) {
    u32 hole_first = 0, source_first = live / PAGE_ENTRIES, hole = 0, source = 0;
    u32 holes = select(sweep, shared, shared.holes, hole_first, live, true);
    u32 sources = select(sweep, shared, shared.sources, source_first, live, false);
    for (;;) {
        while (hole == holes && hole_first + WINDOW < sweep.pages()) {
            hole_first += WINDOW;
            holes = select(sweep, shared, shared.holes, hole_first, live, true);
            hole = 0;
        }
        while (source == sources && source_first + WINDOW < sweep.pages()) {
            source_first += WINDOW;
            sources = select(sweep, shared, shared.sources, source_first, live, false);
            source = 0;
        }
        const u32 count = min(min(holes - hole, sources - source), THREADS);
        if (count == 0) return;  // there are as many sources as holes: both have ended
        if (threadIdx.x < count) {
            u32 to, to_slot, from, from_slot;
            find(shared.holes, hole + threadIdx.x, to, to_slot);
            find(shared.sources, source + threadIdx.x, from, from_slot);
            const Page target = sweep.lanes.page(sweep.lane, hole_first + to);
            const Page origin = sweep.lanes.page(sweep.lane, source_first + from);
            target.positions()[to_slot] = origin.positions()[from_slot];
            target.expires_at()[to_slot] = origin.expires_at()[from_slot];
            target.killers()[to_slot] = origin.killers()[from_slot];
#pragma unroll
            for (u32 i = 0; i < STATISTICS; i++) {
                target.statistics()[i * PAGE_ENTRIES + to_slot] = origin.statistics()[i * PAGE_ENTRIES + from_slot];
            }
            shared.targets[threadIdx.x] = (u64)target.base;
            shared.origins[threadIdx.x] = (u64)origin.base;
            shared.slots[threadIdx.x] = to_slot | from_slot << 16;
        }
        __syncthreads();
        if constexpr (KEY_ROW == VALUE_ROW) {
            move_rows<KEY_ROW, 2 * LANE_HEADS>(shared, count, 0);
            if constexpr (CODED) move_rows<4 * KEY_GROUPS, 2 * LANE_HEADS>(shared, count, STEP_OFFSET);
        } else {
            for (u32 head = 0; head < LANE_HEADS; head++) {
                const u32 rows = head * (u32)HEAD_BYTES, steps = (u32)STEP_OFFSET + head * (u32)HEAD_STEPS;
                move_rows<KEY_ROW, 1>(shared, count, rows);
                move_rows<VALUE_ROW, 1>(shared, count, rows + PAGE_ENTRIES * KEY_ROW);
                move_rows<4 * KEY_GROUPS, 1>(shared, count, steps);
                move_rows<4 * VALUE_GROUPS, 1>(shared, count, steps + PAGE_ENTRIES * 4 * KEY_GROUPS);
            }
        }
        if constexpr (SIDE_WIDTH > 0) move_rows<SIDE_WIDTH * sizeof(C), 1>(shared, count, SIDE_OFFSET);
        hole += count;
        source += count;
        __syncthreads();
    }
}

// Gives `count` pages from `table` back.
__device__ __forceinline__ void give_back(const Lanes& lanes, const u32* table, u32 count, u32& base) {
    if (threadIdx.x == 0 && count > 0) base = atomicAdd(&lanes.pool->free, count) + lanes.pool->owed;
    __syncthreads();
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) lanes.free[base + i] = table[i];
}

// One block per lane: x is layer * GROUPS + group, y the span.
extern "C" __global__ void __launch_bounds__(THREADS, 4) reclaim(ReclaimArgs args) {
    wait_for_previous();
    let_next_start();
    __shared__ Shared shared;
    __shared__ bool last;
    const Lanes& lanes = args.lanes;
    const Span span = args.spans[blockIdx.y];
    u32 live = 0;
    if (lanes.has(span.slot)) {
        const u32 lane = span.slot * lanes.layers * GROUPS + blockIdx.x;
        const Sweep sweep{lanes, lane, lanes.lengths[lane], span.first_position + span.queries};
        count_dead(sweep, shared);
        live = sweep.length - shared.dead;
        if (shared.dead > 0) {
            if (args.deaths != nullptr) record_deaths(args, sweep, shared, span.slot);
            compact(sweep, shared, live);
            const u32 kept = (live + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
            give_back(lanes, sweep.table() + kept, sweep.pages() - kept, shared.base);
            if (threadIdx.x == 0) lanes.lengths[lane] = live;
        }
    }
    if (threadIdx.x == 0) {
        u32* totals = args.totals + 1 + 3 * blockIdx.y;
        if (lanes.has(span.slot)) {
            if (live % PAGE_ENTRIES == 0) atomicAdd(totals, 1);
            atomicAdd(totals + 1, (live + PAGE_ENTRIES - 1) / PAGE_ENTRIES);
            atomicAdd(totals + 2, live);
        }
        __threadfence();
        last = atomicAdd(args.totals, 1) == gridDim.x * gridDim.y - 1;
    }
    __syncthreads();
    if (!last) return;
    // Every other block has added its lane: tell the host, and leave zeros for the next step.
    __threadfence();
    for (u32 i = threadIdx.x; i < gridDim.y; i += THREADS) {
        u32* to = args.status + 2 + SPAN_WORDS * i;
        for (u32 j = 0; j < 3; j++) to[j] = atomicExch(args.totals + 1 + 3 * i + j, 0);
        const u32 slot = args.spans[i].slot;
        const u64 overflow = lanes.has(slot) ? lanes.overflows[slot] : NO_OVERFLOW;
        to[3] = (u32)overflow;
        to[4] = (u32)(overflow >> 32);
    }
    if (threadIdx.x == 0) {
        const u32 owed = atomicExch(&lanes.pool->owed, 0);
        args.status[0] = atomicAdd(&lanes.pool->free, owed) + owed;
        args.status[1] = atomicExch(&lanes.pool->refused, 0);
        atomicExch(args.totals, 0);
    }
}

struct ClearArgs {
    Lanes lanes;
    u32 slots[CLEARED];
};

// One block per lane (x) and slot (y). The exchange lets a slot stand in the list twice.
extern "C" __global__ void __launch_bounds__(CLEAR_THREADS) clear(ClearArgs args) {
    wait_for_previous();
    __shared__ u32 length, base;
    const u32 lane = args.slots[blockIdx.y] * args.lanes.layers * GROUPS + blockIdx.x;
    if (threadIdx.x == 0) length = atomicExch(args.lanes.lengths + lane, 0);
    if (threadIdx.x == 0 && blockIdx.x == 0) args.lanes.overflows[args.slots[blockIdx.y]] = NO_OVERFLOW;
    __syncthreads();
    const u32 pages = (length + PAGE_ENTRIES - 1) / PAGE_ENTRIES;
    give_back(args.lanes, args.lanes.tables + (u64)lane * args.lanes.max_pages, pages, base);
}
