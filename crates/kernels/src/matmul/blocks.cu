// Products of 2 to 16 rows of bf16 with weights in blocks of 32, each weight read once; and such weights as numbers.
//
// The sums are those of whole numbers: codes become bf16 exactly, by their bits, and tensor cores multiply them with x. A block's
// sum is then scaled once, in f32. Codes of 4 bits have 128 added, which the bits of 128.0 give for nothing; what that adds
// to the sum, 128 times the sum of x, is where the sum begins: a multiplication with a matrix of equal numbers.
//
// A unit is two panels of 16 outputs, neighbours, or a panel of gates and that of their ups. All warps of a block of threads
// share it, each every eighth step of 4 vectors of 16 bytes a lane, which with their scales are on their way to a ring in
// shared memory (see gemv.cu). x is there too where it fits.

struct Blocks {
    const u8* codes;
    const u8* heads;
    const uint4* x;      // bf16 [rows][inputs]
    const float* bias;   // [outputs], or none
    void* out;           // [rows][out_width], f32 or bf16
    u32 outputs, inputs;
    u32 out_width;       // outputs, or half of them where they are gates and ups
    u32 pitch;           // vectors from one row of x to the next in shared memory; 0 where x stays where it is
    u32 kind, activation, rows;
};

constexpr u32 WARPS = BLOCK_THREADS / 32, UNIT = 2 * TILE_OUTPUTS;
constexpr u32 PITCH = UNIT + 4;   // of sums: rows of a warp's lanes lie in different banks
constexpr u32 EIGHTS = 4;         // vectors of a block's inputs in x
constexpr u32 LATER = 4;          // steps after the ring's that the second-level cache fetches beside x

