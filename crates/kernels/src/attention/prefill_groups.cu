// As `prefill.cu`, by products of warp groups (sm_90a; heads of 64 or 128).
//
// A warp group owns 64 rows; queries, scores and sums stay in its registers. While it multiplies the weights of a tile with values, it
// takes the exponentials of the next tile's scores; and while it does so, other groups' products have the tensor cores. One more group
// lists pages and copies keys and values into a ring, and leaves the others most of its registers.

// ROW_GROUPS, DEPTH (tiles of the ring), and the registers of threads that multiply and that copy come from the plan.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool PREFILLS = SERVED && D % 64 == 0 && D <= 128;
#else
constexpr bool PREFILLS = false;
#endif
constexpr u32 ROW_WARPS = 4 * ROW_GROUPS, THREADS = 32 * ROW_WARPS + 128;
constexpr u32 TILE_ROWS = 64 * ROW_GROUPS, NT = TILE_ENTRIES / 8, MIXED = PREFILLS ? D / 8 : 8; // columns of sums, by eight
static_assert(COPIERS == 128 && FIRST_COPIER == 32 * ROW_WARPS, "the last group copies");
constexpr bool KEEPS_QUERIES = ROW_GROUPS < 4; // in registers, which the rows of four groups have no room for

// Shared memory: queries, then the ring, a tile of keys and one of values in turn.
constexpr u32 HALF = 64;                            // columns of a row of 128 bytes
constexpr u32 PART_BYTES = TILE_ENTRIES * D * 2;    // keys of a tile
constexpr u32 RING_AT = TILE_ROWS * D * 2;
static_assert(!PREFILLS || RING_AT + DEPTH * 2 * PART_BYTES + ATOM == TILES_BYTES, "the host gives the tiles other room");

// Whole pages come by the copy engine, whose map lies in memory: to read that takes a fence that compilers know from CUDA 12.3 on.
constexpr bool BY_ENGINE = !CODED && __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1203;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// What a block has in shared memory beside rows, keys and values.
struct Beside {
    List list;
    // Signals of the ring's places, of their keys and of their values.
    u64 full[2][DEPTH], empty[2][DEPTH];
    u32 kinds[DEPTH];
    u16 seen_by[DEPTH][TILE_ENTRIES]; // of tiles that are MASKED
};
enum { KEYS, VALUES };
enum { SEEN, MASKED, LAST }; // LAST: there is no tile any more

// Keys or values of whole pages, by the copy engine.
__device__ __forceinline__ void copy_boxes(const PrefillArgs& a, const u32* pages, u32 head, u32 part, u32 to, u32 signal) {
    expect_more(signal, PART_BYTES);
#pragma unroll
    for (u32 page = 0; page < TILE_PAGES; page++)
#pragma unroll
        for (u32 c = 0; c < D / HALF; c++)
            copy_box(to + c * (TILE_ENTRIES * 128) + page * (PAGE_ENTRIES * 128), a.map, c * HALF, 0, 2 * head + part, pages[page], signal);
}

// What the group does that lists and copies.
__device__ __forceinline__ void feed(const PrefillArgs& a, const Place& place, Beside& beside, u32 base) {
    const u32 member = threadIdx.x - FIRST_COPIER, head = place.kv_head % LANE_HEADS;
    auto offset = [](u32 row, u32 chunk) { return swapped<TILE_ENTRIES>(row, chunk); };
    u32 slot = 0, parity = 1;
    if constexpr (BY_ENGINE) {
        if (member == 0) learn_map(a.map);
    }
    // Tells what was written at once, and of copies when they arrive; nobody waits for that here.
    auto tell = [&](u32 signal) {
        arrive_with_copies(signal);
        __syncwarp();
        if (member % 32 == 0) arrive(signal);
    };
#pragma unroll 1
    for (u32 from = 0; from < place.pages; from += LIST) {
        List& list = beside.list;
        fill_list(list, a.lanes, place, from);
        const u32 tiles = list.tiles, whole = list.whole_tiles;
#pragma unroll 1
        for (u32 tile = 0; tile < tiles; tile++) {
            wait_signal(shared_address(&beside.empty[KEYS][slot]), parity);
            if (member == 0) beside.kinds[slot] = tile < whole ? SEEN : MASKED;
            if (tile >= whole && member < TILE_ENTRIES) beside.seen_by[slot][member] = list.seen_by[(tile - whole) * TILE_ENTRIES + member];
#pragma unroll
            for (u32 part = KEYS; part <= VALUES; part++) {
                const u32 to = base + RING_AT + (2 * slot + part) * PART_BYTES, full = shared_address(&beside.full[part][slot]);
                if (part == VALUES) wait_signal(shared_address(&beside.empty[VALUES][slot]), parity);
                if constexpr (CODED) {
                    if (part == KEYS) decode_tile<false>(list, tile, to, a.lanes.pages, head, offset);
                    else decode_tile<true>(list, tile, to, a.lanes.pages, head, offset);
                } else if (tile >= whole) {
                    gather_tile(list, tile, to, place.head + part * (PAGE_ENTRIES * D * 2), offset);
                } else if constexpr (BY_ENGINE) {
                    if (member == 0) copy_boxes(a, list.whole + tile * TILE_PAGES, head, part, to, full);
                } else {
                    copy_pages(list, tile, to, place.head + part * (PAGE_ENTRIES * D * 2), offset);
                }
                tell(full);
            }
            if (++slot == DEPTH) slot = 0, parity ^= 1;
        }
    }
    wait_signal(shared_address(&beside.empty[KEYS][slot]), parity);
    if (member == 0) beside.kinds[slot] = LAST;
    tell(shared_address(&beside.full[KEYS][slot]));
}

