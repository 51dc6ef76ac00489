// Lets NVRTC compile the same source for a GPU, and any C++ compiler for a CPU, where the tests run
// it thread by thread. No standard headers: NVRTC does not have them.
#pragma once

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#if __CUDA_ARCH__ == 750  // by default, ptxas spills registers there to run more blocks
#define BLOCKS_AT_ONCE 2
#else
#define BLOCKS_AT_ONCE 0  // ptxas decides
#endif
// 256: BLOCK_THREADS of source.py.
#define KERNEL extern "C" __global__ void __launch_bounds__(256, BLOCKS_AT_ONCE)
#define UNROLL _Pragma("unroll")  // arrays only stay in registers if every index is a constant
#else
#define HOST_DEVICE inline
#define KERNEL extern "C" void
#define UNROLL
#endif

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

#ifdef __CUDACC__
__device__ __forceinline__ int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ void add_atomically(u32* to, u32 value) { atomicAdd(to, value); }
#else
extern "C" {
inline int current_thread;  // set by the tests before each call of a kernel
}
inline int thread_index() { return current_thread; }
inline void add_atomically(u32* to, u32 value) { *to += value; }  // threads run one after another

struct alignas(16) uint4 {
    u32 x, y, z, w;
};
#endif

// Returns `sum` plus the dot product of four bytes with four others.
HOST_DEVICE u32 dot4(u32 bytes, u32 factors, u32 sum) {
#ifdef __CUDA_ARCH__
    return __dp4a(bytes, factors, sum);
#else
    for (int shift = 0; shift < 32; shift += 8) sum += (bytes >> shift & 255) * (factors >> shift & 255);
    return sum;
#endif
}

HOST_DEVICE constexpr int smaller(int a, int b) { return a < b ? a : b; }
HOST_DEVICE constexpr int larger(int a, int b) { return a > b ? a : b; }
HOST_DEVICE constexpr int clamped(int value, int low, int high) {
    return larger(low, smaller(value, high));
}
HOST_DEVICE constexpr int divided_up(int value, int by) { return (value + by - 1) / by; }
