// The table of angles, and what makes a step's keys and values entries of their lanes.

struct Angles {
    const float* inv_freq;   // [pairs]
    float2* table;           // [positions][pairs]: cos and sin
    u64 count;
    u32 pairs;
    float scaling;
};

extern "C" __global__ void __launch_bounds__(TABLE_THREADS) rope_table(Angles p) {
    u64 at = (u64)blockIdx.x * TABLE_THREADS + threadIdx.x;
    if (at >= p.count) return;
    // The f32 product of position and frequency, as in transformers; its cos and sin correctly rounded.
    float angle = __fmul_rn((float)(u32)(at / p.pairs), p.inv_freq[at % p.pairs]);
    double s, c;
    sincos((double)angle, &s, &c);
    p.table[at] = make_float2(__fmul_rn((float)c, p.scaling), __fmul_rn((float)s, p.scaling));
}

// A rule by which an entry's end is known when it is born.
struct Birth {
    u32 kind;   // SHARE: a share of all positions; GATE: what the lane's gate refuses; WINDOW_BEHIND: a window behind prompts; else a window
    u32 sinks, recent;
    u32 floor_sinks, floor_recent;
    u32 lanes[4];   // a bit for each lane of the layer
    double keep;
};
struct Births {
    u32 count;
    Birth rules[MOST_RULES];
};

struct Append {
    Lanes lanes;
    const Row* rows;
    W* qkv;                    // [rows][(h + 2 g) d]: queries are turned in place, keys and values go to the pages
    const float* query_norm;   // [d], or none
    const float* key_norm;     // [d], or none
    const float2* angles;      // [positions][pairs], or none
    const float* gates;        // [rows][2 gate_heads r]: query gates, then key gates; with a bias [rows][gate_heads]: scores; or none
    const float* bias;         // [gate_heads]: added to scores; or none
    const u32* shifts;         // [slots]: how many positions before its own a token is turned; or none
    u32 layer, pairs, positions, gate_heads;
    float epsilon;
    Births births;
};

constexpr u32 QKV = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
// A task is one head of queries, keys or values, or what a lane knows of an entry beside them.
constexpr u32 APPEND_TASKS = QUERY_HEADS + 2 * KV_HEADS + GROUPS;
// Numbers of a head that a thread holds, two by two.
constexpr u32 TWOS = (HEAD_DIM / 2 + 31) / 32;

template <typename T> __device__ __forceinline__ float2 read2(const T* from) {
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(*(const u32*)from);
    else return *(const float2*)from;
}
template <typename T> __device__ __forceinline__ void write2(T* to, float2 x) {
    if constexpr (sizeof(T) == 2) *(u32*)to = narrow2<typename HalfOr<T>::type>(x.x, x.y);
    else *(float2*)to = x;
}

// Whether the cache holds x only as infinity or NaN, in a side channel or in keys and values.
__device__ __forceinline__ bool outside(float x, u32 from) {
    return CACHE_TYPE != 0 && (__float_as_uint(x) & 0x7fffffffu) >= from;
}
// Tells the host of such a number; of several the one that comes first, by position and layer (lifetimes/status.rs).
__device__ __noinline__ void tell_overflow(const Lanes& lanes, const Row& row, u32 layer, u32 what, float x) {
    // Away from zero, so that what is told is outside too.
    const u32 number = x != x ? 0x7fc0 : __float_as_uint(x) + 0xffff >> 16;
    const u64 word = (u64)row.position << 32 | min(layer, OVERFLOW_LAYERS) << 18 | what << 16 | number;
    atomicMin(lanes.overflows + row.slot, word);
}

__device__ __forceinline__ u32 saturating_add(u32 a, u32 b) { return a > NEVER - b ? NEVER : a + b; }

// What the rules give to an entry at `position` of a lane; `refused` is what the lane's gate says of it.
__device__ Fate fate_at_birth(const Births& births, u32 position, u32 group, bool in_prompt, bool refused) {
    Fate fate{NEVER, NEVER};
    for (u32 i = 0; i < births.count; i++) {
        const Birth& rule = births.rules[i];
        if ((rule.lanes[group / 32 % 4] >> group % 32 & 1) == 0) continue;
        if (rule.kind == WINDOW_BEHIND && in_prompt) continue;
        u32 wished;
        if (rule.kind == GATE) {
            if (!refused) continue;
            wished = position + 1;
        } else if (rule.kind == SHARE) {
            const double share = rule.keep;
            // Rounded products, as the host computes them: a fused one would decide some positions otherwise.
            if (floor(__dmul_rn((double)position + 1.0, share)) > floor(__dmul_rn((double)position, share))) continue;
            wished = position + 1;
        } else {
            if (position < rule.sinks) continue;
            wished = saturating_add(position, rule.recent);
        }
        fate = lowered(fate, position, wished, wished, Floors{rule.floor_sinks, rule.floor_recent});
    }
    return fate;
}

