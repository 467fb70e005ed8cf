// residual[row] = table[token] (+ positions[position]), in f32.

struct Embed {
    const Row* rows;
    const void* table;       // [v][c]: W, or the numbers of blocks
    const void* positions;   // [max_positions][c], or none
    const u8* table_heads;   // of blocks
    const u8* position_heads;
    float* residual;         // [rows][c]
    u32 vocabulary, max_positions;
    u32 table_format, position_format;   // of blocks, or NUMBERS
};

typedef HalfOr<W>::type Half;

// Numbers i to i + STEP - 1 of a row of a table.
template <u32 STEP>
__device__ __forceinline__ void look_up(float (&x)[STEP], const void* table, const u8* heads, u32 format, u32 row, u32 i) {
    if constexpr (STEP == 8) {
        if (format != NUMBERS) {
            eight(x, format, InBlocks{(const u8*)table, heads, HIDDEN}, row, i / BLOCK, i % BLOCK / 8);
            return;
        }
    }
    const W* from = (const W*)table + (u64)row * HIDDEN + i;
    if constexpr (STEP % 4 == 0) {
#pragma unroll
        for (u32 j = 0; j < STEP; j += 4) {
            if constexpr (sizeof(W) == 2) {
                const uint2 bits = *(const uint2*)(from + j);
                const float2 a = widen2<Half>(bits.x), b = widen2<Half>(bits.y);
                x[j] = a.x, x[j + 1] = a.y, x[j + 2] = b.x, x[j + 3] = b.y;
            } else {
                const float4 four = *(const float4*)(from + j);
                x[j] = four.x, x[j + 1] = four.y, x[j + 2] = four.z, x[j + 3] = four.w;
            }
        }
    } else {
        x[0] = widen(from[0]);
    }
}

extern "C" __global__ void __launch_bounds__(EMBED_THREADS) embed(Embed p) {
    let_next_start();
    wait_for_previous();
    Row row = p.rows[blockIdx.x];
    // What the host promised is checked once more where it would be a wild address: a sampled token comes from the
    // device itself.
    if (row.slot == NEVER || row.token >= p.vocabulary) return;
    if (p.positions && row.position >= p.max_positions) return;
    float* out = p.residual + (u64)blockIdx.x * HIDDEN;
    constexpr u32 STEP = HIDDEN % 8 == 0 ? 8 : HIDDEN % 4 == 0 ? 4 : 1;
    for (u32 i = threadIdx.x * STEP; i < HIDDEN; i += EMBED_THREADS * STEP) {
        float x[STEP];
        look_up<STEP>(x, p.table, p.table_heads, p.table_format, row.token, i);
        if (p.positions) {
            float learned[STEP];
            look_up<STEP>(learned, p.positions, p.position_heads, p.position_format, row.position, i);
#pragma unroll
            for (u32 j = 0; j < STEP; j++) x[j] += learned[j];
        }
        if constexpr (STEP % 4 == 0) {
#pragma unroll
            for (u32 j = 0; j < STEP; j += 4) *(float4*)(out + i + j) = make_float4(x[j], x[j + 1], x[j + 2], x[j + 3]);
        } else {
            out[i] = x[0];
        }
    }
}