// ROWS: up to 8 or 16.
template <u32 F, u32 ROWS> __device__ __forceinline__ void stream_blocks(const Blocks& p) {
    constexpr u32 V = Tile<F>::VECTORS, TILES = 2 / V, CODES = Tile<F>::CODES, HEADS = Tile<F>::HEADS;
    constexpr u32 PANEL_HEADS = TILES * HEADS / 16;          // vectors of a panel's heads in a step
    constexpr u32 SLOT = (4 * 32 + 2 * PANEL_HEADS) * 16;    // bytes of a warp's step
    constexpr u32 N = ROWS > 8 ? 2 : 1;
    constexpr u32 OFFSET = F == Q4_0 ? 0xc308c308u : 0xc300c300u;   // -136 or -128, twice
    extern __shared__ uint4 shared[];   // the ring, then x
    __shared__ float sums[WARPS][N * 8 * PITCH];
    static_assert(sizeof(sums) == N * SUM_BYTES && SLOT == (F == Q8_0 ? SLOT_Q8_0 : F == Q4_0 ? SLOT_Q4_0 : SLOT_Q4_1),
                  "the host counts shared memory otherwise");
    let_next_start();
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
    const u32 blocks = p.inputs / BLOCK, tiles = (blocks + 1) / 2;
    const bool gated = p.kind == SILU_MUL;
    const u32 span = gated ? 1 : 2;
    const u32 panels = (p.out_width + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    const u32 low = (u64)panels * blockIdx.x / gridDim.x, high = (u64)panels * (blockIdx.x + 1) / gridDim.x;
    const u32 units = (high - low + span - 1) / span;
    const u32 far = gated ? panels : 1;   // panels from a unit's first to its second

    // The next step to copy: its unit, its first tile, and where the lane's vectors of both panels and its vector of heads are.
    // What is not there is not copied, but for heads past the end of the inputs: x is zero there, and zeros are these.
    const u32 first = warp * TILES;
    u32 next_unit = first < tiles ? 0 : units, next = first;
    const u8 *codes[2], *heads_from;
    bool second;
    const u32 head_panel = lane / PANEL_HEADS, head_rest = lane % PANEL_HEADS * 16;
    auto start_unit = [&]() {
        const u32 panel = low + next_unit * span;
        second = gated || panel + 1 < high;
        codes[0] = p.codes + ((u64)panel * tiles + first) * CODES + lane * 16;
        codes[1] = codes[0] + (u64)far * tiles * CODES;
        heads_from = p.heads + ((u64)(panel + head_panel * far) * tiles + first) * HEADS + head_rest;
    };
    start_unit();
    u8* const ring = (u8*)shared + warp * SLOT;
    auto copy_step = [&](u32 slot) {
        if (next_unit < units) {
            const u32 to = shared_address(ring + slot * (WARPS * SLOT)) + lane * 16;
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
#pragma unroll
                for (u32 j = 0; j < 2; j++) {
                    // Of a tile of 8-bit codes both vectors, of 4-bit codes those of two tiles.
                    const bool wanted = (i == 0 || second) && (V == 2 || j == 0 || next + 1 < tiles);
                    if (wanted) copy_weights(to + (i * 2 + j) * 512, codes[i] + j * 512, true);
                }
                codes[i] += WARPS * TILES * CODES;
            }
            if (head_panel == 0 || (head_panel == 1 && second))
                copy_weights(to + 4 * 512, heads_from, V == 2 || next + head_rest / HEADS < tiles);
            heads_from += WARPS * TILES * HEADS;
            next += WARPS * TILES;
            if (next >= tiles) {
                next = first, next_unit++;
                start_unit();
            }
        }
        commit_copies();
    };
#pragma unroll 1
    for (u32 slot = 0; slot < DEPTH; slot++) copy_step(slot);
    wait_for_previous();
    // While x comes, the memory brings the steps after the ring's as far as the second-level cache: codes and heads of both panels.
    // Not before the wait: what the kernel before still reads would drive them out again.
    if (lane < 4) {
        u32 unit = next_unit, tile = next;
#pragma unroll 1
        for (u32 step = 0; step < LATER && unit < units; step++) {
            const u32 panel = low + unit * span + lane % 2 * far, count = min(TILES, tiles - tile);
            const u64 at = (u64)panel * tiles + tile;
            if (lane % 2 == 0 || gated || panel < high) {
                if (lane < 2) prefetch(p.codes + at * CODES, count * CODES);
                else prefetch(p.heads + at * HEADS, count * HEADS);
            }
            tile += WARPS * TILES;
            if (tile >= tiles) tile = first, unit++;
        }
    }

    const uint4* x = p.x;
    u32 stride = p.inputs / 8;
    if (p.pitch) {
        uint4* const stage = shared + DEPTH * (WARPS * SLOT / 16);
        const u32 count = p.rows * stride, more = p.pitch - stride;
        for (u32 start = threadIdx.x; start < count; start += 8 * BLOCK_THREADS) {
            uint4 held[8];
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 at = start + i * BLOCK_THREADS;
                if (at < count) held[i] = x[at];
            }
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 at = start + i * BLOCK_THREADS;
                if (at < count) stage[at + at / stride * more] = held[i];
            }
        }
        __syncthreads();
        x = stage;
        stride = p.pitch;
    }
    // Rows that are not there are copies of the last one: a row's sums have nothing to do with another's.
    const uint4* rows[N];
