// Packed RGB -> NV12. See rgb_to_yuv420.py.
#include "yuv420.h"

// `Encoding` of yuv_matrix.py.
struct Encoding {
    int luma_offset;
    int luma_red, luma_green, luma_blue;
    int u_red, u_green, u_blue;
    int v_red, v_green, v_blue;
};

struct Rgb {
    int red, green, blue;

    HOST_DEVICE Rgb operator+(const Rgb& other) const {
        return {red + other.red, green + other.green, blue + other.blue};
    }
};

HOST_DEVICE Rgb pixel_at(const u8* at) { return {at[0], at[1], at[2]}; }

// 16 pixels of a row, and the one to their left.
struct RgbRow {
    Bytes<48> pixels;
    Rgb previous;

    HOST_DEVICE RgbRow(const u8* row, int x, int width)
        : pixels(load_of_row<48, 3>(row, 3 * x, 3 * width)),
          previous(pixel_at(row + 3 * larger(x - 1, 0))) {}

    HOST_DEVICE Rgb operator[](int i) const {
        if (i < 0) return previous;
        return {
            static_cast<int>(pixels.get(3 * i)), static_cast<int>(pixels.get(3 * i + 1)),
            static_cast<int>(pixels.get(3 * i + 2))};
    }
};

// Rounds a fixed-point value to a code.
HOST_DEVICE u32 sample(int fixed) { return clamped((fixed + kHalf) >> kFractionBits, 0, 255); }

HOST_DEVICE void write_luma(
    u8* luma_row, const RgbRow& rgb, int x, int width, const Encoding& gain) {
    Bytes<16> luma;
    UNROLL for (int i = 0; i < 16; ++i) {
        const auto [red, green, blue] = rgb[i];
        const int fixed = gain.luma_red * red + gain.luma_green * green + gain.luma_blue * blue;
        luma.put(i, sample(fixed + (gain.luma_offset << kFractionBits)));
    }
    store(luma_row + x, luma, width - x);
}

HOST_DEVICE void write_chroma(
    u8* chroma_row, const RgbRow& upper, const RgbRow& lower, int x, int width,
    const Encoding& gain) {
    constexpr int kGray = kCenter << kFractionBits;
    Bytes<16> chroma;
    Rgb left = upper[-1] + lower[-1];
    UNROLL for (int i = 0; i < 8; ++i) {
        const Rgb middle = upper[2 * i] + lower[2 * i];
        const Rgb right = upper[2 * i + 1] + lower[2 * i + 1];
        const auto [red, green, blue] = left + middle + middle + right;
        const int u = gain.u_red * red + gain.u_green * green + gain.u_blue * blue;
        const int v = gain.v_red * red + gain.v_green * green + gain.v_blue * blue;
        chroma.put(2 * i, sample(u + kGray));
        chroma.put(2 * i + 1, sample(v + kGray));
        left = right;
    }
    store(chroma_row + x, chroma, 2 * divided_up(width, 2) - x);
}

// Converts 16 pixels of the two rows that share a row of chroma.
HOST_DEVICE void rgb_to_yuv420_thread(
    int thread, const u8* rgb, int width, int height, u8* luma, int luma_pitch, u8* chroma,
    int chroma_pitch, const Encoding& gain) {
    const int columns = divided_up(width, 16);
    const int pair = thread / columns;
    const int x = thread % columns * 16;
    if (2 * pair >= height) return;
    const i64 y = 2 * pair;
    const i64 y_below = smaller(2 * pair + 1, height - 1);
    const RgbRow upper(rgb + 3 * y * width, x, width), lower(rgb + 3 * y_below * width, x, width);
    write_luma(luma + y * luma_pitch, upper, x, width, gain);
    if (y_below > y) write_luma(luma + y_below * luma_pitch, lower, x, width, gain);
    write_chroma(chroma + static_cast<i64>(pair) * chroma_pitch, upper, lower, x, width, gain);
}

KERNEL rgb_to_nv12(
    const u8* rgb, int width, int height, u8* luma, int luma_pitch, u8* chroma, int chroma_pitch,
    int luma_offset, int luma_red, int luma_green, int luma_blue, int u_red, int u_green,
    int u_blue, int v_red, int v_green, int v_blue) {
    const Encoding gain{luma_offset, luma_red, luma_green, luma_blue, u_red,
                        u_green,     u_blue,   v_red,      v_green,   v_blue};
    rgb_to_yuv420_thread(
        thread_index(), rgb, width, height, luma, luma_pitch, chroma, chroma_pitch, gain);
}
