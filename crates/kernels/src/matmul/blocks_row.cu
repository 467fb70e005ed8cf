// Products of one row of bf16 with weights in blocks of 32 (sm_90): the columns of the tensor cores are blocks.
//
// Where the codes of block j of a chunk are multiplied, x is zero in all columns but the j-th, so that each column sums up a block
// of its own, and after a chunk lane 4g + t has the sums of blocks 2t and 2t + 1 of outputs g and g + 8: it scales those, and no lane
// does what another did. What the codes' offset adds is where sums begin; it is computed once, where x is staged.
//
// Eight warps multiply: all share a panel of 16 outputs, each every eighth chunk, and their sums meet behind some panels. A ninth
// copies for them, a stretch of a panel at a time, into a ring in shared memory. It begins before the kernel before has ended, because
// weights never change, and runs ahead by as much as the ring holds.

struct OneRow {
    const u8* codes;
    const u8* heads;
    const void* x;               // bf16 [inputs]; with a norm the residual, f32
    const float* norm_weight;    // [inputs], or none
    const float* norm_bias;      // [inputs]: a layer norm; without it an RMS norm
    const float* bias;           // [outputs], or none
    void* out;                   // [out_width], f32 or bf16
    u32 outputs, inputs;
    u32 out_width;               // outputs, or half of them where they are gates and ups
    u32 depth;                   // steps of the ring
    u32 kind, activation;
    float epsilon;
};

constexpr u32 ROW_THREADS = 32 * ROW_WARPS;   // those that multiply
constexpr u32 STEP_CODES = ROW_WARPS * 4 * 512;
static_assert(ROW_PANELS * TILE_OUTPUTS <= ROW_THREADS, "a thread for each output of a batch");

// A format's chunk, which a warp multiplies at once, and the step of all warps.
template <u32 F> struct Chunk {
    static constexpr u32 TILES = 4 / Tile<F>::VECTORS, BLOCKS = 2 * TILES;
    static constexpr u32 STEP_TILES = ROW_WARPS * TILES;
    static constexpr u32 STEP = STEP_CODES + STEP_TILES * Tile<F>::HEADS;   // codes, then heads
    static_assert(STEP == ROW_WARPS * (F == Q8_0 ? SLOT_Q8_0 : F == Q4_0 ? SLOT_Q4_0 : SLOT_Q4_1), "the host counts shared memory otherwise");
};

#if __CUDA_ARCH__ >= 900

// The panels of a block. Of gates these, and as many of ups.
struct Share {
    u32 low, high, panels, halves;
    __device__ __forceinline__ explicit Share(const OneRow& p) : panels((p.out_width + TILE_OUTPUTS - 1) / TILE_OUTPUTS), halves(p.kind == SILU_MUL ? 2 : 1) {
        low = (u64)panels * blockIdx.x / gridDim.x, high = (u64)panels * (blockIdx.x + 1) / gridDim.x;
    }
};

// Where a warp is in the ring.
struct RingPlace {
    u32 slot, parity;
    __device__ __forceinline__ void advance(u32 depth) {
        if (++slot == depth) slot = 0, parity ^= 1;
    }
};

// What the ninth warp does: one lane copies codes, one heads. It has as long for a step as the memory takes for its bytes, so a step is
// few instructions.
template <u32 F> __device__ __forceinline__ void copy_steps(const OneRow& p, const Share& share, u32 ring, u32 full, u32 empty) {
    constexpr u32 CODES = Tile<F>::CODES, HEADS = Tile<F>::HEADS, MOST = Chunk<F>::STEP_TILES;
    const u32 lane = threadIdx.x % 32, tiles = (p.inputs / BLOCK + 1) / 2;
    const u32 own = lane == 0 ? CODES : HEADS, to = ring + (lane == 0 ? 0 : STEP_CODES);
    const u64 panel_bytes = (u64)tiles * own, far = share.panels * panel_bytes;
    const u8* from = (lane == 0 ? p.codes : p.heads) + share.low * panel_bytes;
    RingPlace place = {0, 1};
#pragma unroll 1
    for (u32 panel = share.low; panel < share.high; panel++, from += panel_bytes) {
        const u8* half_from = from;
#pragma unroll 1
        for (u32 half = 0; half < share.halves; half++, half_from += far) {
            const u8* at = half_from;
#pragma unroll 1
            for (u32 first = 0; first < tiles; first += MOST, at += MOST * own) {
                const u32 count = min(MOST, tiles - first);
                wait_signal(empty + place.slot * 8, place.parity);
                if (lane == 0) expect(full + place.slot * 8, count * (CODES + HEADS));
                __syncwarp();
                if (lane < 2) copy_bulk(to + place.slot * Chunk<F>::STEP, at, count * own, full + place.slot * 8);
                place.advance(p.depth);
            }
        }
    }
}

