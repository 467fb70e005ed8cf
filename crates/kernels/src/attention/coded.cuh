// What a warp of `decode.cu` gathers from a unit whose keys and values are codes: no number is made of a code.
//
// Codes are exact in f16. A score is, for each group of dimensions, step * (q . codes) + least * sum(q). Of values a weight takes the
// step of its entry, in f32, before it is narrowed; what the least numbers add is summed up beside, a number for each group and head.
//
// Dimensions are multiplied in the order in which codes lie: a thread takes eight neighbouring codes of a key for two products of 16
// dimensions, and the query's dimensions lie likewise. Of values the transposition of pairs of bytes brings two or four neighbouring
// dimensions at once; they go to different rows of products.

constexpr u32 KEY_PARTS = (D + 31) / 32;   // of 32 dimensions: two products
constexpr u32 KEY_STEPS = (D + KEY_GROUP - 1) / KEY_GROUP, VALUE_STEPS = (D + VALUE_GROUP - 1) / VALUE_GROUP;   // of an entry
constexpr u32 PARTS_OF_KEY_GROUP = KEY_GROUP / 32, PRODUCTS_OF_VALUE_GROUP = VALUE_GROUP / 16;

// Two of a word's four codes: the lower, the upper, the even, the odd ones.
constexpr u32 LOWER = 0x4140, UPPER = 0x4342, EVEN = 0x4240, ODD = 0x4341;
__device__ __forceinline__ u32 two_codes(u32 word, u32 which) {
    u32 y;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(pick_bytes(word, 0x64646464u, which)), "r"(0x64006400u));
    return y;
}
// The same of a word of eight codes of 4 bits: pair i lies at bits 4i and 16 + 4i.
__device__ __forceinline__ u32 two_nibbles(u32 word, u32 i) {
    // The bits of 1024 and of 64, above which one is a code's lowest bit.
    const u32 over = i % 2 ? 0x54005400u : 0x64006400u, mask = i % 2 ? 0x00f000f0u : 0x000f000fu;
    u32 y;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(((i / 2 ? word >> 8 : word) & mask) | over), "r"(over));
    return y;
}
__device__ __forceinline__ float step_of(u32 steps) { return widen(f16{(u16)steps}); }
__device__ __forceinline__ float least_of(u32 steps) { return widen(f16{(u16)(steps >> 16)}); }
// Two to the x, a whole number.
__device__ __forceinline__ float power_of_two(int x) { return __uint_as_float((u32)(127 + x) << 23); }

struct CodedState : Softmax {
    u32 query[2 * KEY_PARTS][NT][2];
    float sum_of_query[KEY_STEPS][NT][2];
    // Of dimensions in the order of `each`, in units of 2^(exponent - 14): above all steps so far, so that no weight is too
    // small for f16 because of its step.
    float mixed[D / 16][NT][4];
    u32 exponent;
    float rest[VALUE_STEPS][NT][2];   // what least numbers add, of this thread's entries
    typedef float Weights[2][NT][4];  // of entries 16 i + thread / 4, and 8 more, for two query heads each

