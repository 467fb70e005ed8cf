// Products of a few rows with a weight that is read once: what decoding does. Bound by the memory, so everything here
// serves one end, that copies of weights are always on their way.
//
// One block per multiprocessor, with a stretch of neighbouring outputs. A unit is NR outputs, or NR / 2 gates and their
// ups; `split` warps share it, each every split-th chunk of 32 vectors of 16 bytes. A warp runs through its units as
// through one stream of steps, a chunk of each of the unit's outputs, with the next `depth` steps on their way to a ring
// in shared memory. A lane reads only what it copied itself, so a ring needs no barrier. It is filled before the kernel
// waits for the one before it, because weights never change.

struct Stream {
    const uint4* weights;       // T [outputs][inputs]
    const void* x;              // T [ROWS][inputs]; with a norm the residual, f32 [ROWS][inputs]
    const float* norm_weight;   // [inputs], or none
    const float* norm_bias;     // [inputs]: a layer norm; without it an RMS norm
    const float* bias;          // [outputs], or none
    void* out;                  // [ROWS][out_width], f32 or W
    u32 outputs, inputs;
    u32 out_width;              // outputs, or half of them where they are gates and ups
    u32 split;                  // warps that share a unit; in gemv_mma.cu blocks that share outputs
    u32 depth;                  // of the ring, in steps
    u32 kind, activation;
    u32 rows, wide;             // of `stream_any` only: rows, and whether x and weights are f32
    float epsilon;
};

constexpr u32 WARPS = STREAM_THREADS / 32;
constexpr u32 STEP = NR * STREAM_THREADS;   // vectors of the ring that a step takes
constexpr u32 LATER = 4;                    // steps after the ring's that the second-level cache fetches beside x
constexpr u32 HOLD = 4;                     // vectors of the residual that a thread keeps between passes of a norm

// 16 bytes as numbers.
template <typename T> __device__ __forceinline__ float2 two(const uint4& x, u32 i) {
    u32 words[4] = {x.x, x.y, x.z, x.w};
    if constexpr (sizeof(T) == 2) return widen2<typename HalfOr<T>::type>(words[i]);
    else return make_float2(__uint_as_float(words[2 * i]), __uint_as_float(words[2 * i + 1]));
}

template <typename T> __device__ __forceinline__ void write4(T* to, float4 x) {
    if constexpr (sizeof(T) == 2) {
        typedef typename HalfOr<T>::type H;
        *(uint2*)to = make_uint2(narrow2<H>(x.x, x.y), narrow2<H>(x.z, x.w));
    } else {
        *(float4*)to = x;
    }
}

// Sums over the block of ROWS numbers at once, to every thread.
template <int ROWS> __device__ __forceinline__ void block_sums(float (&x)[ROWS], float (&partials)[WARPS][ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        x[r] = warp_sum(x[r]);
        if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32][r] = x[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        x[r] = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; w++) x[r] += partials[w][r];
    }
}

// Sums over the warp of COUNT numbers, a power of two: lane l gets that of number l * COUNT / 32. Each exchange halves
// how many numbers a lane still has to do with.
template <int COUNT> __device__ __forceinline__ float warp_sums(float (&x)[COUNT]) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int level = 0; level < 5; level++) {
        const int n = COUNT >> (level + 1), distance = 16 >> level;
        const bool upper = lane & distance;
        if (n == 0) x[0] += __shfl_xor_sync(ALL, x[0], distance);
#pragma unroll
        for (int j = 0; j < COUNT / 2; j++) {
            if (j >= n) break;
            float give = upper ? x[j] : x[j + n], keep = upper ? x[j + n] : x[j];
            x[j] = keep + __shfl_xor_sync(ALL, give, distance);
        }
    }
    return x[0];
}