// The warps that multiply meet without the one that copies.
__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, %0;" ::"n"(ROW_THREADS) : "memory"); }

// The sum over all threads that multiply, to each.
__device__ __forceinline__ float sum_of_all(float x) {
    __shared__ float partials[ROW_WARPS];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) partials[threadIdx.x / 32] = x;
    meet();
    x = 0.0f;
#pragma unroll
    for (u32 w = 0; w < ROW_WARPS; w++) x += partials[w];
    meet();
    return x;
}

constexpr u32 HELD = 2;   // vectors of 8 of the residual and the norm's weights that a thread keeps

__device__ __forceinline__ float4 load_norm(const float* from, u32 at, bool there) {
    return there ? ((const float4*)from)[at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// Puts x where the products read it, with zeros behind its end, and what the offset of codes adds to the sum of each block to `begins`. With a
// norm x is that of the residual, rounded to bf16.
template <u32 F> __device__ __forceinline__ void stage_row(const OneRow& p, uint4* x, float* begins) {
    constexpr float OFFSET = F == Q4_0 ? -136.0f : -128.0f;
    const u32 vectors = p.inputs / 8, padded = (vectors + 31) / 32 * 32;   // of whole warps, and whole chunks
    auto keep = [&](u32 at, uint4 eight) {
        x[at] = eight;
        if (F == Q8_0) return;
        const float2 a = widen2<bf16>(eight.x), b = widen2<bf16>(eight.y), c = widen2<bf16>(eight.z), d = widen2<bf16>(eight.w);
        float sum = ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
        sum += __shfl_xor_sync(ALL, sum, 1);
        sum += __shfl_xor_sync(ALL, sum, 2);
        if (at % 4 == 0) begins[at / 4] = OFFSET * sum;
    };
    if (!p.norm_weight) {
        constexpr u32 HOLD = 8;
        wait_for_previous();
#pragma unroll 1
        for (u32 start = threadIdx.x; start < padded; start += HOLD * ROW_THREADS) {
            uint4 held[HOLD];
#pragma unroll
            for (u32 i = 0; i < HOLD; i++) {
                const u32 at = start + i * ROW_THREADS;
                held[i] = at < vectors ? ((const uint4*)p.x)[at] : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (u32 i = 0; i < HOLD; i++) {
                if (start + i * ROW_THREADS < padded) keep(start + i * ROW_THREADS, held[i]);
            }
        }
        meet();
        return;
    }
    // Of rows of up to so many vectors a thread holds its own; of longer ones it reads those behind again for each pass, from the cache.
    const float* residual = (const float*)p.x;
    float4 weight[HELD][2], held[HELD][2];
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        const u32 at = threadIdx.x + i * ROW_THREADS;
#pragma unroll
        for (u32 h = 0; h < 2; h++) weight[i][h] = load_norm(p.norm_weight, 2 * at + h, at < vectors);
    }
    wait_for_previous();
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        const u32 at = threadIdx.x + i * ROW_THREADS;
#pragma unroll
        for (u32 h = 0; h < 2; h++) held[i][h] = load_norm(residual, 2 * at + h, at < vectors);
    }
    // Of each vector of this thread in turn, `use` gets its place, its halves and their weights.
    auto pass = [&](auto use) {
#pragma unroll
        for (u32 i = 0; i < HELD; i++) {
            if (threadIdx.x + i * ROW_THREADS < padded) use(threadIdx.x + i * ROW_THREADS, held[i], weight[i]);
        }
#pragma unroll 1
        for (u32 at = threadIdx.x + HELD * ROW_THREADS; at < padded; at += ROW_THREADS) {
            float4 v[2], w[2];
#pragma unroll
            for (u32 h = 0; h < 2; h++) v[h] = load_norm(residual, 2 * at + h, at < vectors), w[h] = load_norm(p.norm_weight, 2 * at + h, at < vectors);
            use(at, v, w);
        }
    };
    float mean = 0.0f, square = 0.0f;
    if (p.norm_bias) {
        pass([&](u32, const float4 (&v)[2], const float4 (&)[2]) {
            mean += ((v[0].x + v[0].y) + (v[0].z + v[0].w)) + ((v[1].x + v[1].y) + (v[1].z + v[1].w));
        });
        mean = sum_of_all(mean) / (float)p.inputs;
    }
    pass([&](u32 at, const float4 (&v)[2], const float4 (&)[2]) {
        if (at >= vectors) return;
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            const float a = v[h].x - mean, b = v[h].y - mean, c = v[h].z - mean, d = v[h].w - mean;
            square += (a * a + b * b) + (c * c + d * d);
        }
    });
    const float scale = 1.0f / sqrtf(sum_of_all(square) / (float)p.inputs + p.epsilon);
    pass([&](u32 at, const float4 (&v)[2], const float4 (&w)[2]) {
        u32 words[4] = {0, 0, 0, 0};
        if (at < vectors) {
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                const float4 b = load_norm(p.norm_bias, 2 * at + h, p.norm_bias != nullptr);
                words[2 * h] = narrow2<bf16>(fmaf((v[h].x - mean) * scale, w[h].x, b.x), fmaf((v[h].y - mean) * scale, w[h].y, b.y));
                words[2 * h + 1] = narrow2<bf16>(fmaf((v[h].z - mean) * scale, w[h].z, b.z), fmaf((v[h].w - mean) * scale, w[h].w, b.w));
            }
        }
        keep(at, make_uint4(words[0], words[1], words[2], words[3]));
    });
    meet();
}

