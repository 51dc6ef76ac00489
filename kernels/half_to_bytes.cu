// Planes of halves -> packed bytes. See half_to_bytes.py.
//
// Halves are read as their bits, for the reason that bytes_to_half.cu gives.
#include "bytes.h"

// A half * 255, clamped to 0..255 and rounded half up; 0 for what is not a number.
HOST_DEVICE u32 byte_of_half(u32 half) {
    const u32 exponent = half >> 10, mantissa = half & 0x3ff;
    if (half > 0x7c00) return 0;     // negative, or not a number
    if (half >= 0x3c00) return 255;  // 1 and up
    // (1024 + mantissa) * 2^(exponent - 25), times 255. Subnormal numbers have no 1024, and it
    // does not matter: they and the lowest of the others become 0.
    return ((1024 + mantissa) * 255 + (1u << (24 - exponent))) >> (25 - exponent);
}

// A thread does 16 pixels of an image.
KERNEL half_to_bytes(const u8* halves, u8* batch, int count, int pixels) {
    const int chunks = divided_up(pixels, 16);
    const int image = thread_index() / chunks;
    const int first = thread_index() % chunks * 16;
    if (image >= count) return;
    const i64 values = 3 * static_cast<i64>(pixels);
    Bytes<48> rgb;
    UNROLL for (int channel = 0; channel < 3; ++channel) {
        const i64 source = image * values + static_cast<i64>(channel) * pixels;
        const auto plane = load_of_row<32, 2>(halves + 2 * source, 2 * first, 2 * pixels);
        UNROLL for (int i = 0; i < 16; ++i) rgb.put(3 * i + channel, byte_of_half(plane.get<2>(i)));
    }
    store(batch + image * values + 3 * first, rgb, 3 * (pixels - first));
}
