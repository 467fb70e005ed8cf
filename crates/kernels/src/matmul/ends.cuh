// What becomes of the sums of a product, whichever kernel made them: `Product` has `bias`, `out`, `out_width`, `kind` and `activation`.

// What is added to an output, or to a gate.
template <typename Product> __device__ __forceinline__ float added_to(const Product& p, u32 row, u32 output) {
    float y = p.bias ? p.bias[output] : 0.0f;
    if (p.kind == ADD) y += ((const float*)p.out)[(u64)row * p.out_width + output];
    return y;
}
// What is added to the up of a gate.
template <typename Product> __device__ __forceinline__ float added_to_up(const Product& p, u32 gate) {
    return p.bias ? p.bias[gate + p.out_width] : 0.0f;
}
// An output, rounded to T or in f32, or a gate and its up as one.
template <typename T, typename Product> __device__ __forceinline__ void finish(const Product& p, u32 row, u32 output, float y, float up) {
    const u64 at = (u64)row * p.out_width + output;
    if (p.kind == SILU_MUL) {
        ((T*)p.out)[at] = narrow<T>(silu_times(y, up));
        return;
    }
    y = activate(p.activation, y);
    if (p.kind == STORE) ((T*)p.out)[at] = narrow<T>(y);
    else ((float*)p.out)[at] = y;
}