    __device__ __forceinline__ void begin(const W* rows) {
        const u32 thread = threadIdx.x & 31, quarter = thread % 4;
#pragma unroll
        for (u32 j = 0; j < NT; j++) {
            const u32 member = j * 8 + thread / 4;
            const W* row = rows + member * D + 8 * quarter;
#pragma unroll
            for (u32 group = 0; group < KEY_STEPS; group++) {
                float sum = 0.0f;
#pragma unroll
                for (u32 part = group * PARTS_OF_KEY_GROUP; part < min((group + 1) * PARTS_OF_KEY_GROUP, KEY_PARTS); part++) {
                    const bool there = member < MEMBERS && part * 32 + 8 * quarter < D;
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        const u32 pair = there ? pair_of(row + part * 32 + 2 * i) : 0;
                        query[2 * part + i / 2][j][i % 2] = pair;
                        const float2 x = widen2<T>(pair);
                        sum += x.x + x.y;
                    }
                }
                sum += __shfl_xor_sync(ALL, sum, 1);
                sum += __shfl_xor_sync(ALL, sum, 2);
#pragma unroll
                for (u32 c = 0; c < 2; c++) sum_of_query[group][j][c] = __shfl_sync(ALL, sum, (2 * quarter + c) * 4);
            }
#pragma unroll
            for (u32 i = 0; i < D / 16; i++)
#pragma unroll
                for (u32 k = 0; k < 4; k++) mixed[i][j][k] = 0.0f;
#pragma unroll
            for (u32 group = 0; group < VALUE_STEPS; group++) rest[group][j][0] = rest[group][j][1] = 0.0f;
        }
        exponent = 0;
        Softmax::begin();
    }

    // As `State::keys`.
    __device__ __forceinline__ void keys(const u8* tile, u32 seen, float scale, float* told, Weights& weights) {
        const u32 thread = threadIdx.x & 31, entry = thread / 4, quarter = thread % 4;
        const u32* steps = (const u32*)(tile + PAGE_ENTRIES * KEY_ROW);
        float dots[2][NT][4];
#pragma unroll
        for (u32 group = 0; group < KEY_STEPS; group++) {
            float score[2][NT][4];
#pragma unroll
            for (u32 i = 0; i < 2; i++)
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) score[i][j][k] = 0.0f;
#pragma unroll
            for (u32 part = group * PARTS_OF_KEY_GROUP; part < min((group + 1) * PARTS_OF_KEY_GROUP, KEY_PARTS); part++) {
                // Where a row has no more codes the query has zeros, and whatever is read is a code.
                const u8* from = tile + code_offset<KEY_ROW>(entry, 2 * part + quarter / 2) + quarter % 2 * 8;
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const uint2 here = *(const uint2*)(from + i * 16 * KEY_ROW), below = *(const uint2*)(from + (i * 16 + 8) * KEY_ROW);
                    const u32 one[4] = {two_codes(here.x, LOWER), two_codes(below.x, LOWER), two_codes(here.x, UPPER), two_codes(below.x, UPPER)};
                    const u32 two[4] = {two_codes(here.y, LOWER), two_codes(below.y, LOWER), two_codes(here.y, UPPER), two_codes(below.y, UPPER)};
#pragma unroll
                    for (u32 j = 0; j < NT; j++) {
                        mma<T>(score[i][j], one, query[2 * part][j][0], query[2 * part][j][1]);
                        mma<T>(score[i][j], two, query[2 * part + 1][j][0], query[2 * part + 1][j][1]);
                    }
                }
            }
#pragma unroll
            for (u32 n = 0; n < 4; n++) {
                const u32 of = steps[(8 * n + entry) * KEY_STEPS + group];
                const float step = step_of(of), least = least_of(of);
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 c = 0; c < 2; c++) {
                        float& dot = dots[n / 2][j][n % 2 * 2 + c];
                        const float more = least * sum_of_query[group][j][c];
                        dot = fmaf(step, score[n / 2][j][n % 2 * 2 + c], group == 0 ? more : dot + more);
                    }
            }
        }
        const u32 mine = seen >> entry; // bit 8 n is entry 8 n + thread / 4
        bool moved = false;
        float keep[NT][2];
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                float x[4];
#pragma unroll
                for (u32 n = 0; n < 4; n++) x[n] = mine >> (8 * n) & 1 ? dots[n / 2][j][n % 2 * 2 + c] * scale : -infinity();
                tell(told, j, c, x);
                keep[j][c] = weigh(j, c, x);
                moved |= keep[j][c] != 1.0f;