#pragma unroll
    for (u32 n = 0; n < N; n++) rows[n] = x + (u64)min(group + 8 * n, p.rows - 1) * stride + quarter;

    u32 slot = 0;
    for (u32 unit = 0; unit < units; unit++) {
        const u32 panel = low + unit * span;
        // The sums that this thread will write, and meanwhile what will be added to them.
        const u32 column = threadIdx.x % UNIT, output = panel * TILE_OUTPUTS + column;
        const bool own = column < span * TILE_OUTPUTS && output < min(p.out_width, high * TILE_OUTPUTS);
        float added[N];
        bool writes[N];
#pragma unroll
        for (u32 n = 0; n < N; n++) {
            const u32 row = n * 8 + threadIdx.x / UNIT;
            writes[n] = own && row < p.rows;
            added[n] = writes[n] ? added_to(p, row, output) : 0.0f;
        }

        float acc[2][N][4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
#pragma unroll
            for (u32 n = 0; n < N; n++) acc[i][n][0] = acc[i][n][1] = acc[i][n][2] = acc[i][n][3] = 0.0f;
        }
#pragma unroll 1
        for (u32 tile = first; tile < tiles; tile += WARPS * TILES) {
            uint4 v[N][2 * TILES];
            if (tile * 2 + 2 * TILES <= blocks) {
#pragma unroll
                for (u32 b = 0; b < 2 * TILES; b++) {
#pragma unroll
                    for (u32 n = 0; n < N; n++) v[n][b] = rows[n][(tile * 2 + b) * EIGHTS];
                }
            } else {
#pragma unroll
                for (u32 b = 0; b < 2 * TILES; b++) {
                    const u32 block = tile * 2 + b;
#pragma unroll
                    for (u32 n = 0; n < N; n++) v[n][b] = block < blocks ? rows[n][block * EIGHTS] : make_uint4(0, 0, 0, 0);
                }
            }
            wait_copies<DEPTH - 1>();
            // Heads were copied by other lanes of the warp.
            __syncwarp();
            const u8* from = ring + slot * (WARPS * SLOT);
            uint4 w[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) w[j] = *(const uint4*)(from + j * 512 + lane * 16);
            uint4 heads[2 * TILES];   // two words of two scales, or four of a scale and a least value
#pragma unroll
            for (u32 j = 0; j < 2 * TILES; j++) {
                const u8* head = from + 4 * 512 + j * HEADS + group * (HEADS / 8);
                if constexpr (F == Q4_1) {
                    heads[j] = *(const uint4*)head;
                } else {
                    const uint2 two = *(const uint2*)head;
                    heads[j] = make_uint4(two.x, two.y, 0, 0);
                }
            }
            __syncwarp();
            copy_step(slot);
            slot = slot + 1 == DEPTH ? 0 : slot + 1;
#pragma unroll
            for (u32 b = 0; b < 2 * TILES; b++) {
                const u32 q = b / 2;
                const bool later = b % 2;
                // What the offset of the codes adds, less than nothing: by row, the same for every output; and the sum of x.
                float base[N][4], sum_of_x[N][2];
#pragma unroll
                for (u32 n = 0; n < N; n++) {
                    base[n][0] = base[n][1] = 0.0f;
                    sum_of_x[n][0] = sum_of_x[n][1] = 0.0f;
                    if constexpr (F != Q8_0) {
                        const u32 equal[4] = {OFFSET, OFFSET, OFFSET, OFFSET};
                        mma_from(base[n], 0.0f, 0.0f, equal, v[n][b].x, v[n][b].y);
                        mma_more(base[n], equal, v[n][b].z, v[n][b].w);
                        sum_of_x[n][0] = base[n][0] * -0.0078125f, sum_of_x[n][1] = base[n][1] * -0.0078125f;
                    }
                }
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const uint4 head = heads[i * TILES + q];
                    u32 one[4], two[4];
                    float scale[2], least[2];
                    if constexpr (F == Q8_0) {
                        const uint4 codes = w[i * 2 + b];
                        one[0] = bytes(codes.x, 0), one[1] = bytes(codes.z, 0), one[2] = bytes(codes.x, 1), one[3] = bytes(codes.z, 1);
                        two[0] = bytes(codes.y, 0), two[1] = bytes(codes.w, 0), two[2] = bytes(codes.y, 1), two[3] = bytes(codes.w, 1);
                    } else {
                        const uint4 codes = w[i * TILES + q];
                        const u32 here = later ? codes.z : codes.x, up = later ? codes.w : codes.y;
                        one[0] = nibbles(here, 0), one[1] = nibbles(up, 0), one[2] = nibbles(here, 1), one[3] = nibbles(up, 1);
                        two[0] = nibbles(here, 2), two[1] = nibbles(up, 2), two[2] = nibbles(here, 3), two[3] = nibbles(up, 3);
                    }
                    if constexpr (F == Q4_1) {
                        const u32 here = later ? head.z : head.x, up = later ? head.w : head.y;
                        scale[0] = low_half(here), scale[1] = low_half(up);
                        least[0] = high_half(here), least[1] = high_half(up);
                    } else {
                        const u32 both = later ? head.y : head.x;
                        scale[0] = low_half(both), scale[1] = high_half(both);
                        least[0] = least[1] = 0.0f;
                    }
#pragma unroll
                    for (u32 n = 0; n < N; n++) {
                        float d[4];
                        mma_from(d, base[n][0], base[n][1], one, v[n][b].x, v[n][b].y);
                        mma_more(d, two, v[n][b].z, v[n][b].w);
#pragma unroll
                        for (u32 e = 0; e < 4; e++) {
                            float& sum = acc[i][n][e];
                            sum = fmaf(scale[e / 2], d[e], sum);
                            if constexpr (F == Q4_1) sum = fmaf(least[e / 2], sum_of_x[n][e % 2], sum);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
#pragma unroll
            for (u32 n = 0; n < N; n++) {
                float* to = sums[warp] + (n * 8 + quarter * 2) * PITCH + i * TILE_OUTPUTS + group;
                to[0] = acc[i][n][0], to[PITCH] = acc[i][n][1];
                to[8] = acc[i][n][2], to[PITCH + 8] = acc[i][n][3];
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 n = 0; n < N; n++) {
            if (!writes[n]) continue;
            const u32 row = n * 8 + threadIdx.x / UNIT, place = row * PITCH + column;
            float y = added[n], up = gated ? added_to_up(p, output) : 0.0f;
#pragma unroll
            for (u32 s = 0; s < WARPS; s++) y += sums[s][place];
            if (gated) {
#pragma unroll
                for (u32 s = 0; s < WARPS; s++) up += sums[s][place + TILE_OUTPUTS];
            }
            finish<bf16>(p, row, output, y, up);
        }
        __syncthreads();
    }
}

// Two blocks share a multiprocessor: one that runs, and one of the next kernel with a full ring.
#define STREAM(NAME, F, ROWS) \
    extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 2) NAME(Blocks p) { stream_blocks<F, ROWS>(p); }

STREAM(blocks_q8_0_8, Q8_0, 8)
STREAM(blocks_q4_0_8, Q4_0, 8)
STREAM(blocks_q4_1_8, Q4_1, 8)
STREAM(blocks_q8_0_16, Q8_0, 16)
STREAM(blocks_q4_0_16, Q4_0, 16)
STREAM(blocks_q4_1_16, Q4_1, 16)

// Some outputs as bf16, row-major: for what only multiplies numbers.
struct Numbers {
    const u8* codes;
    const u8* heads;
    bf16* to;      // [count][inputs]
    u32 inputs;
    u32 first;     // the first of them: of a whole panel
    u32 count;
};

// A warp for each tile: the reverse of how it was laid out.
template <u32 F> __device__ __forceinline__ void numbers(const Numbers& p) {
    const u32 blocks = p.inputs / BLOCK, tiles = (blocks + 1) / 2;
    const u32 tile = blockIdx.y * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (tile >= tiles) return;
    const InBlocks w = {p.codes, p.heads, p.inputs};
#pragma unroll
    for (u32 upper = 0; upper < 2; upper++) {
        const u32 output = blockIdx.x * TILE_OUTPUTS + upper * 8 + lane / 4;
        if (output >= p.count) continue;
#pragma unroll
        for (u32 b = 0; b < 2; b++) {
            const u32 block = tile * 2 + b;
            if (block >= blocks) continue;
            float y[8];
            eight<F>(y, w, p.first + output, block, lane % 4);
            *(uint4*)(p.to + (u64)output * p.inputs + block * BLOCK + lane % 4 * 8) =
                make_uint4(narrow2<bf16>(y[0], y[1]), narrow2<bf16>(y[2], y[3]), narrow2<bf16>(y[4], y[5]), narrow2<bf16>(y[6], y[7]));
        }
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) numbers_q8_0(Numbers p) { numbers<Q8_0>(p); }
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) numbers_q4_0(Numbers p) { numbers<Q4_0>(p); }
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS) numbers_q4_1(Numbers p) { numbers<Q4_1>(p); }