template <u32 F> __device__ __forceinline__ void stream_row(const OneRow& p) {
    constexpr u32 TILES = Chunk<F>::TILES, BLOCKS = Chunk<F>::BLOCKS, HEADS = Tile<F>::HEADS;
    extern __shared__ uint4 shared[];   // the ring, x, what offsets add to the sums of its blocks, sums of warps
    __shared__ u64 full_signals[ROW_STEPS], empty_signals[ROW_STEPS];
    const u32 full = shared_address(full_signals), empty = shared_address(empty_signals);
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    let_next_start();
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < p.depth; i++) begin_signal(full + i * 8, 1), begin_signal(empty + i * 8, ROW_WARPS);
        signals_begun();
    }
    __syncthreads();
    const Share share(p);
    if (warp == ROW_WARPS) {
        copy_steps<F>(p, share, shared_address(shared), full, empty);
        return;
    }
    const u8* const ring = (const u8*)shared;
    uint4* const x = shared + p.depth * (Chunk<F>::STEP / 16);
    const u32 padded = (p.inputs / 8 + 31) / 32 * 32;
    float* const begins = (float*)(x + padded);
    float* const sums = begins + padded / 4;
    stage_row<F>(p, x, begins);

    RingPlace place = {0, 0};
    // The step is read.
    auto done = [&]() {
        __syncwarp();
        if (lane == 0) arrive(empty + place.slot * 8);
        place.advance(p.depth);
    };
    const u32 tiles = (p.inputs / BLOCK + 1) / 2, chunks = (tiles + TILES - 1) / TILES, batch = ROW_PANELS / share.halves;
