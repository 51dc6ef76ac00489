// The tensor cores of Hopper and their operands: PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions". Compiled for sm_90a only.
#pragma once

#include "portable.h"

#define DEVICE __device__ __forceinline__

DEVICE u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// Starts a copy of 16 bytes to shared memory, or of 16 zeros.
DEVICE void copy_to_shared(u32 address, const u8* from, bool is_wanted) {
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
        "r"(is_wanted ? 16 : 0)
        : "memory");
}

// Waits for this thread's copies; tensor cores see them after the next barrier.
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_all;\nfence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier for `kCount` threads with the same `number`.
template <int kCount>
DEVICE void barrier(int number) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(kCount) : "memory");
}

// Arrives at a `barrier` without waiting.
template <int kCount>
DEVICE void arrive(int number) {
    asm volatile("bar.arrive %0, %1;" ::"r"(number), "n"(kCount) : "memory");
}

// Shows the compiler that a value is uniform in a warp: where a warp may diverge, `wgmma`
// instructions are serialized.
DEVICE int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// Lets the next kernel in the stream start where there is room for it.
DEVICE void let_the_next_begin() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Waits for all writes of earlier kernels.
DEVICE void wait_for_those_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// A matrix in shared memory: eight contiguous rows of 16 bytes, then the next eight; the next 16
// bytes of all rows are `next_bytes` further on. Adding n advances by 16 n bytes.
DEVICE u64 matrix_at(u32 address, int next_bytes) {
    constexpr u64 kEightRows = 128 / 16;
    return address / 16 | static_cast<u64>(next_bytes / 16) << 16 | kEightRows << 32;
}

DEVICE void begin_multiplying() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

DEVICE void finish_multiplying() {
    asm volatile(
        "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// d [64, kColumns] = left [64, 16] * right [kColumns, 16]^T of halves, plus d if `adds`. Thread t of a warpgroup
// has rows t / 32 * 16 + t % 32 / 4 and eight below it, columns 8 j + t % 4 * 2 and the next.
template <int kColumns>
DEVICE void multiply_64(float (&d)[kColumns / 2], u64 left, u64 right, bool adds);

#define SUMS_8(i)                                                                           \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]),             \
        "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

template <>
DEVICE void multiply_64<16>(float (&d)[8], u64 left, u64 right, bool adds) {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, adds, 1, 1, 0, 0;\n}"
        : SUMS_8(0)
        : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}

template <>
DEVICE void multiply_64<32>(float (&d)[16], u64 left, u64 right, bool adds) {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, adds, 1, 1, 0, 0;\n}"
        : SUMS_8(0), SUMS_8(8)
        : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}

template <>
DEVICE void multiply_64<48>(float (&d)[24], u64 left, u64 right, bool adds) {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %26, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23}, %24, %25, adds, 1, 1, 0, 0;\n}"
        : SUMS_8(0), SUMS_8(8), SUMS_8(16)
        : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}

template <>
DEVICE void multiply_64<64>(float (&d)[32], u64 left, u64 right, bool adds) {
    asm volatile(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, adds, 1, 1, 0, 0;\n}"
        : SUMS_8(0), SUMS_8(8), SUMS_8(16), SUMS_8(24)
        : "l"(left), "l"(right), "r"(static_cast<int>(adds)));
}

// Two halves, rounded to nearest, the first in the low bits.
DEVICE u32 halves_of(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

DEVICE u32 sum_of_halves(u32 a, u32 b) {
    u32 both;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(both) : "r"(a), "r"(b));
    return both;
}

// Converts a level plus 0.5 to a byte; NaN becomes 0.
DEVICE u32 byte_of(float level) {
    u32 byte;
    asm("cvt.rzi.u32.f32 %0, %1;" : "=r"(byte) : "f"(fminf(fmaxf(level, 0.0f), 255.75f)));
    return byte;
}

// Adds the values of the 32 threads of a warp to one value in global memory.
DEVICE void add_of_warp(float* to, float value, int lane) {
    UNROLL for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    if (lane == 0) atomicAdd(to, value);
}
