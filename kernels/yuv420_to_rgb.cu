// NV12 -> packed RGB. See yuv420_to_rgb.py.
#include "yuv420.h"

// `Decoding` of yuv_matrix.py.
struct Decoding {
    int luma_offset, luma, red_v, green_u, green_v, blue_u;
};

// Y'CbCr -> R'G'B' in three bytes of `rgb`; `u` and `v` in eighths, 0 being gray.
HOST_DEVICE void put_rgb(Bytes<48>& rgb, int pixel, int y, int u, int v, const Decoding& gain) {
    const int white = gain.luma * (y - gain.luma_offset) + kHalf;
    const int red = white + gain.red_v * v;
    const int green = white + gain.green_u * u + gain.green_v * v;
    const int blue = white + gain.blue_u * u;
    rgb.put(3 * pixel, clamped(red >> kFractionBits, 0, 255));
    rgb.put(3 * pixel + 1, clamped(green >> kFractionBits, 0, 255));
    rgb.put(3 * pixel + 2, clamped(blue >> kFractionBits, 0, 255));
}

HOST_DEVICE int code(const Bytes<16>& samples, int i) { return samples.get(i); }

// Eight chroma samples of a row, and the one to their right.
struct ChromaRow {
    Bytes<16> samples;
    int next_u, next_v;

    HOST_DEVICE ChromaRow(const u8* row, int x, int chroma_width) {
        samples = load_of_row<16, 2>(row, x, 2 * chroma_width);
        const u8* next = row + 2 * smaller(x / 2 + 8, chroma_width - 1);
        next_u = next[0];
        next_v = next[1];
    }

    HOST_DEVICE int u(int i) const { return i < 8 ? code(samples, 2 * i) : next_u; }
    HOST_DEVICE int v(int i) const { return i < 8 ? code(samples, 2 * i + 1) : next_v; }
};

// Converts 16 pixels of a row; `near` is the closer row of chroma, `far` the one on the other side.
HOST_DEVICE void convert_row(
    const u8* luma_row, const ChromaRow& near, const ChromaRow& far, u8* rgb_row,
    int x, int width, const Decoding& gain) {
    constexpr int kGray = 4 * kCenter;
    const auto luma = load_of_row<16, 1>(luma_row, x, width);
    Bytes<48> rgb;
    int u = 3 * near.u(0) + far.u(0) - kGray;
    int v = 3 * near.v(0) + far.v(0) - kGray;
    UNROLL for (int i = 0; i < 8; ++i) {
        const int next_u = 3 * near.u(i + 1) + far.u(i + 1) - kGray;
        const int next_v = 3 * near.v(i + 1) + far.v(i + 1) - kGray;
        put_rgb(rgb, 2 * i, code(luma, 2 * i), 2 * u, 2 * v, gain);
        put_rgb(rgb, 2 * i + 1, code(luma, 2 * i + 1), u + next_u, v + next_v, gain);
        u = next_u;
        v = next_v;
    }
    store(rgb_row + 3 * x, rgb, 3 * (width - x));
}

// Converts 16 pixels of the two rows between two rows of chroma: the lower row of one pair that
// shares its chroma, and the upper row of the next.
HOST_DEVICE void yuv420_to_rgb_thread(
    int thread, const u8* luma, int luma_pitch, const u8* chroma, int chroma_pitch, u8* rgb,
    int width, int height, const Decoding& gain) {
    const int columns = divided_up(width, 16);
    const int below = thread / columns;
    const int x = thread % columns * 16;
    if (below > height / 2) return;
    const int last = (height - 1) / 2;
    const int chroma_width = divided_up(width, 2);
    const u8* upper = chroma + static_cast<i64>(larger(below - 1, 0)) * chroma_pitch;
    const u8* lower = chroma + static_cast<i64>(smaller(below, last)) * chroma_pitch;
    const ChromaRow upper_row(upper, x, chroma_width), lower_row(lower, x, chroma_width);
    const i64 y = 2 * below;
    const i64 rgb_pitch = 3 * width;
    if (y > 0) {
        convert_row(
            luma + (y - 1) * luma_pitch, upper_row, lower_row, rgb + (y - 1) * rgb_pitch, x, width,
            gain);
    }
    if (y < height) {
        convert_row(
            luma + y * luma_pitch, lower_row, upper_row, rgb + y * rgb_pitch, x, width, gain);
    }
}

KERNEL nv12_to_rgb(
    const u8* luma, int luma_pitch, const u8* chroma, int chroma_pitch, u8* rgb, int width,
    int height, int luma_offset, int luma_gain, int red_v, int green_u, int green_v, int blue_u) {
    const Decoding gain{luma_offset, luma_gain, red_v, green_u, green_v, blue_u};
    yuv420_to_rgb_thread(
        thread_index(), luma, luma_pitch, chroma, chroma_pitch, rgb, width, height, gain);
}
