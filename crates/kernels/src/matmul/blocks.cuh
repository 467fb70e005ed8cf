// Weights in blocks of 32, as the host lays them out for a device (matmul/quantised/tiles.rs): two blocks of 16 outputs
// make a tile, of which lane 4g + t has inputs 8t to 8t+7 of outputs g and g + 8.

constexpr u32 BLOCK = 32, TILE_OUTPUTS = 16;

template <u32 F> struct Tile {
    static constexpr u32 VECTORS = F == Q8_0 ? 2 : 1;   // of 16 bytes, for each lane
    static constexpr u32 CODES = VECTORS * 512;         // bytes
    static constexpr u32 HEAD = F == Q4_1 ? 4 : 2;      // bytes of a block's scale and least value
    static constexpr u32 HEADS = 32 * HEAD;
};

// A weight: its numbers, and its scales and least values.
struct InBlocks {
    const u8* codes;
    const u8* heads;
    u32 inputs;
};

// Where a block of an output is.
template <u32 F> struct Found {
    const u8* codes;   // of its lane's first word
    const u8* head;
};
template <u32 F> __device__ __forceinline__ Found<F> find(const InBlocks& w, u32 output, u32 block, u32 eighth) {
    const u32 tiles = (w.inputs / BLOCK + 1) / 2;
    const u64 tile = (u64)(output / TILE_OUTPUTS) * tiles + block / 2;
    const u32 group = output % 8, upper = output % TILE_OUTPUTS / 8, second = block % 2;
    const u32 lane = group * 4 + eighth;
    const u32 word = F == Q8_0 ? second * 512 + lane * 16 + upper * 8 : lane * 16 + (second * 2 + upper) * 4;
    return {w.codes + tile * Tile<F>::CODES + word, w.heads + tile * Tile<F>::HEADS + (group * 4 + second * 2 + upper) * Tile<F>::HEAD};
}

// Inputs 8 `eighth`.. of a block of an output, each operation rounded.
template <u32 F>
__device__ __forceinline__ void eight(float (&y)[8], const InBlocks& w, u32 output, u32 block, u32 eighth) {
    const Found<F> at = find<F>(w, output, block, eighth);
    const float scale = widen(*(const f16*)at.head);
    const float least = F == Q4_1 ? widen(*(const f16*)(at.head + 2)) : 0.0f;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 word = ((const u32*)at.codes)[F == Q8_0 ? i / 4 : 0];
        if constexpr (F == Q8_0) y[i] = __fmul_rn((float)(signed char)(word >> (8 * (i % 4 / 2) + 16 * (i % 2))), scale);
        else {
            const float number = (float)(word >> (4 * (i / 2) + 16 * (i % 2)) & 15u);
            y[i] = F == Q4_0 ? __fmul_rn(number - 8.0f, scale) : __fadd_rn(__fmul_rn(number, scale), least);
        }
    }
}

// Any format.
__device__ __forceinline__ void eight(float (&y)[8], u32 format, const InBlocks& w, u32 output, u32 block, u32 eighth_) {
    if (format == Q8_0) eight<Q8_0>(y, w, output, block, eighth_);
    else if (format == Q4_0) eight<Q4_0>(y, w, output, block, eighth_);
    else eight<Q4_1>(y, w, output, block, eighth_);
}

