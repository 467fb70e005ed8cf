// N neighbouring numbers of a format as f32, at addresses that are multiples of their size (or of 16 bytes).

template <int N, typename T> __device__ __forceinline__ void load(float (&x)[N], const T* from) {
    if constexpr (sizeof(T) == 2 && N % 8 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 8) {
            uint4 eight = *(const uint4*)(from + i);
            float2 a = widen2<T>(eight.x), b = widen2<T>(eight.y), c = widen2<T>(eight.z), d = widen2<T>(eight.w);
            x[i] = a.x, x[i + 1] = a.y, x[i + 2] = b.x, x[i + 3] = b.y;
            x[i + 4] = c.x, x[i + 5] = c.y, x[i + 6] = d.x, x[i + 7] = d.y;
        }
    } else if constexpr (sizeof(T) == 2 && N == 4) {
        uint2 four = *(const uint2*)from;
        float2 a = widen2<T>(four.x), b = widen2<T>(four.y);
        x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
    } else if constexpr (sizeof(T) == 4 && N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 four = *(const float4*)(from + i);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = widen(from[i]);
    }
}

template <int N, typename T> __device__ __forceinline__ void store(T* to, const float (&x)[N]) {
    if constexpr (sizeof(T) == 2 && N % 8 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 8) {
            *(uint4*)(to + i) = make_uint4(narrow2<T>(x[i], x[i + 1]), narrow2<T>(x[i + 2], x[i + 3]),
                                           narrow2<T>(x[i + 4], x[i + 5]), narrow2<T>(x[i + 6], x[i + 7]));
        }
    } else if constexpr (sizeof(T) == 2 && N == 4) {
        *(uint2*)to = make_uint2(narrow2<T>(x[0], x[1]), narrow2<T>(x[2], x[3]));
    } else if constexpr (sizeof(T) == 4 && N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) *(float4*)(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = narrow<T>(x[i]);
    }
}

// The sum over the block, to every thread; `partial` has a number per warp and is used once between two barriers.
template <u32 WARPS> __device__ __forceinline__ float block_sum(float x, float* partial) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float y = threadIdx.x % 32 < WARPS ? partial[threadIdx.x % 32] : 0.0f;
    return warp_sum(y);
}