__device__ __forceinline__ float4 load4(const float* from, u32 at, u32 end) {
    return at < end ? *(const float4*)(from + at) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
__device__ __forceinline__ float total(float4 v) { return v.x + v.y + v.z + v.w; }
__device__ __forceinline__ float4 minus(float4 v, float y) { return make_float4(v.x - y, v.y - y, v.z - y, v.w - y); }
__device__ __forceinline__ float squares(float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; }
__device__ __forceinline__ float4 scaled(float4 v, float scale, float4 w, float4 b) {
    return make_float4(fmaf(v.x * scale, w.x, b.x), fmaf(v.y * scale, w.y, b.y), fmaf(v.z * scale, w.z, b.z),
                       fmaf(v.w * scale, w.w, b.w));
}

// The norm of each row of the residual, to rows of `pitch` numbers in shared memory, zeros at their ends. Where HELD a
// thread keeps its part of the rows; longer rows are read again for each pass, from the cache.
template <bool HELD, bool EARLY_NORM, typename T, int ROWS>
__device__ __forceinline__ void stage_norm(const Stream& p, T* x, u32 pitch, const float4 (&weight)[HOLD],
                                           float (&partials)[2][WARPS][ROWS]) {
    const float* residual = (const float*)p.x;
    const u32 k = p.inputs;
    float4 held[HELD ? HOLD : 1][ROWS];
    float mean[ROWS], scale[ROWS];
    // Of all vectors of this thread in turn, `use` gets its number, its place and its rows.
    auto pass = [&](auto use) {
        if constexpr (HELD) {
#pragma unroll
            for (u32 j = 0; j < HOLD; j++) use(j, (j * STREAM_THREADS + threadIdx.x) * 4, held[j]);
        } else {
#pragma unroll 1
            for (u32 at = threadIdx.x * 4; at < pitch; at += STREAM_THREADS * 4) {
                float4 v[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) v[r] = load4(residual + (u64)r * k, at, k);
                use(0u, at, v);
            }
        }
    };
    if constexpr (HELD) {
#pragma unroll
        for (u32 j = 0; j < HOLD; j++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) held[j][r] = load4(residual + (u64)r * k, (j * STREAM_THREADS + threadIdx.x) * 4, k);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) mean[r] = scale[r] = 0.0f;
    if (p.norm_bias) {
        pass([&](u32, u32, const float4 (&v)[ROWS]) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) mean[r] += total(v[r]);
        });
        block_sums(mean, partials[0]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) mean[r] /= (float)k;
    }
    pass([&](u32, u32 at, const float4 (&v)[ROWS]) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) scale[r] += at < k ? squares(minus(v[r], mean[r])) : 0.0f;
    });
    block_sums(scale, partials[1]);
#pragma unroll
    for (int r = 0; r < ROWS; r++) scale[r] = 1.0f / sqrtf(scale[r] / (float)k + p.epsilon);
    pass([&](u32 j, u32 at, const float4 (&v)[ROWS]) {
        if (at >= pitch) return;
        float4 w = HELD && EARLY_NORM ? weight[j] : load4(p.norm_weight, at, k);
        float4 b = p.norm_bias ? load4(p.norm_bias, at, k) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            // Past the end weight and shift are zeros, and the row is kept from being anything else.
            float4 y = at < k ? scaled(minus(v[r], mean[r]), scale[r], w, b) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            write4(x + (u64)r * pitch + at, y);
        }
    });
}

