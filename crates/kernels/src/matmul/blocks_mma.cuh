// Codes of blocks as the tensor cores take them, and their products.

// d = a b + c, where c is the same for outputs 8 apart.
__device__ __forceinline__ void mma_from(float (&d)[4], float c0, float c1, const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%10,%11};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c0), "f"(c1));
}
// d += a b.
__device__ __forceinline__ void mma_more(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// (a & b) | c at once: of two constants in one expression the compiler makes two operations.
__device__ __forceinline__ u32 and_or(u32 a, u32 b, u32 c) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// Pair i of a word of 4-bit codes: 128 more than each.
__device__ __forceinline__ u32 nibbles(u32 word, u32 i) { return and_or(word >> (4 * i), 0x000f000fu, 0x43004300u); }
// Pair i of a word of signed bytes: 128 and the low seven bits, then -128 or, of a negative one, -256.
__device__ __forceinline__ u32 bytes(u32 word, u32 i) {
    word >>= 8 * i;
    const u32 low = and_or(word, 0x007f007fu, 0x43004300u), high = and_or(word, 0x00800080u, 0xc300c300u);
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(low), "r"(0x3f803f80u), "r"(high));
    return sum;
}
__device__ __forceinline__ float low_half(u32 word) { return widen(f16{(u16)word}); }
__device__ __forceinline__ float high_half(u32 word) { return widen(f16{(u16)(word >> 16)}); }
