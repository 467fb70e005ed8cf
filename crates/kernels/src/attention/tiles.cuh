// What the tensor-core kernels of attention share: tiles of keys or values in shared memory, and their fragments.

constexpr u32 RATIO = QUERY_HEADS / KV_HEADS;
constexpr u32 QKV_STRIDE = (QUERY_HEADS + 2 * KV_HEADS) * HEAD_DIM;
constexpr u32 MIXED_STRIDE = QUERY_HEADS * HEAD_DIM;

// Other shapes run `rows.cu`; these files then compile for a shape that is never launched (Rust: `uses_tensor_cores`).
constexpr bool SERVED = sizeof(C) == 2 && HEAD_DIM % 16 == 0 && HEAD_DIM >= 64 && HEAD_DIM <= 256;
template <bool YES, typename A, typename B> struct Pick { typedef A type; };
template <typename A, typename B> struct Pick<false, A, B> { typedef B type; };
typedef Pick<SERVED, C, bf16>::type T;
constexpr u32 D = SERVED ? HEAD_DIM : 64;
constexpr float LOG2_E = 1.4426950408889634f;

template <typename A, typename B> struct Same { static constexpr bool value = false; };
template <typename A> struct Same<A, A> { static constexpr bool value = true; };

// Rows of a tile would all begin in the same bank: where they are whole groups of eight 16-byte chunks, chunk c of row
// r lies at c ^ (r % 8); other widths get one chunk of padding, which makes the number of chunks odd.
constexpr bool SWIZZLED = D % 64 == 0;
constexpr u32 CHUNKS = D / 8;
constexpr u32 ROW_BYTES = D * 2 + (SWIZZLED ? 0 : 16);
__device__ __forceinline__ u32 chunk_offset(u32 row, u32 chunk) {
    return row * ROW_BYTES + (SWIZZLED ? chunk ^ (row & 7) : chunk) * 16;
}
// The offset of a fragment 2 `pairs` chunks to the right of `offset`, which is that of chunk 0 or 1.
__device__ __forceinline__ u32 chunks_right(u32 offset, u32 pairs) {
    return SWIZZLED ? (offset ^ ((pairs & 3) * 32)) + (pairs >> 2) * 128 : offset + pairs * 32;
}

// What is subtracted from scores whose maximum is `maximum`: where nothing was seen, -infinity minus itself is no number.
__device__ __forceinline__ float base_of(float maximum) { return maximum == -infinity() ? 0.0f : maximum; }

// Two activations as the tensor cores take them.
__device__ __forceinline__ u32 pair_of(const float* x) {
    float2 y = *(const float2*)x;
    return narrow2<T>(y.x, y.y);
}
template <typename A> __device__ __forceinline__ u32 pair_of(const A* x) {
    u32 raw = *(const u32*)x;
    if constexpr (Same<A, T>::value) return raw;
    float2 y = widen2<A>(raw);
    return narrow2<T>(y.x, y.y);
}
__device__ __forceinline__ void store_pair(float* out, float x, float y) { *(float2*)out = make_float2(x, y); }
template <typename A> __device__ __forceinline__ void store_pair(A* out, float x, float y) {
    *(u32*)out = narrow2<A>(x, y);
}
