// Products of 2 to 16 rows, of 16-bit weights: the ring of gemv.cu, with the sums in the tensor cores.
//
// A unit is 32 outputs, or 16 gates and their ups, as four tiles of 8; all warps of a block share it, each every eighth
// chunk of 4 vectors. A lane copies the vectors of output lane / 4 of each tile, vector lane % 4 of the chunk: since A
// and B may take the inputs in any order as long as it is the same, these 16 bytes are the B of two multiplications as
// they are, and a lane's vectors of x their A.
//
// Where a block's outputs would fill less of a unit than there is, `split` blocks of a cluster share them, each with a part of the
// inputs: rings are as full as they can be, and each block reads its part of x alone. Their sums meet in shared memory, and each
// finishes some of the outputs.

constexpr u32 TILE = 8, UNIT = NR * TILE, CHUNK = 4;

__device__ __forceinline__ uint4 load_x(const uint4* x, u32 at, u32 vectors) {
    return at < vectors ? x[at] : make_uint4(0, 0, 0, 0);
}

// What the blocks of a cluster wrote to their shared memory before is there for all of them.
__device__ __forceinline__ void cluster_meets() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
#endif
}
// What lies at a place of this block's shared memory, of another block of its cluster.
__device__ __forceinline__ float of_block(u32 block, const float* place) {
    float y = *place;
#if __CUDA_ARCH__ >= 900
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(place)), "r"(block));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(y) : "r"(there) : "memory");
#endif
    return y;
}

