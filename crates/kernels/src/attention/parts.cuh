// How the parts of a unit that several warps or blocks own become one.
//
// Blocks meet in device memory without counters or fences: a part's numbers are their own signal. Between launches
// every number is UNWRITTEN, a NaN that no sum has; the block that owns the end of a unit reads the others' parts until
// all are numbers, and puts UNWRITTEN back. It waits only for blocks before it, which therefore run or have run, and
// which write before they wait. Parts are added in the order of blocks, so the sum depends on nothing else.

constexpr u32 UNWRITTEN = 0xffffffffu;
// Columns of a unit that a thread adds up at once: few, so that all threads have some.
constexpr u32 EACH = MEMBERS * D >= 4 * THREADS ? 4 : MEMBERS * D >= 2 * THREADS ? 2 : 1;
constexpr u32 ITEMS = MEMBERS * D / EACH;
// Parts that a thread asks for at once: 132 multiprocessors that share 8 KV heads are 17 and one's own.
constexpr u32 AT_ONCE = 18;

template <u32 N> struct alignas(4 * N) Numbers {
    float x[N];
};
__device__ __forceinline__ Numbers<4> load_part(const Numbers<4>* from) {
    Numbers<4> y;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(y.x[0]), "=f"(y.x[1]), "=f"(y.x[2]), "=f"(y.x[3])
                 : "l"(from)
                 : "memory");
    return y;
}
__device__ __forceinline__ Numbers<2> load_part(const Numbers<2>* from) {
    Numbers<2> y;
    asm volatile("ld.relaxed.gpu.global.v2.f32 {%0,%1}, [%2];" : "=f"(y.x[0]), "=f"(y.x[1]) : "l"(from) : "memory");
    return y;
}
__device__ __forceinline__ Numbers<1> load_part(const Numbers<1>* from) {
    Numbers<1> y;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(y.x[0]) : "l"(from) : "memory");
    return y;
}
__device__ __forceinline__ void store_part(Numbers<4>* to, const Numbers<4>& y) {
    asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(to), "f"(y.x[0]), "f"(y.x[1]), "f"(y.x[2]),
                 "f"(y.x[3])
                 : "memory");
}
__device__ __forceinline__ void store_part(Numbers<2>* to, const Numbers<2>& y) {
    asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1,%2};" ::"l"(to), "f"(y.x[0]), "f"(y.x[1]) : "memory");
}
__device__ __forceinline__ void store_part(Numbers<1>* to, const Numbers<1>& y) {
    asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(y.x[0]) : "memory");
}
template <u32 N> __device__ __forceinline__ bool is_written(const Numbers<N>& y) {
    bool written = true;
#pragma unroll
    for (u32 i = 0; i < N; i++) written &= __float_as_uint(y.x[i]) != UNWRITTEN;
    return written;
}
// The same as numbers that are told from UNWRITTEN.
template <u32 N> __device__ __forceinline__ Numbers<N> written(Numbers<N> y) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        if (__float_as_uint(y.x[i]) == UNWRITTEN) y.x[i] = __uint_as_float(0x7fffffffu);
    }
    return y;
}
template <u32 N> __device__ __forceinline__ void forget(Numbers<N>* part) {
    Numbers<N> nothing;
#pragma unroll
    for (u32 i = 0; i < N; i++) nothing.x[i] = __uint_as_float(UNWRITTEN);
    store_part(part, nothing);
}

typedef Numbers<EACH> Columns;
typedef Numbers<2> Stats; // maximum and sum

__device__ __forceinline__ float inverse(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

struct Total {
    float maximum, sum;
    Columns mixed;

    __device__ __forceinline__ void begin() {
        maximum = -infinity();
        sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) mixed.x[i] = 0.0f;
    }
    template <u32 N> __device__ __forceinline__ void add(const Stats (&stats)[N], const Columns (&columns)[N]) {
        float top = maximum;
#pragma unroll
        for (u32 i = 0; i < N; i++) top = fmaxf(top, stats[i].x[0]);
        float base = base_of(top), keep = two_to(maximum - base);
        maximum = top;
        sum *= keep;
#pragma unroll
        for (u32 i = 0; i < EACH; i++) mixed.x[i] *= keep;
#pragma unroll
        for (u32 n = 0; n < N; n++) {
            float weight = two_to(stats[n].x[0] - base);
            sum += weight * stats[n].x[1];
#pragma unroll
            for (u32 i = 0; i < EACH; i++) mixed.x[i] += weight * columns[n].x[i];
        }
    }
    // Parts `first..end` of other blocks, as soon as they are there; puts back UNWRITTEN in the columns.
    __device__ __forceinline__ void add_blocks(const DecodeArgs& a, u64 first, u64 end, u32 item) {
        u32 member = item * EACH / D;
        for (u64 from = first; from < end; from += AT_ONCE) {
            Stats stats[AT_ONCE];
            Columns columns[AT_ONCE];
            bool all;
            do {
                all = true;
#pragma unroll
                for (u32 i = 0; i < AT_ONCE; i++) {
                    stats[i] = Stats{{-infinity(), 0.0f}};
#pragma unroll
                    for (u32 n = 0; n < EACH; n++) columns[i].x[n] = 0.0f;
                    if (from + i < end) {
                        stats[i] = load_part((const Stats*)a.part_stats + (from + i) * MEMBERS + member);
                        columns[i] = load_part((const Columns*)a.parts + (from + i) * ITEMS + item);
                    }
                }
#pragma unroll
                for (u32 i = 0; i < AT_ONCE; i++) all &= is_written(stats[i]) && is_written(columns[i]);
            } while (!all);
            add(stats, columns);
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                if (from + i < end) forget((Columns*)a.parts + (from + i) * ITEMS + item);
            }
        }
    }
};

