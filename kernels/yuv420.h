// The samples of NV12 and P010, and the fixed point of their conversions: see yuv_matrix.py.
#pragma once

#include "bytes.h"

constexpr int kFractionBits = 20;
constexpr int kHalf = 1 << (kFractionBits - 1);

template <int kSize>
constexpr int kDepthBits = kSize == 1 ? 8 : 10;

template <int kSize>
constexpr int kUnusedBits = 8 * kSize - kDepthBits<kSize>;  // P010 fills the low ones with zeros

template <int kSize>
constexpr int kCenter = 1 << (kDepthBits<kSize> - 1);  // the chroma code of gray

template <int kSize, int kBytes>
HOST_DEVICE int code(const Bytes<kBytes>& samples, int i) {
    return samples.template get<kSize>(i) >> kUnusedBits<kSize>;
}

template <int kSize>
HOST_DEVICE int code_at(const u8* sample) {
    const int word = kSize == 1 ? sample[0] : sample[0] | sample[kSize - 1] << 8;
    return word >> kUnusedBits<kSize>;
}
