// What every kernel file begins with: the number formats, the page layout, the tables of lanes.
//
// No header of the CUDA toolkit is used, because the machine that compiles this has only the driver and NVRTC.
// The host defines, for one model and one cache (see cuda/specialisation.rs):
//   WEIGHT_TYPE, CACHE_TYPE   0 f32, 1 f16, 2 bf16: activations beside the weights; keys, values and side channels
//   CODE_BITS                 0, or the bits of values that are codes, as keys of 8 bits are then; CACHE_TYPE is f16
//   QUERY_HEADS, KV_HEADS, HEAD_DIM, HIDDEN
//   GROUPS                    lanes of a layer: 1, or KV_HEADS
//   SIDE_WIDTH                gate width r, or 0 without gates
//   STATISTICS                f32 sums beside each entry
//   PAGE_ENTRIES, BYTES_OF_PAGE
// Structures that it passes have the same names and fields there, and a file that lays one out otherwise does not
// compile (cuda/argument.rs).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 NEVER = 0xffffffffu;
static_assert(PAGE_ENTRIES == 32, "one thread of a warp for each entry of a page");

// ---- number formats -----------------------------------------------------------------------------------------

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 narrow<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers of a 16-bit format in one register, the first in the low half.
template <typename T> __device__ __forceinline__ u32 narrow2(float low, float high);
template <> __device__ __forceinline__ u32 narrow2<f16>(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <> __device__ __forceinline__ u32 narrow2<bf16>(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <typename T> __device__ __forceinline__ float2 widen2(u32 pair);
template <> __device__ __forceinline__ float2 widen2<bf16>(u32 pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 widen2<f16>(u32 pair) {
    return make_float2(widen(f16{(u16)pair}), widen(f16{(u16)(pair >> 16)}));
}

template <int CODE> struct Format;
template <> struct Format<0> { typedef float type; };
template <> struct Format<1> { typedef f16 type; };
template <> struct Format<2> { typedef bf16 type; };

// T where it has 16 bits; where it has not, code that names this is never reached.
template <typename T> struct HalfOr { typedef T type; };
template <> struct HalfOr<float> { typedef bf16 type; };

typedef Format<WEIGHT_TYPE>::type W;
typedef Format<CACHE_TYPE>::type C;

// ---- pages and lanes (Rust: cuda/lanes.rs) --------------------------------------------------------------------

// A page: for each KV head of the lane its keys [32][d], then its values [32][d]; then the key gates [32][r]; then
// positions, lifetimes and killers, u32 [32] each, and statistics, f32 [32] each. Entry i of a lane is slot i % 32 of page i / 32.
//
// In a page of codes those rows are codes, and before the key gates come for each KV head the steps of its keys
// [32][groups], then of its values: step and least number of a group, f16 both, in a word (Rust: page/format.rs). A code of 4 bits is the low
// half of its byte for even dimensions, the high half for odd ones.
constexpr bool CODED = CODE_BITS != 0;
constexpr u32 LANE_HEADS = KV_HEADS / GROUPS;
constexpr u32 KEY_GROUP = 64, VALUE_GROUP = CODE_BITS == 4 ? 32 : 64;
constexpr u32 KEY_GROUPS = CODED ? (HEAD_DIM + KEY_GROUP - 1) / KEY_GROUP : 0;
constexpr u32 VALUE_GROUPS = CODED ? (HEAD_DIM + VALUE_GROUP - 1) / VALUE_GROUP : 0;
constexpr u32 KEY_ROW = CODED ? HEAD_DIM : HEAD_DIM * sizeof(C);  // bytes
constexpr u32 VALUE_ROW = CODED ? HEAD_DIM * CODE_BITS / 8 : KEY_ROW;
constexpr u64 HEAD_BYTES = (u64)PAGE_ENTRIES * (KEY_ROW + VALUE_ROW);
constexpr u64 STEP_OFFSET = LANE_HEADS * HEAD_BYTES;
constexpr u64 HEAD_STEPS = 4ull * PAGE_ENTRIES * (KEY_GROUPS + VALUE_GROUPS);
constexpr u64 SIDE_OFFSET = STEP_OFFSET + LANE_HEADS * HEAD_STEPS;
constexpr u64 POSITION_OFFSET = (SIDE_OFFSET + (u64)PAGE_ENTRIES * SIDE_WIDTH * sizeof(C) + 127) / 128 * 128;
constexpr u64 LIFETIME_OFFSET = POSITION_OFFSET + 128;
constexpr u64 KILLER_OFFSET = POSITION_OFFSET + 256;
constexpr u64 STATISTIC_OFFSET = POSITION_OFFSET + 384;
constexpr u64 PAGE_BYTES = STATISTIC_OFFSET + 128 * STATISTICS;
static_assert(PAGE_BYTES == BYTES_OF_PAGE, "the host's pages are laid out otherwise");
static_assert(!CODED || HEAD_DIM % 8 == 0, "rows of codes are whole words");

// What a code stands for; code times step is exact, so this is the host's number.
__device__ __forceinline__ float decoded(u32 code, u32 steps) {
    return fmaf((float)code, widen(f16{(u16)steps}), widen(f16{(u16)(steps >> 16)}));
}

struct Page {
    u8* base;
    // Of a page of numbers.
    __device__ __forceinline__ C* keys(u32 head) const { return (C*)(base + head * HEAD_BYTES); }
    __device__ __forceinline__ C* values(u32 head) const { return keys(head) + PAGE_ENTRIES * HEAD_DIM; }
    // Of a page of codes: rows [32][KEY_ROW] and [32][VALUE_ROW], steps [32][groups].
    __device__ __forceinline__ u8* key_codes(u32 head) const { return base + head * HEAD_BYTES; }
    __device__ __forceinline__ u8* value_codes(u32 head) const { return key_codes(head) + PAGE_ENTRIES * KEY_ROW; }
    __device__ __forceinline__ u32* key_steps(u32 head) const { return (u32*)(base + STEP_OFFSET + head * HEAD_STEPS); }
    __device__ __forceinline__ u32* value_steps(u32 head) const { return key_steps(head) + PAGE_ENTRIES * KEY_GROUPS; }
    // One number of an entry's key or value, whatever it is stored as.
    __device__ __forceinline__ float key(u32 head, u32 slot, u32 column) const {
        if constexpr (!CODED) return widen(keys(head)[slot * HEAD_DIM + column]);
        else return decoded(key_codes(head)[slot * KEY_ROW + column], key_steps(head)[slot * KEY_GROUPS + column / KEY_GROUP]);
    }
    __device__ __forceinline__ float value(u32 head, u32 slot, u32 column) const {
        if constexpr (!CODED) return widen(values(head)[slot * HEAD_DIM + column]);
        const u8* row = value_codes(head) + slot * VALUE_ROW;
        const u32 code = CODE_BITS == 4 ? row[column / 2] >> (column % 2 * 4) & 15 : row[column];
        return decoded(code, value_steps(head)[slot * VALUE_GROUPS + column / VALUE_GROUP]);
    }
    __device__ __forceinline__ C* side() const { return (C*)(base + SIDE_OFFSET); }
    __device__ __forceinline__ u32* positions() const { return (u32*)(base + POSITION_OFFSET); }
    __device__ __forceinline__ u32* expires_at() const { return (u32*)(base + LIFETIME_OFFSET); }
    __device__ __forceinline__ u32* killers() const { return (u32*)(base + KILLER_OFFSET); }
    __device__ __forceinline__ float* statistics() const { return (float*)(base + STATISTIC_OFFSET); }
};

// The pages that no lane holds: `free + owed` of them lie on the stack. Those owed are what lanes were refused in this
// step: they were taken off `free`, because a counter that blocks take from together cannot be mended before all have.
struct Pool {
    u32 free;     // wraps
    u32 owed;
    u32 refused;  // lanes that could not grow in this step
};

// All lanes of all sequences. A lane's number is (slot * layers + layer) * GROUPS + group.
struct Lanes {
    u8* pages;
    u32* tables;    // [lanes][max_pages]: page numbers
    u32* lengths;   // [lanes]: live entries
    u32* free;      // [capacity]: numbers of the free pages, a stack
    Pool* pool;
    u64* overflows;  // [slots]: the first number that the pages could not hold, or all bits (lifetimes/status.rs)
    u32 layers, max_pages, slots, capacity;

    // Whether this slot exists: that of padding does not.
    __device__ __forceinline__ bool has(u32 slot) const { return slot < slots; }
    __device__ __forceinline__ u32 lane(u32 slot, u32 layer, u32 group) const { return (slot * layers + layer) * GROUPS + group; }
    __device__ __forceinline__ Page page(u32 lane, u32 index) const {
        return Page{pages + (u64)tables[(u64)lane * max_pages + index] * PAGE_BYTES};
    }
};

// A row of a step: one new token.
struct Row {
    u32 slot;      // its sequence's slot; one that does not exist is padding, which every kernel passes over
    u32 token;
    u32 position;
    u32 back;      // its entry is lengths[lane] - back % 2^31, once the lanes have grown; the highest bit is set in prompts
};

// The rows of one sequence in a step.
struct Span {
    u32 slot;      // one that does not exist is padding
    u32 first_row, queries, first_position;
};

// ---- launches that overlap (sm_90): the next kernel may start before this one has ended ---------------------------

__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ---- warps --------------------------------------------------------------------------------------------------

constexpr u32 ALL = 0xffffffffu;
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(ALL, x, i);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, i));
    return x;
}
__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
// Two to the x, with the special-function unit; 0 for -infinity.
__device__ __forceinline__ float two_to(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