__device__ __forceinline__ void tell_stats(const DecodeArgs& a, u32 unit, u32 item, const Total& total) {
    if constexpr (STATISTICS > 0) {
        if (a.told && item * EACH % D == 0) {
            a.told_stats[unit * MEMBERS + item * EACH / D] = make_float2(total.maximum, total.sum);
        }
    }
}
__device__ __forceinline__ void store_columns(W* out, const Total& total) {
    float factor = inverse(total.sum);
    if constexpr (EACH == 1) {
        *out = narrow<W>(total.mixed.x[0] * factor);
    } else {
#pragma unroll
        for (u32 i = 0; i < EACH; i += 2) store_pair(out + i, total.mixed.x[i] * factor, total.mixed.x[i + 1] * factor);
    }
}

// A part that a warp left for its block: slot 2 w of warp w's first unit, slot 2 w + 1 of its last.
struct Left {
    u32 unit, first, pages; // `first`: the unit's first page in the line; NEVER as unit: nothing here
    u32 out;                // where the unit's heads begin in `mixed`
};
struct Parts {
    Left left[2 * WARPS];
    Stats stats[2 * WARPS][MEMBERS];
};

// What the warps of this block left in slots `mask`, in their order; `part(slot)` is where the columns are.
template <typename Part> __device__ __forceinline__ Total own_total(const Parts& parts, u32 mask, u32 item, Part part) {
    Total total;
    total.begin();
    while (mask != 0) {
        Stats stats[4];
        Columns columns[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            stats[i] = Stats{{-infinity(), 0.0f}};
#pragma unroll
            for (u32 n = 0; n < EACH; n++) columns[i].x[n] = 0.0f;
            if (mask != 0) {
                u32 slot = __ffs(mask) - 1;
                mask &= mask - 1;
                stats[i] = parts.stats[slot][item * EACH / D];
                columns[i] = *((const Columns*)part(slot) + item);
            }
        }
        total.add(stats, columns);
    }
    return total;
}

// All threads of the block, after all warps have left their parts.
template <typename Part>
__device__ __forceinline__ void join(const DecodeArgs& a, Share block, u32 total_pages, u32 blocks, const Parts& parts,
                                     Part part) {
    u32 thread = threadIdx.x & 31;
    u32 unit = thread < 2 * WARPS ? parts.left[thread].unit : NEVER;
    u32 there = __ballot_sync(ALL, unit != NEVER);
    u32 below = there & ((1u << thread) - 1);
    u32 before = __shfl_sync(ALL, unit, below == 0 ? thread : 31 - __clz(below));
    u32 starts = __ballot_sync(ALL, unit != NEVER && (below == 0 || before != unit));
    if (starts == 0) return;
    // The block's first unit may have begun in other blocks. If it ends here, they are waited for, after all else.
    u32 slot = __ffs(starts) - 1, others = starts & (starts - 1);
    Left first = parts.left[slot];
    bool waits = first.first < block.begin && first.first + first.pages <= block.end;

    for (u32 i = threadIdx.x + (waits ? ITEMS : 0); i < __popc(starts) * ITEMS; i += THREADS) {
        u32 rest = starts;
        for (u32 k = i / ITEMS; k > 0; k--) rest &= rest - 1;
        u32 from = __ffs(rest) - 1, item = i % ITEMS;
        rest &= rest - 1;
        u32 mask = there & ~((1u << from) - 1) & (rest == 0 ? ALL : (1u << (__ffs(rest) - 1)) - 1);
        Left left = parts.left[from];
        Total total = own_total(parts, mask, item, part);
        if (left.first >= block.begin && left.first + left.pages <= block.end) {
            store_columns(a.mixed + left.out + item * EACH, total);
            tell_stats(a, left.unit, item, total);
        } else {
            u64 place = blockIdx.x + left.unit;
            store_part((Columns*)a.parts + place * ITEMS + item, written(total.mixed));
            if (item * EACH % D == 0) {
                store_part((Stats*)a.part_stats + place * MEMBERS + item * EACH / D,
                           written(Stats{{total.maximum, total.sum}}));
            }
        }
    }
    if (!waits) return;
    u64 begin = (u64)part_with(total_pages, blocks, first.first) + first.unit, end = blockIdx.x + first.unit;
    u32 mask = there & (others == 0 ? ALL : (1u << (__ffs(others) - 1)) - 1);
    for (u32 item = threadIdx.x; item < ITEMS; item += THREADS) {
        Total own = own_total(parts, mask, item, part), total;
        total.begin();
        total.add_blocks(a, begin, end, item);
        Stats stats[1] = {Stats{{own.maximum, own.sum}}};
        Columns columns[1] = {own.mixed};
        total.add(stats, columns);
        store_columns(a.mixed + first.out + item * EACH, total);
        tell_stats(a, first.unit, item, total);
    }
    __syncthreads();
    for (u64 i = begin * MEMBERS + threadIdx.x; i < end * MEMBERS; i += THREADS) forget((Stats*)a.part_stats + i);
}