template <typename T, int ROWS> __device__ __forceinline__ void stream(const Stream& p) {
    constexpr u32 VECTOR = 16 / sizeof(T);
    constexpr u32 SUMS = ROWS == 3 ? 16 : NR * ROWS;   // of a unit, to a power of two
    constexpr u32 BATCH = 8 / ROWS;                    // units of a warp between two meetings of the block
    extern __shared__ uint4 shared[];                  // the ring, then x: T [ROWS][pitch]
    __shared__ float partials[2][WARPS][ROWS];
    __shared__ float sums[2][BATCH][WARPS][SUMS];
    static_assert(sizeof(partials) + sizeof(sums) <= STATIC_BYTES, "the host leaves no room for these");
    let_next_start();
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 split = p.split, part = warp % split, group = warp / split, groups = WARPS / split;
    const u32 vectors = p.inputs / VECTOR, pitch = (vectors + 31) / 32 * 32;
    // This block's outputs, or gates. A unit has `span` of them; its output i is that many on:
    // i % 2 + i / 2 * far.
    const bool gated = p.kind == SILU_MUL;
    const u32 span = gated ? NR / 2 : NR;
    const u32 low = (u64)p.out_width * blockIdx.x / gridDim.x, high = (u64)p.out_width * (blockIdx.x + 1) / gridDim.x;
    const u32 units = (high - low + span - 1) / span, rounds = (units + groups - 1) / groups;
    const u64 far = (u64)(gated ? p.out_width : 2) * vectors;

    // The next step to copy: its unit, the lane's vector in it, the first of its outputs.
    struct Next {
        u32 unit, at;
        const uint4* source;
    };
    const u32 first = part * 32 + lane;
    Next next = {first < pitch ? group : units, first, p.weights + (u64)(low + group * span) * vectors};
    auto advance = [&](Next& next) {
        next.at += split * 32;
        if (next.at < pitch) return;
        next.at = first, next.unit += groups;
        next.source += (u64)groups * span * vectors;
    };
    const u32 ring = shared_address(shared) + threadIdx.x * 16;
    auto copy_step = [&](u32 slot) {
        if (next.unit < units) {
            const u32 there = next.at < vectors ? high - low - next.unit * span : 0;
            const uint4* from = next.source + next.at;
            const u32 to = ring + slot * (STEP * 16);
#pragma unroll
            for (u32 i = 0; i < NR; i++) {
                const bool wanted = (gated ? i % 2 : i) < there;
                copy_weights(to + i * (STREAM_THREADS * 16), from + i % 2 * vectors + i / 2 * far, wanted);
            }
            advance(next);
        }
        commit_copies();
    };
#pragma unroll 1
    for (u32 slot = 0; slot < p.depth; slot++) copy_step(slot);

    const bool held = p.inputs <= HOLD * STREAM_THREADS * 4;
    // Of more rows there are too many numbers to hold the weight as well.
    constexpr bool EARLY_NORM = ROWS <= 2;
    float4 weight[HOLD];
    if (EARLY_NORM && p.norm_weight && held) {
#pragma unroll
        for (u32 j = 0; j < HOLD; j++) weight[j] = load4(p.norm_weight, (j * STREAM_THREADS + threadIdx.x) * 4, p.inputs);
    }
    uint4* x = shared + p.depth * STEP;
    wait_for_previous();
    // While x comes, the memory brings the steps after the ring's as far as the second-level cache. Not before the wait:
    // what the kernel before still reads would drive them out again.
    if (lane < NR) {
        Next later = next;
#pragma unroll 1
        for (u32 step = 0; step < LATER && later.unit < units; step++, advance(later)) {
            const u32 start = later.at - lane;
            const uint4* from = later.source + start + lane % 2 * vectors + lane / 2 * far;
            const bool wanted = (gated ? lane % 2 : lane) < high - low - later.unit * span;
            if (wanted) prefetch(from, min(32u, vectors - start) * 16);
        }
    }
    if (!p.norm_weight) {
        const uint4* from = (const uint4*)p.x;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll 8
            for (u32 i = threadIdx.x; i < pitch; i += STREAM_THREADS)
                x[r * pitch + i] = i < vectors ? from[(u64)r * vectors + i] : make_uint4(0, 0, 0, 0);
        }
    } else if (held) {
        stage_norm<true, EARLY_NORM, T, ROWS>(p, (T*)x, pitch * VECTOR, weight, partials);
    } else {
        stage_norm<false, false, T, ROWS>(p, (T*)x, pitch * VECTOR, weight, partials);
    }
    __syncthreads();

    u32 slot = 0;
    for (u32 start = 0, buffer = 0; start < rounds; start += BATCH, buffer ^= 1) {
        // The sum of this batch that this thread will write, and meanwhile what will be added to it.
        const u32 batched = threadIdx.x / (NR * ROWS), place = threadIdx.x % (NR * ROWS), row = place % ROWS;
        const u32 unit = start * groups + batched, output = low + unit * span + place / ROWS;
        const bool writes = batched < BATCH * groups && place / ROWS < span && unit < units && output < high;
        const float added = writes ? added_to(p, row, output) : 0.0f, added_up = writes && gated ? added_to_up(p, output) : 0.0f;

        for (u32 round = start; round < min(start + BATCH, rounds); round++) {
            if (round * groups + group >= units) break;
            float acc[SUMS];
#pragma unroll
            for (u32 i = 0; i < SUMS; i++) acc[i] = 0.0f;
#pragma unroll 1
            for (u32 at = first; at < pitch; at += split * 32) {
                wait_steps(p.depth - 1);
                uint4 w[NR];
#pragma unroll
                for (u32 i = 0; i < NR; i++) w[i] = shared[slot * STEP + i * STREAM_THREADS + threadIdx.x];
                copy_step(slot);
                slot = slot + 1 == p.depth ? 0 : slot + 1;
                uint4 v[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; r++) v[r] = x[r * pitch + at];
#pragma unroll
                for (u32 h = 0; h < VECTOR / 2; h++) {
                    float2 a[NR];
#pragma unroll
                    for (u32 i = 0; i < NR; i++) a[i] = two<T>(w[i], h);
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        float2 b = two<T>(v[r], h);
#pragma unroll
                        for (u32 i = 0; i < NR; i++) {
                            float& sum = acc[i * ROWS + r];
                            sum = fmaf(a[i].y, b.y, fmaf(a[i].x, b.x, sum));
                        }
                    }
                }
            }
            float sum = warp_sums<SUMS>(acc);
            if (lane % (32 / SUMS) == 0) sums[buffer][round - start][warp][lane / (32 / SUMS)] = sum;
        }
        // One meeting is enough, because the sums of the next batch go elsewhere, and those of the one after it only
        // after the next meeting.
        __syncthreads();
        if (!writes) continue;
        float y = added, up = added_up;