#pragma unroll
                for (u32 n = 0; n < 4; n++) weights[n / 2][j][n % 2 * 2 + c] = x[n];
            }
        if (__any_sync(ALL, moved)) {
#pragma unroll
            for (u32 j = 0; j < NT; j++) {
#pragma unroll
                for (u32 i = 0; i < D / 16; i++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) mixed[i][j][k] *= keep[j][k % 2];
#pragma unroll
                for (u32 group = 0; group < VALUE_STEPS; group++) rest[group][j][0] *= keep[j][0], rest[group][j][1] *= keep[j][1];
            }
        }
    }

    __device__ __forceinline__ void values(const u8* tile, u32 seen, const Weights& weights) {
        const u32 thread = threadIdx.x & 31, entry = thread / 4, mine = seen >> entry;
        const u32* steps = (const u32*)(tile + PAGE_ENTRIES * VALUE_ROW);
        // Steps of what is not seen may be anything, and 0 times NaN is not 0.
        auto steps_of = [&](u32 n, u32 group) -> u32 {
            return mine >> (8 * n) & 1 ? steps[(8 * n + entry) * VALUE_STEPS + group] : 0;
        };
        u32 largest = 0;
#pragma unroll
        for (u32 n = 0; n < 4; n++)
#pragma unroll
            for (u32 group = 0; group < VALUE_STEPS; group++) largest = max(largest, steps_of(n, group) & 0x7fffu);
        const u32 above = __reduce_max_sync(ALL, largest) >> 10;
        if (above > exponent) {
            const float less = power_of_two((int)exponent - (int)above);
#pragma unroll
            for (u32 i = 0; i < D / 16; i++)
#pragma unroll
                for (u32 j = 0; j < NT; j++)
#pragma unroll
                    for (u32 k = 0; k < 4; k++) mixed[i][j][k] *= less;
            exponent = above;
        }
        const float in_units = power_of_two(14 - (int)exponent);
        const u32 address = shared_address(tile);
#pragma unroll
        for (u32 group = 0; group < VALUE_STEPS; group++) {
            u32 taken[2][NT][2];   // weights of 16 entries times their steps, as the tensor cores take them
#pragma unroll
            for (u32 j = 0; j < NT; j++)
#pragma unroll
                for (u32 n = 0; n < 4; n++) {
                    const u32 of = steps_of(n, group);
                    const float step = step_of(of) * in_units, least = least_of(of);
                    const float a = weights[n / 2][j][n % 2 * 2], b = weights[n / 2][j][n % 2 * 2 + 1];
                    rest[group][j][0] = fmaf(a, least, rest[group][j][0]);
                    rest[group][j][1] = fmaf(b, least, rest[group][j][1]);
                    taken[n / 2][j][n % 2] = transposed(narrow2<T>(a * step, b * step));
                }
            u32 pairs[4];   // of bytes, of 8 entries each
#pragma unroll
            for (u32 i = 0; i < PRODUCTS_OF_VALUE_GROUP; i++) {
                const u32 product = group * PRODUCTS_OF_VALUE_GROUP + i;
                if (product >= D / 16) break;
                if (VALUE_BITS == 8 || i == 0) {
                    load_matrices_transposed(pairs, address + code_offset<VALUE_ROW>(thread, VALUE_BITS == 8 ? product : group));
                }
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 a[4];
#pragma unroll
                    for (u32 k = 0; k < 4; k++) {
                        const u32 word = pairs[2 * half + k / 2];
                        a[k] = VALUE_BITS == 8 ? two_codes(word, k % 2 ? ODD : EVEN) : two_nibbles(word, 2 * i + k % 2);
                    }
#pragma unroll
                    for (u32 j = 0; j < NT; j++) mma<T>(mixed[product][j], a, taken[half][j][0], taken[half][j][1]);
                }
            }
        }
    }

    __device__ __forceinline__ void end() {
        const float unit = power_of_two((int)exponent - 14);
#pragma unroll
        for (u32 j = 0; j < NT; j++) {
#pragma unroll
            for (u32 group = 0; group < VALUE_STEPS; group++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) rest[group][j][c] = over_entries(rest[group][j][c]);
#pragma unroll
            for (u32 i = 0; i < D / 16; i++)
#pragma unroll
                for (u32 k = 0; k < 4; k++) mixed[i][j][k] = fmaf(mixed[i][j][k], unit, rest[i / PRODUCTS_OF_VALUE_GROUP][j][k % 2]);
        }
        Softmax::end();
    }

    // As `State::each`.
    template <typename Write> __device__ __forceinline__ void each(Write write) const {
        const u32 thread = threadIdx.x & 31;
#pragma unroll
        for (u32 j = 0; j < NT; j++)
#pragma unroll
            for (u32 c = 0; c < 2; c++) {
                const u32 member = j * 8 + 2 * (thread % 4) + c;
                if (member < MEMBERS) {
#pragma unroll
                    for (u32 i = 0; i < D / 16; i++) {
                        const u32 column = VALUE_BITS == 8 ? i * 16 + thread / 4 * 2 : i / 2 * 32 + thread / 4 * 4 + i % 2 * 2;
                        write(member, column, mixed[i][j][c], sum[j][c]);
                        write(member, column + 1, mixed[i][j][c + 2], sum[j][c]);
                    }
                }
            }
    }
};
