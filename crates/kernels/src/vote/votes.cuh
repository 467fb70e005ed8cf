// What the kernels of the votes share: the arithmetic of a raw vote on tensor cores, and who was first.
//
// A raw vote is q . k / sqrt(r) + bias, and the decision is its sign: q . k > -bias * sqrt(r) keeps, anything else,
// NaN too, refuses. The query gate q is f32, the key gate k is 16 bits wide as the page holds it. q is cut into PARTS
// 16-bit numbers that add up to it, and all products go into one f32 accumulator, in this order: smallest part first,
// within a part k ascending in steps of 16. One output depends on its own row of q and its own k alone, so the bits of
// a vote do not depend on how many queries or entries there are, nor on which kernel computes it.
//
// Error: bf16 takes three parts of 8 bits, which represent a normal f32 exactly. f16 takes two parts of 11 bits of q
// times a power of two that brings the row's largest gate into [2^14, 2^15), so that neither end of f16's range is
// met; what is lost is at most 2^-22 of each gate plus 2^-39 of the row's largest. The products are exact in f32. Each
// of the PARTS * ceil(r / 16) additions of 16 products may err by a few 2^-24 of the largest magnitude that it sees, so
// that all in all |error| < 2^-20 * (1 + r / 64) * sum |q_i k_i|, the class of a plain f32 sum. Gates that are not
// finite refuse.

typedef Format<CACHE_TYPE == 0 ? 2 : CACHE_TYPE>::type Half;  // of a stub where the cache is f32
constexpr bool IS_HALF = CACHE_TYPE != 0 && SIDE_WIDTH > 0;
constexpr bool SCALED = CACHE_TYPE == 1;
constexpr u32 R = SIDE_WIDTH;
constexpr u32 K_BLOCKS = R > 0 ? (R + 31) / 32 : 1;  // of 32 gates; what is missing is 0
constexpr u32 PARTS = SCALED ? 2 : 3;
// A tile of the gates of TILE queries: [parts][k blocks][rows 0-7, rows 8-15][32 threads] 16 bytes, then 16 factors, f32.
constexpr u32 GATE_BYTES = PARTS * K_BLOCKS * 2 * 512;
static_assert(TILE == 16 && TILE_BYTES == GATE_BYTES + (SCALED ? TILE * 4 : 0), "the host makes room for other tiles");

struct VoteArgs {
    Lanes lanes;
    const Span* spans;
    const u32* first_pages;  // of this layer
    const float* gates;      // [rows, 2 * heads * r]
    const float* bias;       // [heads]
    u8* tiles;               // of split query gates: [tiles][heads]
    u32* found;              // [room][entries of a block]: first refusals, NEVER between launches
    u32* tickets;            // [room]: blocks that have ended, 0 between launches
    u32 units;               // spans * GROUPS
    u32 layer, heads;
    u32 first_row, end_row;  // the rows whose tiles are ready
    Floors floors;
    u32 lower;
    float root;              // sqrt(r)
    u32 room;                // groups of pages whose queries may be divided among blocks
};

