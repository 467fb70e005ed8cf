// Products of one row of bf16 with weights in blocks of 32: the columns of the tensor cores are blocks.
//
// Where the codes of block j of a chunk are multiplied, x is zero in all columns but the j-th, so that each column sums up a block
// of its own, and after a chunk lane 4g + t has the sums of blocks 2t and 2t + 1 of outputs g and g + 8: it scales those, and no lane
// does what another did. What the codes' offset adds is where sums begin; it is computed once, where x is staged.
//
// A unit is two panels of 16 outputs, as in blocks.cu. `split` warps share it, each every split-th chunk; a step of a warp's ring is a
// chunk of one panel. With an RMS norm x is the residual times the norm's weights, and the one factor of the row is that of all sums.

struct OneRow {
    const u8* codes;
    const u8* heads;
    const void* x;               // bf16 [inputs]; with a norm the residual, f32
    const float* norm_weight;    // [inputs], or none
    const float* bias;           // [outputs], or none
    void* out;                   // [out_width], f32 or bf16
    u32 outputs, inputs;
    u32 out_width;               // outputs, or half of them where they are gates and ups
    u32 split;
    u32 kind, activation;
    float epsilon;
};

constexpr u32 ROW_THREADS = 32 * ROW_WARPS;
constexpr u32 EARLY_NORM = 2;   // vectors of 8 of the norm's weights that a thread loads before it waits

// Puts x where the products read it, zeros behind its end, and what the codes' offset adds to the sum of each block. Gives the factor of all sums.
template <u32 F> __device__ __forceinline__ float stage_row(const OneRow& p, const float4 (&early)[EARLY_NORM][2], uint4* x, float* begins, u32 padded) {
    constexpr float OFFSET = F == Q4_0 ? -136.0f : -128.0f;
    __shared__ float squares[ROW_WARPS];
    const u32 vectors = p.inputs / 8;
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
        for (u32 start = threadIdx.x; start < padded * 4; start += HOLD * ROW_THREADS) {
            uint4 held[HOLD];
#pragma unroll
            for (u32 i = 0; i < HOLD; i++) {
                const u32 at = start + i * ROW_THREADS;
                held[i] = at < vectors ? ((const uint4*)p.x)[at] : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (u32 i = 0; i < HOLD; i++) {
                if (start + i * ROW_THREADS < padded * 4) keep(start + i * ROW_THREADS, held[i]);
            }
        }
        __syncthreads();
        return 1.0f;
    }
    float square = 0.0f;
    for (u32 start = threadIdx.x; start < padded * 4; start += EARLY_NORM * ROW_THREADS) {
        float4 held[EARLY_NORM][2], weight[EARLY_NORM][2];
#pragma unroll
        for (u32 i = 0; i < EARLY_NORM; i++) {
            const u32 at = start + i * ROW_THREADS;
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                held[i][h] = at < vectors ? ((const float4*)p.x)[2 * at + h] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                weight[i][h] = early[i][h];
                if (start >= ROW_THREADS && at < vectors) weight[i][h] = ((const float4*)p.norm_weight)[2 * at + h];
            }
        }
#pragma unroll
        for (u32 i = 0; i < EARLY_NORM; i++) {
            const u32 at = start + i * ROW_THREADS;
            if (at >= padded * 4) continue;
            const float4 a = held[i][0], b = held[i][1], v = weight[i][0], w = weight[i][1];
            square += (a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w) + (b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w);
            uint4 eight = make_uint4(0, 0, 0, 0);
            if (at < vectors) {
                eight = make_uint4(narrow2<bf16>(a.x * v.x, a.y * v.y), narrow2<bf16>(a.z * v.z, a.w * v.w),
                                   narrow2<bf16>(b.x * w.x, b.y * w.y), narrow2<bf16>(b.z * w.z, b.w * w.w));
            }
            keep(at, eight);
        }
    }
    square = warp_sum(square);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
    __syncthreads();
    square = 0.0f;
#pragma unroll
    for (u32 w = 0; w < ROW_WARPS; w++) square += squares[w];
    return 1.0f / sqrtf(square / (float)p.inputs + p.epsilon);
}

