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
    u32 count;                 // rows
    u32 layer, pairs, positions, gate_heads;
    float epsilon;
    Births births;
};

constexpr u32 QKV = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
// A task is one head of queries, keys or values, or what a lane knows of an entry beside them.
constexpr u32 APPEND_TASKS = QUERY_HEADS + 2 * KV_HEADS + GROUPS;
// A task has HEAD_THREADS neighbouring threads of a warp. A head's numbers lie across them VECTOR at a time: number k of vector i of thread t is
// (i HEAD_THREADS + t) VECTOR + k.
constexpr u32 VECTORS = (HEAD_DIM / VECTOR + HEAD_THREADS - 1) / HEAD_THREADS;
typedef float Head[VECTORS][VECTOR];

// The threads of a warp that have this thread's task.
__device__ __forceinline__ u32 task_threads() {
    if constexpr (HEAD_THREADS == 32) return ALL;
    else return ((1u << HEAD_THREADS % 32) - 1) << threadIdx.x % 32 / HEAD_THREADS * HEAD_THREADS;
}
// Calls `use(i, at)` for each vector of this thread and the place of its first number.
template <typename Use> __device__ __forceinline__ void each_vector(Use use) {
#pragma unroll
    for (u32 i = 0; i < VECTORS; i++) {
        const u32 at = (i * HEAD_THREADS + threadIdx.x % HEAD_THREADS) * VECTOR;
        if (at < HEAD_DIM) use(i, at);
    }
}