// Splits one half of a tile (of which there may be no other): thread t writes its part of row t / 4, whose gates are `gates` (null: zeros). A thread
// holds gates 32 b + 8 (t % 4) .. + 8 of each block b: which of them meet in one product matters no more than that the
// keys have the same order.
template <typename T, u32 HALVES = 2> __device__ __forceinline__ void split_row(const float* gates, u8* tile, u32 half) {
    const u32 thread = threadIdx.x % 32, first = thread % 4 * 8;
    auto load = [&](float (&x)[8], u32 block) {
        const u32 k = block * 32 + first;
        if constexpr (R % 8 == 0) {
            if (gates != nullptr && k < R) {
                const float4 a = *(const float4*)(gates + k), b = *(const float4*)(gates + k + 4);
                x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
            } else {
#pragma unroll
                for (u32 i = 0; i < 8; i++) x[i] = 0;
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < 8; i++) x[i] = gates != nullptr && k + i < R ? gates[k + i] : 0;
        }
    };
    float scale = 1;
    if constexpr (SCALED) {
        float largest = 0;
        for (u32 block = 0; block < K_BLOCKS; block++) {
            float x[8];
            load(x, block);
#pragma unroll
            for (u32 i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(x[i]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 2));
        // Exponents are biased by 127; 2^126 is the largest factor whose inverse is a normal number.
        const u32 exponent = min(268 - (__float_as_uint(largest) >> 23), 253u);
        scale = __uint_as_float(exponent << 23);
        if (thread % 4 == 0) ((float*)(tile + GATE_BYTES / 2 * HALVES))[half * 8 + thread / 4] = __uint_as_float((254 - exponent) << 23);
    }
#pragma unroll
    for (u32 block = 0; block < K_BLOCKS; block++) {
        float x[8];
        load(x, block);
        if constexpr (SCALED) {
#pragma unroll
            for (u32 i = 0; i < 8; i++) x[i] *= scale;
        }
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
            u32 pairs[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                pairs[i] = narrow2<T>(x[2 * i], x[2 * i + 1]);
                const float2 taken = widen2<T>(pairs[i]);
                x[2 * i] -= taken.x, x[2 * i + 1] -= taken.y;
            }
            *(uint4*)(tile + ((part * K_BLOCKS + block) * HALVES + half) * 512 + thread * 16) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
}

// Key gates k..k + 8 of a row, which has no more than R.
template <typename T> __device__ __forceinline__ uint4 load_keys(const T* row, u32 k) {
    if constexpr (R % 8 == 0) {
        return k < R ? *(const uint4*)(row + k) : make_uint4(0, 0, 0, 0);
    } else {
        u32 pairs[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 low = k + 2 * i < R ? row[k + 2 * i].bits : 0, high = k + 2 * i + 1 < R ? row[k + 2 * i + 1].bits : 0;
            pairs[i] = low | high << 16;
        }
        return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}
// Key gates 32 b + 8 (t % 4) .. + 8 of the entry in `slot`.
template <typename T> __device__ __forceinline__ uint4 load_keys(const Page& page, u32 slot, u32 block) {
    return load_keys<T>((const T*)(page.base + SIDE_OFFSET) + slot * R, block * 32 + threadIdx.x % 4 * 8);
}

// Which of a tile's 16 queries refuse which of 8 COLUMNS entries, of which this thread knows rows t / 4 and t / 4 + 8
// and columns 8 c + 2 (t % 4) and the one after: bit 4 c + 2 (upper row) + (second column). A tile of one half has
// zeros for the other.
template <typename T, u32 COLUMNS, u32 HALVES = 2>
__device__ __forceinline__ u32 refusals(const u8* tile, const uint4 (&keys)[COLUMNS][K_BLOCKS], float threshold) {
    const u32 thread = threadIdx.x % 32;
    float sums[COLUMNS][4];
#pragma unroll
    for (u32 c = 0; c < COLUMNS; c++) sums[c][0] = sums[c][1] = sums[c][2] = sums[c][3] = 0;
#pragma unroll
    for (int part = PARTS - 1; part >= 0; part--) {
#pragma unroll
        for (u32 block = 0; block < K_BLOCKS; block++) {
            const u8* place = tile + (part * K_BLOCKS + block) * (512 * HALVES) + thread * 16;
            const uint4 low = *(const uint4*)place, high = HALVES > 1 ? *(const uint4*)(place + 512) : make_uint4(0, 0, 0, 0);
            const u32 first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) mma<T>(sums[c], first, keys[c][block].x, keys[c][block].y);
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) mma<T>(sums[c], second, keys[c][block].z, keys[c][block].w);
        }
    }
    float factors[2] = {1, 1};
    if constexpr (SCALED) {
        const float* own = (const float*)(tile + GATE_BYTES / 2 * HALVES) + thread / 4;
        factors[0] = own[0];
        if constexpr (HALVES > 1) factors[1] = own[8];
    }
    u32 mask = 0;
#pragma unroll
    for (u32 c = 0; c < COLUMNS; c++) {
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            const float product = SCALED ? sums[c][j] * factors[j / 2] : sums[c][j];
            mask |= product > threshold ? 0 : 1u << (4 * c + j);
        }
    }
    return mask;
}

// Entries that are voted on, and for each the first query so far that refuses it. In shared memory.
template <u32 ENTRIES> struct Ballot {
    u32 positions[ENTRIES], expires_at[ENTRIES];
    u32 refused_by[ENTRIES];
    // Entry i, or nobody where it is none: no query comes after the last position.
    __device__ __forceinline__ void set(u32 i, bool is_entry, u32 position, u32 expires) {
        positions[i] = is_entry ? position : NEVER;
        expires_at[i] = is_entry ? expires : 0;
        refused_by[i] = NEVER;
    }
};

// The bits, as `refusals` gives them, of the entries from `first` on that a query in from..=to may be the first to
// refuse.
template <u32 COLUMNS, u32 ENTRIES> __device__ __forceinline__ u32 open_entries(const Ballot<ENTRIES>& ballot, u32 first, u32 from, u32 to) {
    u32 mask = 0;
#pragma unroll
    for (u32 c = 0; c < COLUMNS; c++) {
        const u32 entry = first + 8 * c + threadIdx.x % 4 * 2;
        const uint2 positions = *(const uint2*)(ballot.positions + entry), expires = *(const uint2*)(ballot.expires_at + entry);
        const uint2 refused = *(const uint2*)(ballot.refused_by + entry);
        if (positions.x < to && expires.x > from && refused.x > from) mask |= 5u << (4 * c);
        if (positions.y < to && expires.y > from && refused.y > from) mask |= 10u << (4 * c);
    }
    return mask;
}

// Writes down the refusals `mask`; `query` is that of the tile's row 0 and may wrap where that is no row of the span:
// rows low..high are.
template <u32 ENTRIES> __device__ __forceinline__ void settle(Ballot<ENTRIES>& ballot, u32 first, u32 mask, u32 query, u32 low, u32 high) {
    for (; mask != 0; mask &= mask - 1) {
        const u32 bit = __ffs(mask) - 1, row = threadIdx.x % 32 / 4 + bit % 4 / 2 * 8;
        const u32 entry = first + bit / 4 * 8 + threadIdx.x % 4 * 2 + bit % 2, n = query + row;
        if (row >= low && row < high && ballot.positions[entry] < n && n < ballot.expires_at[entry]) {
            atomicMin(ballot.refused_by + entry, n);
        }
    }
}