template <u32 F> __device__ __forceinline__ void stream_row(const OneRow& p) {
    constexpr u32 V = Tile<F>::VECTORS, TILES = 4 / V, CHUNK = 2 * TILES;   // tiles and blocks of a chunk
    constexpr u32 CODES = Tile<F>::CODES, HEADS = Tile<F>::HEADS, HEAD_VECTORS = TILES * HEADS / 16;
    constexpr u32 SLOT = 4 * 512 + HEAD_VECTORS * 16, STEP = ROW_WARPS * SLOT;
    static_assert(ROW_DEPTH % 2 == 0, "a step makes room for one of the same panel");
    static_assert(SLOT == (F == Q8_0 ? SLOT_Q8_0 : F == Q4_0 ? SLOT_Q4_0 : SLOT_Q4_1), "the host counts shared memory otherwise");
    extern __shared__ uint4 shared[];   // the ring, x, what offsets add to the sums of its blocks, sums of warps
    let_next_start();
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    const u32 tiles = (p.inputs / BLOCK + 1) / 2, chunks = (tiles + TILES - 1) / TILES;
    const bool gated = p.kind == SILU_MUL;
    const u32 span = gated ? 1 : 2;
    const u32 panels = (p.out_width + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const u32 low = (u64)panels * blockIdx.x / gridDim.x, high = (u64)panels * (blockIdx.x + 1) / gridDim.x;
    const u32 split = p.split, part = warp % split, first_unit = warp / split, groups = ROW_WARPS / split;
    const u32 units = (high - low + span - 1) / span, rounds = (units + groups - 1) / groups;
    const u64 far = (u64)(gated ? panels : 1) * tiles;   // tiles from a unit's first panel to its second

    // The next chunk to copy: its unit, and where the lane's vectors are in the first panel. A second panel that is not there is not
    // copied; tiles behind the end of the inputs are zeros.
    u32 next_unit = part < chunks ? first_unit : units, next = part;
    const u8 *codes, *heads;
    bool second;
    auto start_unit = [&]() {
        const u32 panel = low + next_unit * span;
        const u64 tile = (u64)panel * tiles + part * TILES;
        second = gated || panel + 1 < high;
        codes = p.codes + tile * CODES + lane * 16;
        heads = p.heads + tile * HEADS + lane * 16;
    };
    start_unit();
    u8* const ring = (u8*)shared + warp * SLOT;
    // Lane 4g + t scales blocks of tile t: heads of 16 bytes lie in that order.
    const u32 head_to = 4 * 512 + (HEADS == 128 ? lane % 8 * 4 + lane / 8 : lane) * 16;
    auto copy_step = [&](u32 slot, u32 panel) {
        if (next_unit < units) {
            if (panel == 0 || second) {
                const u32 to = shared_address(ring + slot * STEP);
                const u8* from = codes + (panel ? far * CODES : 0);
#pragma unroll
                for (u32 q = 0; q < 4; q++) copy_weights(to + lane * 16 + q * 512, from + q * 512, next * TILES + q / V < tiles);
                if (lane < HEAD_VECTORS) {
                    copy_weights(to + head_to, heads + (panel ? far * HEADS : 0), next * TILES + lane / (HEADS / 16) < tiles);
                }
            }
            if (panel) {
                next += split;
                codes += split * (TILES * CODES), heads += split * (TILES * HEADS);
                if (next >= chunks) {
                    next = part, next_unit += groups;
                    start_unit();
                }
            }
        }
        commit_copies();
    };
#pragma unroll
    for (u32 slot = 0; slot < ROW_DEPTH; slot++) copy_step(slot, slot % 2);
    float4 early[EARLY_NORM][2];
    if (p.norm_weight) {
#pragma unroll
        for (u32 i = 0; i < EARLY_NORM; i++) {
            const u32 at = threadIdx.x + i * ROW_THREADS;
            if (at < p.inputs / 8) early[i][0] = ((const float4*)p.norm_weight)[2 * at], early[i][1] = ((const float4*)p.norm_weight)[2 * at + 1];
        }
    }
    wait_for_previous();
    uint4* const x = shared + ROW_DEPTH * STEP / 16;
    const u32 padded = (chunks * CHUNK + 7) / 8 * 8;   // blocks of x: of whole warps
    float* const begins = (float*)(x + padded * 4);
    float* const sums = begins + padded;   // [2][batch][warps][32]
    const float factor = stage_row<F>(p, early, x, begins, padded);

    const u32 batch = min(ROW_BATCH, split);   // rounds between two meetings of the block
    u32 slot = 0;
    for (u32 start = 0, buffer = 0; start < rounds; start += batch, buffer ^= 1) {
        // The sum that this thread will write, and meanwhile what will be added to it.
        const u32 unit = start * groups + warp, output = (low + unit * span) * TILE_OUTPUTS + lane;
        const bool writes = warp < batch * groups && unit < units && lane < span * TILE_OUTPUTS && output < min(p.out_width, high * TILE_OUTPUTS);
        const float added = writes ? added_to(p, 0, output) : 0.0f, added_up = writes && gated ? added_to_up(p, output) : 0.0f;

        for (u32 round = start; round < min(start + batch, rounds); round++) {
            if (round * groups + first_unit >= units) break;
            float acc[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};   // of outputs g and g + 8 of both panels
#pragma unroll 1
            for (u32 chunk = part; chunk < chunks; chunk += split) {
                const uint4 v = x[chunk * (CHUNK * 4) + lane % (CHUNK * 4)];
                float2 begin = make_float2(0.0f, 0.0f);
                if (F != Q8_0) begin = *(const float2*)(begins + chunk * CHUNK + 2 * quarter);
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    wait_copies<ROW_DEPTH - 1>();
                    // Heads were copied by other lanes of the warp.
                    __syncwarp();
                    const u8* from = ring + slot * STEP;
                    uint4 w[4];
#pragma unroll
                    for (u32 q = 0; q < 4; q++) w[q] = *(const uint4*)(from + q * 512 + lane * 16);
                    uint4 head = make_uint4(0, 0, 0, 0);   // two words of two scales, or four of a scale and a least value
                    if constexpr (F == Q4_1) {
                        head = *(const uint4*)(from + 4 * 512 + lane * 16);
                    } else {
                        const uint2 two = *(const uint2*)(from + 4 * 512 + quarter % TILES * HEADS + group * 8);
                        head.x = two.x, head.y = two.y;
                    }
                    __syncwarp();
                    copy_step(slot, i);
                    slot = slot + 1 == ROW_DEPTH ? 0 : slot + 1;
                    // Two chains, because one product waits long for the one before.
                    float d[4] = {begin.x, begin.y, begin.x, begin.y}, other[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                    for (u32 j = 0; j < CHUNK; j++) {
                        u32 one[4], two[4];
                        if constexpr (F == Q8_0) {
                            const uint4 c = w[j];
                            one[0] = bytes(c.x, 0), one[1] = bytes(c.z, 0), one[2] = bytes(c.x, 1), one[3] = bytes(c.z, 1);
                            two[0] = bytes(c.y, 0), two[1] = bytes(c.w, 0), two[2] = bytes(c.y, 1), two[3] = bytes(c.w, 1);
                        } else {
                            const u32 here = j % 2 ? w[j / 2].z : w[j / 2].x, up = j % 2 ? w[j / 2].w : w[j / 2].y;
                            one[0] = nibbles(here, 0), one[1] = nibbles(up, 0), one[2] = nibbles(here, 1), one[3] = nibbles(up, 1);
                            two[0] = nibbles(here, 2), two[1] = nibbles(up, 2), two[2] = nibbles(here, 3), two[3] = nibbles(up, 3);
                        }
                        const bool mine = group == j;
                        mma_more(j % 2 ? other : d, one, mine ? v.x : 0, mine ? v.y : 0);
                        mma_more(j % 2 ? other : d, two, mine ? v.z : 0, mine ? v.w : 0);
                    }
#pragma unroll
                    for (u32 e = 0; e < 4; e++) d[e] += other[e];
                    float(&sum)[2] = acc[i];
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
            }
            // Over the four lanes of a group: lane t keeps panel t / 2, and of its outputs g + 8 (t % 2).
            const bool upper = quarter & 2, odd = quarter & 1;
            float total[2];
#pragma unroll
            for (u32 u = 0; u < 2; u++) {
                const float give = upper ? acc[0][u] : acc[1][u], keep = upper ? acc[1][u] : acc[0][u];
                total[u] = keep + __shfl_xor_sync(ALL, give, 2);
            }
            const float give = odd ? total[0] : total[1], keep = odd ? total[1] : total[0];
            sums[((buffer * batch + round - start) * ROW_WARPS + warp) * 32 + quarter * 8 + group] = keep + __shfl_xor_sync(ALL, give, 1);
        }
        // One meeting is enough, because the sums of the next batch go elsewhere, and those of the one after it only after the next meeting.
        __syncthreads();
        if (!writes) continue;
        const float* from = sums + ((buffer * batch + warp / groups) * ROW_WARPS + warp % groups * split) * 32 + lane;
        float y = 0.0f, up = 0.0f;
#pragma unroll 1
        for (u32 s = 0; s < split; s++) {
            y += from[s * 32];
            if (gated) up += from[s * 32 + TILE_OUTPUTS];
        }
        finish<bf16>(p, 0, output, fmaf(y, factor, added), fmaf(up, factor, added_up));
    }
}

// Two blocks share a multiprocessor, as in blocks.cu.
#define STREAM_ROW(NAME, F) \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS, 2) NAME(OneRow p) { stream_row<F>(p); }

STREAM_ROW(blocks_q8_0_row, Q8_0)
STREAM_ROW(blocks_q4_0_row, Q4_0)
STREAM_ROW(blocks_q4_1_row, Q4_1)
