// Numbers of the pairs of a key tile and a query tile in memory, 64 x 64, in the order in which the threads of a turned product
// hold them: a thread's 32 in chunks of 16 bytes, chunk by chunk over all threads.

struct Yes { __device__ constexpr operator bool() const { return true; } };
struct No { __device__ constexpr operator bool() const { return false; } };

constexpr u32 PAIR_CHUNK = 16 / sizeof(W), PAIR_CHUNKS = SIDE * SIDE / THREADS / PAIR_CHUNK;

__device__ __forceinline__ void put_pairs(W* to, const float (&pairs)[SIDE / 8][4]) {
    float row[SIDE / 2];
#pragma unroll
    for (u32 i = 0; i < SIDE / 2; i++) row[i] = pairs[i % 16 / 2][i / 16 * 2 + i % 2];
#pragma unroll
    for (u32 chunk = 0; chunk < PAIR_CHUNKS; chunk++)
        store(to + (chunk * THREADS + threadIdx.x) * PAIR_CHUNK, *(const float(*)[PAIR_CHUNK])&row[chunk * PAIR_CHUNK]);
}
// `pairs` += what was put.
__device__ __forceinline__ void add_pairs(float (&pairs)[SIDE / 8][4], const W* from) {
    float row[SIDE / 2];
#pragma unroll
    for (u32 chunk = 0; chunk < PAIR_CHUNKS; chunk++)
        load(*(float(*)[PAIR_CHUNK])&row[chunk * PAIR_CHUNK], from + (chunk * THREADS + threadIdx.x) * PAIR_CHUNK);
#pragma unroll
    for (u32 i = 0; i < SIDE / 2; i++) pairs[i % 16 / 2][i / 16 * 2 + i % 2] += row[i];
}