// The norm of a head's numbers, which a warp holds together.
__device__ __forceinline__ void head_norm(float2 (&x)[TWOS], const float* weight, float epsilon, u32 thread) {
    float squares = 0.0f;
#pragma unroll
    for (u32 i = 0; i < TWOS; i++) squares += x[i].x * x[i].x + x[i].y * x[i].y;
    float scale = 1.0f / sqrtf(warp_sum(squares) / (float)HEAD_DIM + epsilon);
#pragma unroll
    for (u32 i = 0; i < TWOS; i++) {
        u32 at = (i * 32 + thread) * 2;
        if (at < HEAD_DIM) x[i] = make_float2(x[i].x * scale * weight[at], x[i].y * scale * weight[at + 1]);
    }
}

// The f16 next to x that is not above it, or not below it.
__device__ __forceinline__ u32 f16_below(float x) {
    u16 y;
    asm("cvt.rm.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ u32 f16_above(float x) {
    u16 y;
    asm("cvt.rp.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// Codes a head's numbers, which a warp holds together, as the host does (Rust: page/codes.rs): BITS each, with the steps of
// groups of GROUP dimensions.
template <u32 BITS, u32 GROUP> __device__ __forceinline__ void encode(const float2 (&x)[TWOS], u8* codes, u32* steps, u32 thread) {
    constexpr float LARGEST = (float)((1u << BITS) - 1);
#pragma unroll
    for (u32 i = 0; i < TWOS; i++) {
        // Threads of a group hold 2 dimensions each: 32 of them, or 16.
        const u32 at = (i * 32 + thread) * 2;
        const bool there = at < HEAD_DIM;
        float least = there ? fminf(x[i].x, x[i].y) : infinity(), most = there ? fmaxf(x[i].x, x[i].y) : -infinity();
#pragma unroll
        for (u32 lane = GROUP / 4; lane > 0; lane /= 2) {
            least = fminf(least, __shfl_xor_sync(ALL, least, lane));
            most = fmaxf(most, __shfl_xor_sync(ALL, most, lane));
        }
        const u32 low = f16_below(least);
        least = widen(f16{(u16)low});
        const u32 high = f16_above(__fdiv_rn(__fsub_rn(most, least), LARGEST));
        const float step = widen(f16{(u16)high});
        const auto code = [&](float number) {
            if (step == 0.0f) return 0u;
            // Not a number becomes 0, as on the host.
            const float code = fminf(fmaxf(rintf(__fdiv_rn(__fsub_rn(number, least), step)), 0.0f), LARGEST);
            return (u32)code;
        };
        if (!there) continue;
        const u32 first = code(x[i].x), second = code(x[i].y);
        if constexpr (BITS == 8) *(u16*)(codes + at) = (u16)(first | second << 8);
        else codes[at / 2] = (u8)(first | second << 4);
        if (at % GROUP == 0) steps[at / GROUP] = high | low << 16;
    }
}

// One number of a turned head; `head` holds all of them.
__device__ __forceinline__ float turned(const float* head, u32 at, const float2* angles, u32 pairs) {
    if (at >= 2 * pairs) return head[at];
    bool low = at < pairs;
    u32 pair = low ? at : at - pairs;
    float2 angle = angles[pair];
    float other = __fmul_rn(head[low ? at + pairs : pair], angle.y);
    float own = __fmul_rn(head[at], angle.x);
    return low ? __fsub_rn(own, other) : __fadd_rn(own, other);
}

extern "C" __global__ void __launch_bounds__(32 * APPEND_WARPS) append(Append p) {
    __shared__ float heads[APPEND_WARPS][HEAD_DIM];
    let_next_start();
    wait_for_previous();
    u32 warp = threadIdx.x / 32, thread = threadIdx.x % 32;
    u32 task = blockIdx.y * APPEND_WARPS + warp;
    Row row = p.rows[blockIdx.x];
    if (!p.lanes.has(row.slot) || task >= APPEND_TASKS) return;

    constexpr u32 FIRST_VALUE = QUERY_HEADS + KV_HEADS, FIRST_LANE = QUERY_HEADS + 2 * KV_HEADS;
    bool query = task < QUERY_HEADS, key = !query && task < FIRST_VALUE;
    const float* weight = query ? p.query_norm : p.key_norm;
    if (query && !weight && !p.angles) return;
    u32 kv_head = query ? 0 : key ? task - QUERY_HEADS : task - FIRST_VALUE;
    u32 group = task >= FIRST_LANE ? task - FIRST_LANE : kv_head / LANE_HEADS;

    W* head = p.qkv + (u64)blockIdx.x * QKV + (u64)task * HEAD_DIM;
    float2 x[TWOS];
    if (task < FIRST_LANE) {
#pragma unroll
        for (u32 i = 0; i < TWOS; i++) {
            u32 at = (i * 32 + thread) * 2;
            x[i] = at < HEAD_DIM ? read2(head + at) : make_float2(0.0f, 0.0f);
        }
    }
    Page page = {};
    u32 slot = 0;
    if (!query) {
        u32 lane = p.lanes.lane(row.slot, p.layer, group);
        u32 length = p.lanes.lengths[lane];
        // Lanes that could not grow have no such entry.
        u32 back = row.back & 0x7fffffffu;
        if (back == 0 || back > length) return;
        u32 entry = length - back;
        page = p.lanes.page(lane, entry / PAGE_ENTRIES);
        slot = entry % PAGE_ENTRIES;
    }

    if (task >= FIRST_LANE) {
        const u32 gate = p.gate_heads == 1 ? 0 : group;
        if constexpr (SIDE_WIDTH > 0) {
            if (p.gates && !p.bias) {
                const float* from = p.gates + ((u64)blockIdx.x * 2 * p.gate_heads + p.gate_heads + gate) * SIDE_WIDTH;
                C* to = page.side() + slot * SIDE_WIDTH;
                for (u32 i = thread; i < SIDE_WIDTH; i += 32) {
                    to[i] = narrow<C>(from[i]);
                    if (outside(from[i], INFINITE_FROM)) tell_overflow(p.lanes, row, p.layer, OVERFLOW_SIDE, from[i]);
                }
            }
        }
        if (thread == 0) {
            // A score that is no number refuses.
            const bool refused = p.bias && !(p.gates[(u64)blockIdx.x * p.gate_heads + gate] + p.bias[gate] > 0.0f);
            const Fate fate = fate_at_birth(p.births, row.position, group, row.back >> 31, refused);
            page.positions()[slot] = row.position;
            page.expires_at()[slot] = fate.expires_at;
            page.killers()[slot] = fate.killer;
#pragma unroll
            for (u32 i = 0; i < STATISTICS; i++) page.statistics()[i * PAGE_ENTRIES + slot] = 0.0f;
        }
        return;
    }
    if (task >= FIRST_VALUE) {
        C* to = page.values(kv_head % LANE_HEADS) + slot * HEAD_DIM;
        if constexpr (CODED) {
            const u32 lane_head = kv_head % LANE_HEADS;
            encode<CODED ? CODE_BITS : 8, VALUE_GROUP>(x, page.value_codes(lane_head) + slot * VALUE_ROW,
                                           page.value_steps(lane_head) + slot * VALUE_GROUPS, thread);
        }
#pragma unroll
        for (u32 i = 0; i < TWOS; i++) {
            u32 at = (i * 32 + thread) * 2;
            if (!CODED && at < HEAD_DIM) write2(to + at, x[i]);
            if (outside(x[i].x, ROWS_INFINITE_FROM)) tell_overflow(p.lanes, row, p.layer, OVERFLOW_VALUE, x[i].x);
            if (outside(x[i].y, ROWS_INFINITE_FROM)) tell_overflow(p.lanes, row, p.layer, OVERFLOW_VALUE, x[i].y);
        }
        return;
    }
    if (weight) head_norm(x, weight, p.epsilon, thread);
    if (p.angles) {
        u32 position = row.position < p.positions ? row.position : p.positions - 1;
        if (p.shifts) position -= min(p.shifts[row.slot], position);
        const float2* angles = p.angles + (u64)position * p.pairs;
#pragma unroll
        for (u32 i = 0; i < TWOS; i++) {
            u32 at = (i * 32 + thread) * 2;
            if (at < HEAD_DIM) *(float2*)(heads[warp] + at) = x[i];
        }
        __syncwarp();
#pragma unroll
        for (u32 i = 0; i < TWOS; i++) {
            u32 at = (i * 32 + thread) * 2;
            if (at < HEAD_DIM) {
                x[i] = make_float2(turned(heads[warp], at, angles, p.pairs), turned(heads[warp], at + 1, angles, p.pairs));
            }
        }
    }
    C* to = query ? (C*)0 : page.keys(kv_head % LANE_HEADS) + slot * HEAD_DIM;
    if constexpr (CODED) {
        const u32 lane_head = kv_head % LANE_HEADS;
        if (!query) {
            encode<8, KEY_GROUP>(x, page.key_codes(lane_head) + slot * KEY_ROW,
                                 page.key_steps(lane_head) + slot * KEY_GROUPS, thread);
        }
    }
#pragma unroll
    for (u32 i = 0; i < TWOS; i++) {
        u32 at = (i * 32 + thread) * 2;
        if (at >= HEAD_DIM) continue;
        if (query) {
            write2(head + at, x[i]);
            continue;
        }
        if (!CODED) write2(to + at, x[i]);
        if (outside(x[i].x, ROWS_INFINITE_FROM)) tell_overflow(p.lanes, row, p.layer, OVERFLOW_KEY, x[i].x);
        if (outside(x[i].y, ROWS_INFINITE_FROM)) tell_overflow(p.lanes, row, p.layer, OVERFLOW_KEY, x[i].y);
    }
}
