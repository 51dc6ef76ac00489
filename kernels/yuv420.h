// The fixed point of the conversions between NV12 and RGB: see yuv_matrix.py.
#pragma once

#include "bytes.h"

constexpr int kFractionBits = 20;
constexpr int kHalf = 1 << (kFractionBits - 1);
constexpr int kCenter = 128;  // the chroma code of gray