// Tells the host of numbers that the cache, in a side channel or in keys and values, holds only as infinity or NaN: of several the one that
// comes first, by position and layer (lifetimes/status.rs). `infinite` is the least such number's bits.
template <u32 COUNT>
__device__ __forceinline__ void tell_overflows(const Append& p, const Row& row, u32 what, const float (&x)[COUNT], u32 infinite) {
    if (CACHE_TYPE == 0) return;
    u32 most = 0;
#pragma unroll
    for (u32 k = 0; k < COUNT; k++) most = max(most, __float_as_uint(x[k]) & 0x7fffffffu);
    if (most < infinite) return;
#pragma unroll
    for (u32 k = 0; k < COUNT; k++) {
        if ((__float_as_uint(x[k]) & 0x7fffffffu) < infinite) continue;
        // Away from zero, so that what is told is outside too.
        const u32 number = x[k] != x[k] ? 0x7fc0 : __float_as_uint(x[k]) + 0xffff >> 16;
        const u64 word = (u64)row.position << 32 | min(p.layer, OVERFLOW_LAYERS) << 18 | what << 16 | number;
        atomicMin(p.lanes.overflows + row.slot, word);
    }
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

// The norm of a head's numbers.
__device__ __forceinline__ void head_norm(Head& x, const float* weight, float epsilon) {
    float squares = 0.0f;
    each_vector([&](u32 i, u32) {
#pragma unroll
        for (u32 k = 0; k < VECTOR; k++) squares += x[i][k] * x[i][k];
    });
#pragma unroll
    for (u32 lane = HEAD_THREADS / 2; lane > 0; lane /= 2) squares += __shfl_xor_sync(task_threads(), squares, lane);
    const float scale = 1.0f / sqrtf(squares / (float)HEAD_DIM + epsilon);
    each_vector([&](u32 i, u32 at) {
#pragma unroll
        for (u32 k = 0; k < VECTOR; k++) x[i][k] = x[i][k] * scale * weight[at + k];
    });
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

// Codes a head's numbers as the host does (Rust: page/codes.rs): BITS each, with the steps of groups of GROUP dimensions.
template <u32 BITS, u32 GROUP> __device__ __forceinline__ void encode(const Head& x, u8* codes, u32* steps) {
    static_assert(!CODED || VECTORS == 1 && VECTOR == 8, "a word or two of codes for each thread");
    constexpr float LARGEST = (float)((1u << BITS) - 1);
    constexpr u32 GROUP_THREADS = GROUP / VECTOR < HEAD_THREADS ? GROUP / VECTOR : HEAD_THREADS;
    const u32 at = threadIdx.x % HEAD_THREADS * VECTOR;
    float least = infinity(), most = -infinity();
#pragma unroll
    for (u32 k = 0; k < VECTOR && at < HEAD_DIM; k++) least = fminf(least, x[0][k]), most = fmaxf(most, x[0][k]);
#pragma unroll
    for (u32 lane = GROUP_THREADS / 2; lane > 0; lane /= 2) {
        least = fminf(least, __shfl_xor_sync(task_threads(), least, lane));
        most = fmaxf(most, __shfl_xor_sync(task_threads(), most, lane));
    }
    const u32 low = f16_below(least);
    least = widen(f16{(u16)low});
    const u32 high = f16_above(__fdiv_rn(__fsub_rn(most, least), LARGEST));
    const float step = widen(f16{(u16)high});
    if (at >= HEAD_DIM) return;
    u32 words[BITS / 4] = {};
#pragma unroll
    for (u32 k = 0; k < VECTOR && step != 0.0f; k++) {
        // Not a number becomes 0, as on the host.
        const float code = fminf(fmaxf(rintf(__fdiv_rn(__fsub_rn(x[0][k], least), step)), 0.0f), LARGEST);
        words[k * BITS / 32] |= (u32)code << k * BITS % 32;
    }
    u32* to = (u32*)(codes + at * BITS / 8);
#pragma unroll
    for (u32 i = 0; i < BITS / 4; i++) to[i] = words[i];
    if (at % GROUP == 0) steps[at / GROUP] = high | low << 16;
}

// Cos and sin of what turns each number; 1 and 0 where nothing does.
typedef float Turns[VECTORS][2 * VECTOR];
__device__ __forceinline__ void load_turns(Turns& turns, const float2* angles, u32 pairs) {
    each_vector([&](u32 i, u32 at) {
        // All of a vector is turned by one side of so many pairs, or none of it is.
        if (pairs % VECTOR == 0 && at < 2 * pairs) return load(turns[i], (const float*)(angles + (at < pairs ? at : at - pairs)));
#pragma unroll
        for (u32 k = 0; k < VECTOR; k++) {
            const u32 number = at + k;
            const float2 angle = number < 2 * pairs ? angles[number < pairs ? number : number - pairs] : make_float2(1.0f, 0.0f);
            turns[i][2 * k] = angle.x, turns[i][2 * k + 1] = angle.y;
        }
    });
}
// Turns a head. Others' numbers come through `head`, [HEAD_DIM] in shared memory.
__device__ __forceinline__ void turn(Head& x, float* head, const Turns& turns, u32 pairs) {
    each_vector([&](u32 i, u32 at) { store(head + at, x[i]); });
    __syncwarp(task_threads());
    each_vector([&](u32 i, u32 at) {
        if (at >= 2 * pairs) return;
        float partner[VECTOR];
        if (pairs % VECTOR == 0) {
            load(partner, head + (at < pairs ? at + pairs : at - pairs));
        } else {
#pragma unroll
            for (u32 k = 0; k < VECTOR; k++) {
                const u32 number = at + k;
                partner[k] = number < 2 * pairs ? head[number < pairs ? number + pairs : number - pairs] : 0.0f;
            }
        }
#pragma unroll
        for (u32 k = 0; k < VECTOR; k++) {
            if (at + k >= 2 * pairs) break;
            const float own = __fmul_rn(x[i][k], turns[i][2 * k]), other = __fmul_rn(partner[k], turns[i][2 * k + 1]);
            x[i][k] = at + k < pairs ? __fsub_rn(own, other) : __fadd_rn(own, other);
        }
    });
}

extern "C" __global__ void __launch_bounds__(APPEND_THREADS) append(Append p) {
    __shared__ __align__(16) float heads[APPEND_THREADS / HEAD_THREADS][HEAD_DIM];
    // Until the kernel before has ended, only what it and its like do not write is read: where entries lie, and angles.
    let_next_start();
    const u32 item = (blockIdx.x * APPEND_THREADS + threadIdx.x) / HEAD_THREADS, at_row = item / APPEND_TASKS;
    const u32 task = item % APPEND_TASKS, thread = threadIdx.x % HEAD_THREADS;
    constexpr u32 FIRST_VALUE = QUERY_HEADS + KV_HEADS, FIRST_LANE = QUERY_HEADS + 2 * KV_HEADS;
    const bool query = task < QUERY_HEADS;
    const float* weight = query ? p.query_norm : p.key_norm;
    const u32 kv_head = query ? 0 : task < FIRST_VALUE ? task - QUERY_HEADS : task - FIRST_VALUE;
    const u32 group = task >= FIRST_LANE ? task - FIRST_LANE : kv_head / LANE_HEADS, lane_head = kv_head % LANE_HEADS;
    Row row;
    Page page = {};
    u32 slot = 0;
    Turns turns;
    const auto find = [&] {
        if (at_row >= p.count || query && !weight && !p.angles) return false;
        row = p.rows[at_row];
        if (!p.lanes.has(row.slot)) return false;
        if (!query) {
            const u32 lane = p.lanes.lane(row.slot, p.layer, group), length = p.lanes.lengths[lane];
            // Lanes that could not grow have no such entry.
            const u32 back = row.back & 0x7fffffffu;
            if (back == 0 || back > length) return false;
            const u32 entry = length - back;
            page = p.lanes.page(lane, entry / PAGE_ENTRIES);
            slot = entry % PAGE_ENTRIES;
        }
        if (task < FIRST_VALUE && p.angles) {
            u32 position = row.position < p.positions ? row.position : p.positions - 1;
            if (p.shifts) position -= min(p.shifts[row.slot], position);
            load_turns(turns, p.angles + (u64)position * p.pairs, p.pairs);
        }
        return true;
    };
    const bool there = find();
    // All wait, whether they have something to do or not: who waits for this kernel waits for the one before it, too.
    wait_for_previous();
    if (!there) return;
    W* head = p.qkv + (u64)at_row * QKV + (u64)task * HEAD_DIM;
    Head x = {};
    if (task < FIRST_LANE) each_vector([&](u32 i, u32 at) { load(x[i], head + at); });

    if (task >= FIRST_LANE) {
        const u32 gate = p.gate_heads == 1 ? 0 : group;
        if constexpr (SIDE_WIDTH > 0) {
            if (p.gates && !p.bias) {
                const float* from = p.gates + ((u64)at_row * 2 * p.gate_heads + p.gate_heads + gate) * SIDE_WIDTH;
                C* to = page.side() + slot * SIDE_WIDTH;
                for (u32 i = thread; i < SIDE_WIDTH; i += HEAD_THREADS) {
                    const float number[1] = {from[i]};
                    to[i] = narrow<C>(number[0]);
                    tell_overflows(p, row, OVERFLOW_SIDE, number, INFINITE_FROM);
                }
            }
        }
        if (thread == 0) {
            // A score that is no number refuses.
            const bool refused = p.bias && !(p.gates[(u64)at_row * p.gate_heads + gate] + p.bias[gate] > 0.0f);
            const Fate fate = fate_at_birth(p.births, row.position, group, row.back >> 31, refused);
            page.positions()[slot] = row.position;
            page.expires_at()[slot] = fate.expires_at;
            page.killers()[slot] = fate.killer;
#pragma unroll
            for (u32 i = 0; i < STATISTICS; i++) page.statistics()[i * PAGE_ENTRIES + slot] = 0.0f;
        }
        return;
    }
    if (task < FIRST_VALUE) {
        if (weight) head_norm(x, weight, p.epsilon);
        if (p.angles) turn(x, heads[threadIdx.x / HEAD_THREADS], turns, p.pairs);
        if (query) {
            each_vector([&](u32 i, u32 at) { store(head + at, x[i]); });
            return;
        }
    }
    const bool value = task >= FIRST_VALUE;
    if constexpr (CODED) {
        constexpr u32 BITS = CODED ? CODE_BITS : 8;
        if (value) encode<BITS, VALUE_GROUP>(x, page.value_codes(lane_head) + slot * VALUE_ROW, page.value_steps(lane_head) + slot * VALUE_GROUPS);
        else encode<8, KEY_GROUP>(x, page.key_codes(lane_head) + slot * KEY_ROW, page.key_steps(lane_head) + slot * KEY_GROUPS);
    }
    C* to = (value ? page.values(lane_head) : page.keys(lane_head)) + slot * HEAD_DIM;
    each_vector([&](u32 i, u32 at) {
        if (!CODED) store(to + at, x[i]);
        tell_overflows(p, row, value ? OVERFLOW_VALUE : OVERFLOW_KEY, x[i], ROWS_INFINITE_FROM);
    });
}