// BOTH: more than 8 rows.
template <bool BOTH> __device__ __forceinline__ void stream_mma(const Stream& p) {
    typedef typename HalfOr<W>::type T;
    extern __shared__ uint4 shared[];   // the ring
    __shared__ float sums[WARPS][MMA_ROWS * UNIT];
    let_next_start();
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / CHUNK;
    // This block's part of the inputs: from vector `begin` up to `end`, whole chunks.
    const u32 vectors = p.inputs / 8, chunks = (vectors + CHUNK - 1) / CHUNK;
    const u32 parts = p.split, part = blockIdx.x % parts, share = (chunks + parts - 1) / parts;
    const u32 begin = min(part * share, chunks) * CHUNK, end = min((part + 1) * share, chunks) * CHUNK, limit = min(end, vectors);
    // As in `stream`: output n of tile i is that many on: i % 2 * TILE + n + i / 2 * far.
    const bool gated = p.kind == SILU_MUL;
    const u32 span = gated ? UNIT / 2 : UNIT;
    const u32 stretch = blockIdx.x / parts, stretches = gridDim.x / parts;
    const u32 low = (u64)p.out_width * stretch / stretches, high = (u64)p.out_width * (stretch + 1) / stretches;
    const u32 units = (high - low + span - 1) / span;
    const u64 far = (u64)(gated ? p.out_width : 2 * TILE) * vectors;

    const u32 first = begin + warp * CHUNK + lane % CHUNK;
    u32 next_unit = begin + warp * CHUNK < end ? 0 : units, next = first;
    const uint4* source = p.weights + (u64)(low + group) * vectors;
    const u32 ring = shared_address(shared) + threadIdx.x * 16;
    auto copy_step = [&](u32 slot) {
        if (next_unit < units) {
            const u32 there = next < vectors ? high - low - next_unit * span : 0;
            const uint4* from = source + next;
            const u32 to = ring + slot * (STEP * 16);
#pragma unroll
            for (u32 i = 0; i < NR; i++) {
                const bool wanted = (gated ? i % 2 : i) * TILE + group < there;
                copy_weights(to + i * (STREAM_THREADS * 16), from + (u64)(i % 2 * TILE) * vectors + i / 2 * far, wanted);
            }
            next += WARPS * CHUNK;
            if (next >= end) {
                next = first, next_unit++;
                source += (u64)span * vectors;
            }
        }
        commit_copies();
    };
#pragma unroll 1
    for (u32 slot = 0; slot < p.depth; slot++) copy_step(slot);
    wait_for_previous();

    // Rows that are not there are copies of the last one: a row's sums have nothing to do with another's.
    const uint4* x[2];
    x[0] = (const uint4*)p.x + (u64)min(group, p.rows - 1) * vectors;
    x[1] = (const uint4*)p.x + (u64)min(group + 8, p.rows - 1) * vectors;
    u32 slot = 0;
    for (u32 unit = 0; unit < units; unit++) {
        const u32 base = low + unit * span;
        // The sums that this thread will write, and meanwhile what will be added to them.
        constexpr u32 WRITES = BOTH ? 2 : 1;
        const u32 column = threadIdx.x % UNIT, output = base + column;
        float added[WRITES];
        bool writes[WRITES];
#pragma unroll
        for (u32 j = 0; j < WRITES; j++) {
            const u32 row = j * 8 + threadIdx.x / UNIT;
            writes[j] = row < p.rows && column < span && column * parts / span == part && output < high;
            added[j] = writes[j] ? added_to(p, row, output) : 0.0f;
        }

        float d[NR][4];
#pragma unroll
        for (u32 i = 0; i < NR; i++) d[i][0] = d[i][1] = d[i][2] = d[i][3] = 0.0f;
        // x of this step and of the next two.
        uint4 v[3][2];
#pragma unroll
        for (u32 s = 0; s < 2; s++) {
            v[s][0] = load_x(x[0], first + s * WARPS * CHUNK, limit);
            v[s][1] = BOTH ? load_x(x[1], first + s * WARPS * CHUNK, limit) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll 1
        for (u32 at = first; at - lane % CHUNK < end; at += WARPS * CHUNK) {
            v[2][0] = load_x(x[0], at + 2 * WARPS * CHUNK, limit);
            v[2][1] = BOTH ? load_x(x[1], at + 2 * WARPS * CHUNK, limit) : make_uint4(0, 0, 0, 0);
            wait_steps(p.depth - 1);
            uint4 w[NR];
#pragma unroll
            for (u32 i = 0; i < NR; i++) w[i] = shared[slot * STEP + i * STREAM_THREADS + threadIdx.x];
            copy_step(slot);
            slot = slot + 1 == p.depth ? 0 : slot + 1;
            const u32 one[4] = {v[0][0].x, v[0][1].x, v[0][0].y, v[0][1].y};
            const u32 two[4] = {v[0][0].z, v[0][1].z, v[0][0].w, v[0][1].w};
#pragma unroll
            for (u32 i = 0; i < NR; i++) {
                mma<T>(d[i], one, w[i].x, w[i].y);
                mma<T>(d[i], two, w[i].z, w[i].w);
            }
#pragma unroll
            for (u32 r = 0; r < 2; r++) v[0][r] = v[1][r], v[1][r] = v[2][r];
        }
        // Columns of neighbouring rows change places, so that they lie in different banks.
        const u32 swap = group % 4;
#pragma unroll
        for (u32 i = 0; i < NR; i++) {
            float* to = sums[warp] + group * UNIT + (i ^ swap) * TILE + lane % CHUNK * 2;
            *(float2*)to = make_float2(d[i][0], d[i][1]);
            if (BOTH) *(float2*)(to + 8 * UNIT) = make_float2(d[i][2], d[i][3]);
        }
        __syncthreads();
        auto block_sum = [&](u32 place) {
            float y = 0.0f;
#pragma unroll
            for (u32 s = 0; s < WARPS; s++) y += sums[s][place];
            return y;
        };
        auto place_of = [&](u32 j) {
            const u32 row = j * 8 + threadIdx.x / UNIT;
            return row * UNIT + (column ^ row % 4 * TILE);
        };
        if (parts > 1) {
            // The sums of this block take the place of its first warp's, which nobody but this thread reads.
#pragma unroll
            for (u32 j = 0; j < WRITES; j++) sums[0][place_of(j)] = block_sum(place_of(j));
            cluster_meets();
        }
#pragma unroll
        for (u32 j = 0; j < WRITES; j++) {
            if (!writes[j]) continue;
            const u32 place = place_of(j), place_up = place ^ 2 * TILE;
            float y = added[j], up = gated ? added_to_up(p, output) : 0.0f;
            if (parts == 1) {
                y += block_sum(place);
                if (gated) up += block_sum(place_up);
            }
            for (u32 other = 0; parts > 1 && other < parts; other++) {
                y += of_block(other, &sums[0][place]);
                if (gated) up += of_block(other, &sums[0][place_up]);
            }
            finish<W>(p, j * 8 + threadIdx.x / UNIT, output, y, up);
        }
        if (parts > 1) cluster_meets();   // for others read here
        else __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(STREAM_THREADS, 2) stream_8(Stream p) { stream_mma<false>(p); }
extern "C" __global__ void __launch_bounds__(STREAM_THREADS, 2) stream_16(Stream p) { stream_mma<true>(p); }
