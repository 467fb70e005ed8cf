// The activations of the feed-forward block, one number at a time.

// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) as x times a sigmoid: there the negative tail has no cancellation.
__device__ __forceinline__ float gelu_tanh(float x) {
    return x / (1.0f + expf(x * fmaf(x * x, -0.071354814f, -1.5957692f)));
}
// x/2 (1 + erf(x / sqrt 2)).
__device__ __forceinline__ float gelu_erf(float x) { return 0.5f * x * erfcf(x * -0.70710678f); }

__device__ __forceinline__ float activate(u32 kind, float x) {
    if (kind == GELU_TANH) return gelu_tanh(x);
    if (kind == GELU_ERF) return gelu_erf(x);
    return x;
}
__device__ __forceinline__ float silu_times(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }
