// Codes as tensor cores take them: for `prefill.cu` a chunk of 8 neighbouring dimensions at a time, which lie in one group, becomes
// 16-bit numbers; `coded.cuh` multiplies codes themselves.

// Where chunk `chunk` of 16 bytes of a row of codes lies in a tile of `coded.cuh`. Chunks of a row change places, as far as their number is
// even, so that neither the same chunk of eight rows nor two neighbouring chunks of four rows meet in a bank.
template <u32 ROW> __device__ __forceinline__ u32 code_offset(u32 row, u32 chunk) {
    constexpr u32 OF_ROW = ROW / 16, TURNED = OF_ROW % 8 == 0 ? 8 : OF_ROW % 4 == 0 ? 4 : OF_ROW % 2 == 0 ? 2 : 1;
    const u32 fourth = row >> 2 & 1, turn = TURNED == 8 ? (row & 3) << 1 | fourth : TURNED == 4 ? (row & 2) | fourth : TURNED == 2 ? fourth : 0;
    return row * ROW + (chunk ^ turn) * 16;
}
__device__ __forceinline__ u32 pick_bytes(u32 low, u32 high, u32 which) {
    u32 y;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(low), "r"(high), "r"(which));
    return y;
}
// What a pair of f16 whose bits are 0x6400 | code stands for: those are 1024 + code, exactly.
__device__ __forceinline__ u32 stands_for(u32 pair, u32 step, u32 least) {
    u32 code, y;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(code) : "r"(pair), "r"(0x64006400u));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(code), "r"(step), "r"(least));
    return y;
}
// Eight codes of BITS each as numbers.
template <u32 BITS> __device__ __forceinline__ uint4 numbers_of(uint2 codes, u32 steps) {
    const u32 step = pick_bytes(steps, steps, 0x1010), least = pick_bytes(steps, steps, 0x3232);
    u32 pairs[4];
    if constexpr (BITS == 8) {
        const u32 over = 0x64646464u;
        pairs[0] = pick_bytes(codes.x, over, 0x4140), pairs[1] = pick_bytes(codes.x, over, 0x4342);
        pairs[2] = pick_bytes(codes.y, over, 0x4140), pairs[3] = pick_bytes(codes.y, over, 0x4342);
    } else {
        const u32 even = codes.x & 0x0f0f0f0fu, odd = codes.x >> 4 & 0x0f0f0f0fu;
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            pairs[i] = (pick_bytes(even, odd, 0x0400 + 0x0101 * i) & 0x00ff00ffu) | 0x64006400u;
        }
    }
    return make_uint4(stands_for(pairs[0], step, least), stands_for(pairs[1], step, least),
                      stands_for(pairs[2], step, least), stands_for(pairs[3], step, least));
}
// Chunk `chunk` of an entry, from rows of codes and steps wherever they lie.
template <u32 BITS> __device__ __forceinline__ uint4 chunk_of_codes(const u8* rows, const u8* steps, u32 entry, u32 chunk) {
    constexpr u32 GROUP = BITS == 4 ? 32 : 64, OF_ENTRY = (HEAD_DIM + GROUP - 1) / GROUP;
    const u8* from = rows + entry * (HEAD_DIM * BITS / 8) + chunk * BITS;
    uint2 codes = make_uint2(0, 0);
    if constexpr (BITS == 8) codes = *(const uint2*)from;
    else codes.x = *(const u32*)from;
    return numbers_of<BITS>(codes, ((const u32*)steps)[entry * OF_ENTRY + chunk * 8 / GROUP]);
}
constexpr u32 VALUE_BITS = CODED ? CODE_BITS : 8;

__device__ __forceinline__ void store_shared(u32 address, uint4 x) {
    asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
