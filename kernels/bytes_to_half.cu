// Packed bytes -> planes of halves. See bytes_to_half.py.
//
// Halves are written as their bits: a machine without a CUDA toolkit has no `cuda_fp16.h` for
// NVRTC, and a C++ compiler has no `__half`.
#include "bytes.h"

HOST_DEVICE u32 bits_of(float value) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(value);
#else
    u32 bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

// A byte / 255 as a half, rounded to nearest, ties to even.
HOST_DEVICE u32 half_of_byte(u32 byte) {
    const u32 bits = bits_of(static_cast<float>(byte) * (1.0f / 255));
    const u32 rounded = bits + 0xfff + (bits >> 13 & 1);  // the 13 bits that a half has less
    return byte == 0 ? 0 : (rounded >> 13) - ((127 - 15) << 10);  // the bias of its exponent
}

// A thread does 16 pixels of an image.
KERNEL bytes_to_half(const u8* batch, u8* halves, int count, int pixels) {
    const int chunks = divided_up(pixels, 16);
    const int image = thread_index() / chunks;
    const int first = thread_index() % chunks * 16;
    if (image >= count) return;
    const i64 values = 3 * static_cast<i64>(pixels);
    const auto rgb = load_of_row<48, 3>(batch + image * values, 3 * first, 3 * pixels);
    UNROLL for (int channel = 0; channel < 3; ++channel) {
        Bytes<32> plane;
        UNROLL for (int i = 0; i < 16; ++i) plane.put<2>(i, half_of_byte(rgb.get(3 * i + channel)));
        const i64 target = image * values + static_cast<i64>(channel) * pixels + first;
        store(halves + 2 * target, plane, 2 * (pixels - first));
    }
}