#pragma unroll 1
        for (u32 s = 0; s < split; s++) {
            const float* from = sums[buffer][batched / groups][batched % groups * split + s] + place;
            y += from[0];
            if (gated) up += from[NR / 2 * ROWS];
        }
        finish<W>(p, row, output, y, up);
    }
}

// Two blocks share a multiprocessor: one that runs, and one of the next kernel with a full ring.
#define STREAM(NAME, T, ROWS) \
    extern "C" __global__ void __launch_bounds__(STREAM_THREADS, 2) NAME(Stream p) { stream<T, ROWS>(p); }

STREAM(stream_1, W, 1)
STREAM(stream_2, W, 2)
STREAM(stream_3, W, 3)
STREAM(stream_4, W, 4)
STREAM(stream_f32_1, float, 1)
STREAM(stream_f32_2, float, 2)
STREAM(stream_f32_3, float, 3)
STREAM(stream_f32_4, float, 4)

// Any number of inputs, one warp per output: for shapes that no 16 bytes divide, and for what the library refuses.
template <typename T> __device__ __forceinline__ void any(const Stream& p) {
    u32 output = blockIdx.x * WARPS + threadIdx.x / 32, thread = threadIdx.x % 32;
    if (output >= p.outputs) return;
    const T* weights = (const T*)p.weights + (u64)output * p.inputs;
    for (u32 row = 0; row < p.rows; row++) {
        const T* from = (const T*)p.x + (u64)row * p.inputs;
        float sum = 0.0f;
        for (u32 i = thread; i < p.inputs; i += 32) sum = fmaf(widen(weights[i]), widen(from[i]), sum);
        sum = warp_sum(sum);
        if (thread == 0) finish<W>(p, row, output, sum + added_to(p, row, output), 0.0f);
    }
}

extern "C" __global__ void __launch_bounds__(STREAM_THREADS) stream_any(Stream p) {
    let_next_start();
    wait_for_previous();
    if (p.wide) any<float>(p);
    else any<W>(p);
}