#pragma unroll 1
    for (u32 start = share.low, buffer = 0; start < share.high; start += batch, buffer ^= 1) {
        const u32 count = min(batch, share.high - start) * share.halves;
        // The output that this thread will write, and meanwhile what will be added to it.
        const u32 output = start * TILE_OUTPUTS + threadIdx.x, first_panel = threadIdx.x / TILE_OUTPUTS * share.halves;
        const bool writes = first_panel < count && output < p.out_width;
        const float added = writes ? added_to(p, 0, output) : 0.0f, added_up = writes && share.halves == 2 ? added_to_up(p, output) : 0.0f;
        float* const here = sums + buffer * (ROW_PANELS * ROW_WARPS * TILE_OUTPUTS);
#pragma unroll 1
        for (u32 panel = 0; panel < count; panel++) {
            float sum[2] = {0.0f, 0.0f};   // of outputs g and g + 8
#pragma unroll 1
            for (u32 first = 0; first < chunks; first += ROW_WARPS) {
                const u32 chunk = first + warp;
                wait_signal(full + place.slot * 8, place.parity);
                const u8* const from = ring + place.slot * Chunk<F>::STEP;
                if (chunk >= chunks) {
                    done();
                    continue;
                }
                const uint4 v = x[chunk * (BLOCKS * 4) + lane % (BLOCKS * 4)];
                float2 begin = make_float2(0.0f, 0.0f);
                if (F != Q8_0) begin = *(const float2*)(begins + chunk * BLOCKS + 2 * quarter);
                uint4 w[4];
#pragma unroll
                for (u32 q = 0; q < 4; q++) w[q] = *(const uint4*)(from + warp * (4 * 512) + q * 512 + lane * 16);
                const u8* const heads = from + STEP_CODES + (warp * TILES + quarter % TILES) * HEADS;
                uint4 head;   // two words of two scales, or four of a scale and a least value
                if constexpr (F == Q4_1) {
                    head = *(const uint4*)(heads + group * 16);
                } else {
                    const uint2 two = *(const uint2*)(heads + group * 8);
                    head = make_uint4(two.x, two.y, 0, 0);
                }
                done();
                // Behind the last tile lies anything; codes are finite numbers whatever they are.
                if (chunk * TILES + quarter % TILES >= tiles) head = make_uint4(0, 0, 0, 0);
                // Two chains, because one product waits long for the one before.
                float d[4] = {begin.x, begin.y, begin.x, begin.y}, other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                for (u32 j = 0; j < BLOCKS; j++) {
                    u32 one[4], two[4];
                    if constexpr (F == Q8_0) {
                        const uint4 c = w[j];
                        one[0] = bytes(c.x, 0), one[1] = bytes(c.z, 0), one[2] = bytes(c.x, 1), one[3] = bytes(c.z, 1);
                        two[0] = bytes(c.y, 0), two[1] = bytes(c.w, 0), two[2] = bytes(c.y, 1), two[3] = bytes(c.w, 1);
                    } else {
                        const u32 low = j % 2 ? w[j / 2].z : w[j / 2].x, up = j % 2 ? w[j / 2].w : w[j / 2].y;
                        one[0] = nibbles(low, 0), one[1] = nibbles(up, 0), one[2] = nibbles(low, 1), one[3] = nibbles(up, 1);
                        two[0] = nibbles(low, 2), two[1] = nibbles(up, 2), two[2] = nibbles(low, 3), two[3] = nibbles(up, 3);
                    }
                    const bool mine = group == j;
                    mma_more(j % 2 ? other : d, one, mine ? v.x : 0, mine ? v.y : 0);
                    mma_more(j % 2 ? other : d, two, mine ? v.z : 0, mine ? v.w : 0);
                }
#pragma unroll
                for (u32 e = 0; e < 4; e++) d[e] += other[e];
                if constexpr (F == Q4_1) {
                    // The sums of x.
                    const float s = begin.x * -0.0078125f, t = begin.y * -0.0078125f;
                    sum[0] = fmaf(low_half(head.x), d[0], sum[0]), sum[0] = fmaf(high_half(head.x), s, sum[0]);
                    sum[1] = fmaf(low_half(head.y), d[2], sum[1]), sum[1] = fmaf(high_half(head.y), s, sum[1]);
                    sum[0] = fmaf(low_half(head.z), d[1], sum[0]), sum[0] = fmaf(high_half(head.z), t, sum[0]);
                    sum[1] = fmaf(low_half(head.w), d[3], sum[1]), sum[1] = fmaf(high_half(head.w), t, sum[1]);
                } else if (quarter < TILES) {
                    sum[0] = fmaf(low_half(head.x), d[0], sum[0]), sum[1] = fmaf(high_half(head.x), d[2], sum[1]);
                    sum[0] = fmaf(low_half(head.y), d[1], sum[0]), sum[1] = fmaf(high_half(head.y), d[3], sum[1]);
                }
            }
            // Over the four lanes of a group: an even lane has output g, an odd one g + 8.
            const bool odd = quarter & 1;
            const float give = odd ? sum[0] : sum[1], own = odd ? sum[1] : sum[0];
            float total = own + __shfl_xor_sync(ALL, give, 1);
            total += __shfl_xor_sync(ALL, total, 2);
            if (quarter < 2) here[(panel * ROW_WARPS + warp) * TILE_OUTPUTS + quarter * 8 + group] = total;
        }
        // One meeting is enough, because the sums of the next batch go elsewhere, and those of the one after it only after the next meeting.
        meet();
        if (!writes) continue;
        const float* from = here + first_panel * (ROW_WARPS * TILE_OUTPUTS) + threadIdx.x % TILE_OUTPUTS;
        float y = 0.0f, up = 0.0f;
#pragma unroll
        for (u32 w = 0; w < ROW_WARPS; w++) {
            y += from[w * TILE_OUTPUTS];
            if (share.halves == 2) up += from[(ROW_WARPS + w) * TILE_OUTPUTS];
        }
        finish<bf16>(p, 0, output, y + added, up + added_up);
    }
}

#else
template <u32 F> __device__ __forceinline__ void stream_row(const OneRow&) {}
#endif

// Two blocks share a multiprocessor: one that runs, and one of the next kernel with a full ring.
#define STREAM_ROW(NAME, F) \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS + 32, 2) NAME(const __grid_constant__ OneRow p) { stream_row<F>(p); }

STREAM_ROW(blocks_q8_0_row, Q8_0)
STREAM_ROW(blocks_q4_0_row, Q4_0)
STREAM_ROW(blocks_q4_1_row, Q4_1)
