// residual[row] = table[token] (+ positions[position]), in f32.

struct Embed {
    const Row* rows;
    const W* table;       // [v][c]
    const W* positions;   // [max_positions][c], or none
    float* residual;      // [rows][c]
    u32 vocabulary, max_positions;
};

typedef HalfOr<W>::type Half;

extern "C" __global__ void __launch_bounds__(EMBED_THREADS) embed(Embed p) {
    let_next_start();
    wait_for_previous();
    Row row = p.rows[blockIdx.x];
    // What the host promised is checked once more where it would be a wild address: a sampled token comes from the
    // device itself.
    if (row.slot == NEVER || row.token >= p.vocabulary) return;
    if (p.positions && row.position >= p.max_positions) return;
    const W* token = p.table + (u64)row.token * HIDDEN;
    const W* learned = p.positions + (u64)row.position * HIDDEN;
    float* out = p.residual + (u64)blockIdx.x * HIDDEN;
    constexpr u32 STEP = HIDDEN % 4 == 0 ? 4 : 1;
    for (u32 i = threadIdx.x * STEP; i < HIDDEN; i += EMBED_THREADS * STEP) {
        float x[STEP];
        if constexpr (STEP == 4 && sizeof(W) == 2) {
            uint2 bits = *(const uint2*)(token + i);
            float2 a = widen2<Half>(bits.x), b = widen2<Half>(bits.y);
            x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
        } else if constexpr (STEP == 4) {
            float4 four = *(const float4*)(token + i);
            x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
        } else {
            x[0] = widen(token[i]);
        }
        if (p.positions) {
#pragma unroll
            for (u32 j = 0; j < STEP; j++) x[j] += widen(learned[i + j]);
        }
        if constexpr (STEP == 4) {
            *(float4*)(out + i) = make_float4(x[0], x[1], x[2], x[3]);
        } else {
            out[i] = x[0];
        }
    }
}