// What the other groups do.
__device__ __forceinline__ void mix(const PrefillArgs& a, const Place& place, const Beside& beside, u32 base) {
    const u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    for (u32 i = threadIdx.x; i < TILE_ROWS * CHUNKS; i += 32 * ROW_WARPS) {
        u32 row = i / CHUNKS, chunk = i % CHUNKS;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (row / RATIO < place.queries) x = chunk_of(a.qkv + place.query_at(row) + chunk * 8);
        store_shared(base + swapped<TILE_ROWS>(row, chunk), x);
    }
    show_products();
    asm volatile("bar.sync 2, %0;" ::"n"(32 * ROW_WARPS) : "memory");
    u32 query[D / 16][4];
#pragma unroll
    for (u32 step = 0; KEEPS_QUERIES && step < D / 16; step++)
        load_matrices(query[step], base + swapped<TILE_ROWS>(warp * 16 + (thread & 15), 2 * step + (thread >> 4)));
    float score[NT][4], mixed[MIXED][4], maximum[2], sum[2], keep[2];
    u32 weights[NT / 2][4];
    const float scale = a.scale * LOG2_E;
#pragma unroll
    for (u32 j = 0; j < MIXED; j++)
#pragma unroll
        for (u32 k = 0; k < 4; k++) mixed[j][k] = 0.0f;
#pragma unroll
    for (u32 half = 0; half < 2; half++) maximum[half] = -infinity(), sum[half] = 0.0f;

    auto multiply_keys = [&](u32 slot) {
        const u32 keys = base + RING_AT + slot * 2 * PART_BYTES, queries = base + warp / 4 * (64 * 128);
        hold(score);
        // Made before products begin: their registers must not change meanwhile.
#pragma unroll
        for (u32 step = 0; step < NT / 2; step++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) asm volatile("" : "+r"(weights[step][i])::"memory");
        products_begin();
#pragma unroll
        for (u32 step = 0; step < D / 16; step++) {
            const u32 half = step / 4, column = step % 4 * 32;
            u64 right = described(keys, half * (TILE_ENTRIES * 128) + column);
            if constexpr (KEEPS_QUERIES) group_product<T, 0>(score, query[step], right, step > 0);
            else group_scores<T>(score, described(queries, half * (TILE_ROWS * 128) + column), right, step > 0);
        }
        products_end();
    };
    // The two follow each other without touching what the other reads or writes.
    auto multiply_values = [&](u32 slot) {
        const u32 values = base + RING_AT + slot * 2 * PART_BYTES + PART_BYTES;
        hold(mixed);
        products_begin();
#pragma unroll
        for (u32 step = 0; step < TILE_ENTRIES / 16; step++)
            group_product<T, 1>(mixed, weights[step], described(values, step * (16 * 128), D > HALF ? TILE_ENTRIES * 128 : 16), true);
        products_end();
    };
    // Scores become exponentials; `keep` is what earlier sums are worth beside them.
    auto soften = [&](u32 slot, u32 kind) {
        if (kind == MASKED) hide_unseen(score, beside.seen_by[slot], warp * 16, thread);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float top = maximum[half];
#pragma unroll
            for (u32 j = 0; j < NT; j++) top = fmaxf(top, fmaxf(score[j][half * 2], score[j][half * 2 + 1]));
            top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
            float subtracted = base_of(top) * scale;
            // Of equal maxima: a scaled difference that is not exactly 0 would grow the sums.
            keep[half] = top == maximum[half] ? 1.0f : two_to(maximum[half] * scale - subtracted);
            maximum[half] = top;
            float more = 0.0f;
#pragma unroll
            for (u32 j = 0; j < NT; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float& x = score[j][half * 2 + c];
                    x = two_to(fmaf(x, scale, -subtracted));
                    more += x;
                }
            sum[half] = sum[half] * keep[half] + more;
        }
    };
    auto keep_weights = [&] {
#pragma unroll
        for (u32 step = 0; step < NT / 2; step++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                weights[step][i] = narrow2<T>(score[2 * step + i / 2][i % 2 * 2], score[2 * step + i / 2][i % 2 * 2 + 1]);
    };
    auto shrink = [&] {
        if (!__any_sync(ALL, keep[0] != 1.0f || keep[1] != 1.0f)) return;
#pragma unroll
        for (u32 j = 0; j < MIXED; j++)
#pragma unroll
            for (u32 k = 0; k < 4; k++) mixed[j][k] *= keep[k / 2];
    };

    u32 slot = 0, parity = 0, before = 0, parity_before = 0; // where the tile before lies
    auto wait = [&](u32 part, u32 slot, u32 parity) {
        wait_signal(shared_address(&beside.full[part][slot]), parity);
        show_products();
    };
    // What kind of tile comes next, once its keys are here.
    auto next = [&] {
        wait(KEYS, slot, parity);
        return beside.kinds[slot];
    };
    auto release = [&](u32 part, u32 slot) {
        if (thread == 0) arrive(shared_address(&beside.empty[part][slot]));
    };
    auto advance = [&] {
        keep_weights();
        before = slot, parity_before = parity;
        if (++slot == DEPTH) slot = 0, parity ^= 1;
    };
    u32 kind = next();
    if (kind != LAST) {
        multiply_keys(slot);
        products_left<0>();
        hold(score);
        soften(slot, kind);
        __syncwarp();
        release(KEYS, slot);
        advance();
#pragma unroll 1
        while ((kind = next()) != LAST) {
            multiply_keys(slot);
            wait(VALUES, before, parity_before);
            multiply_values(before);
            products_left<1>();
            hold(score);
            soften(slot, kind);
            // Never so. But without a branch the compiler waits before the exponentials, and nothing goes on at once.
            if (__any_sync(ALL, sum[0] + sum[1] < 0.0f)) asm volatile("trap;");
            products_left<0>();
            hold(mixed);
            __syncwarp();
            release(KEYS, slot), release(VALUES, before);
            shrink();
            advance();
        }
        wait(VALUES, before, parity_before);
        multiply_values(before);
        products_left<0>();
        hold(mixed);
    }

#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float total = sum[half];
        total += __shfl_xor_sync(ALL, total, 1);
        total += __shfl_xor_sync(ALL, total, 2);
        float factor = total == 0.0f ? 0.0f : 1.0f / total;
        u32 row = warp * 16 + half * 8 + thread / 4;
        if (row / RATIO >= place.queries) continue;
        if (thread % 4 == 0) tell_sum(a, place, row, maximum[half], scale, total);
        W* to = a.mixed + place.mixed_at(row) + 2 * (thread % 4);
#pragma unroll
        for (u32 j = 0; j < MIXED; j++) store_pair(to + j * 8, mixed[j][half * 2] * factor, mixed[j][half * 2 + 1] * factor);
    }
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_prefill(const __grid_constant__ PrefillArgs a) {
    wait_for_previous();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (PREFILLS) {
        extern __shared__ u8 raw_memory[];
        __shared__ Beside beside;
        let_next_start();
        const Place place(a, TILE_ROWS / RATIO);
        if (!a.lanes.has(place.slot)) return;
        const u32 base = (shared_address(raw_memory) + ATOM - 1) / ATOM * ATOM;
        if (threadIdx.x < 2 * DEPTH) {
            begin_signal(shared_address(beside.full[0] + threadIdx.x), COPIERS + COPIERS / 32);
            begin_signal(shared_address(beside.empty[0] + threadIdx.x), ROW_WARPS);
            signals_begun();
        }
        __syncthreads();
        if (threadIdx.x >= FIRST_COPIER) {
            asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COPY_REGISTERS));
            feed(a, place, beside, base);
        } else {
            asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(ROW_REGISTERS));
            mix(a, place, beside, base);
        }
    }
#endif
}
