// Matches the mean colors of a result to those of its frame. See color_lock.py.
#include "bytes.h"

constexpr int kShareBits = 7;  // fractional bits of a block's share in a pixel
constexpr int kFractionBits = 8 + 2 * kShareBits;
constexpr int kWholeShare = 1 << kShareBits;

// The sums of three colors.
struct Sums {
    u32 red = 0, green = 0, blue = 0;

    // Adds four pixels in three words, where a color has every third byte.
    HOST_DEVICE void add(u32 first, u32 second, u32 third) {
        constexpr u32 kEnds = 0x01000001, kSecond = 0x00000100, kThird = 0x00010000;
        red = dot4(first, kEnds, dot4(second, kThird, dot4(third, kSecond, red)));
        green = dot4(first, kSecond, dot4(second, kEnds, dot4(third, kThird, green)));
        blue = dot4(first, kThird, dot4(second, kSecond, dot4(third, kEnds, blue)));
    }

    // Adds the first `count` of 16 pixels.
    HOST_DEVICE void add(Bytes<48> pixels, int count) {
        UNROLL for (int i = 0; i < 12; ++i) {
            const int bytes = clamped(3 * count - 4 * i, 0, 4);
            pixels.word[i] &= bytes < 4 ? (1u << 8 * bytes) - 1 : 0xffffffff;
        }
        UNROLL for (int i = 0; i < 12; i += 3) {
            add(pixels.word[i], pixels.word[i + 1], pixels.word[i + 2]);
        }
    }
};

// Adds one row of one block to the sums of the block.
KERNEL color_sums(
    const u8* rgb, int width, int height, const int* edges, int columns, const int* row_blocks,
    u32* sums) {
    const int y = thread_index() / columns, column = thread_index() % columns;
    if (y >= height) return;
    const u8* row = rgb + static_cast<i64>(y) * 3 * width;
    const int stop = edges[column + 1];
    Sums found;
    auto next = load_of_row<48, 3>(row, 3 * edges[column], 3 * width);
    for (int x = edges[column]; x < stop; x += 16) {
        const auto pixels = next;
        if (x + 16 < stop) next = load_of_row<48, 3>(row, 3 * (x + 16), 3 * width);
        found.add(pixels, stop - x);
    }
    u32* block = sums + 3 * (row_blocks[y] * columns + column);
    add_atomically(block, found.red);
    add_atomically(block + 1, found.green);
    add_atomically(block + 2, found.blue);
}

HOST_DEVICE i64 floor_divided(i64 value, i64 by) {
    return value / by - (value % by < 0);
}

// Computes the missing brightness of one color of one block, and sets its sums to zero.
KERNEL color_missing(
    u32* low_sums, u32* high_sums, const int* edges_y, int rows, const int* edges_x, int columns,
    int scale, int* missing) {
    const int thread = thread_index();
    const int row = thread / 3 / columns, column = thread / 3 % columns;
    if (row >= rows) return;
    const i64 area = scale * scale;
    const i64 pixels =
        area * (edges_y[row + 1] - edges_y[row]) * (edges_x[column + 1] - edges_x[column]);
    const i64 difference = area * low_sums[thread] - high_sums[thread];
    missing[thread] = static_cast<int>(floor_divided(512 * difference + pixels, 2 * pixels));
    low_sums[thread] = high_sums[thread] = 0;
}

// An entry of `LockAxis.places`: a block, and the share of the next one.
struct Place {
    int block, share;

    HOST_DEVICE explicit Place(int entry) : block(entry >> 8), share(entry & 0xff) {}
};

HOST_DEVICE int mixed(int here, int next, int share) {
    return (kWholeShare - share) * here + share * next;
}

// Bayer's order of a pixel among sixteen, from 0 to 15.
HOST_DEVICE int bayer(int x, int y) {
    const int crossed = x ^ y;
    return (crossed & 1) << 3 | (y & 1) << 2 | (crossed & 2) | (y & 2) >> 1;
}

// Interpolates the missing brightness in a column of blocks at one row of pixels.
struct ColumnShift {
    int red, green, blue;

    HOST_DEVICE ColumnShift(const int* upper, const int* lower, int share)
        : red(mixed(upper[0], lower[0], share)),
          green(mixed(upper[1], lower[1], share)),
          blue(mixed(upper[2], lower[2], share)) {}
};

HOST_DEVICE void put_shifted(Bytes<48>& shifted, int i, u32 level, int shift) {
    shifted.put(i, clamped(static_cast<int>(level) + (shift >> kFractionBits), 0, 255));
}

// Corrects 16 pixels of a row in place.
KERNEL color_shift(
    u8* rgb, int width, int height, const int* missing, int columns, int rows, const int* across,
    const int* down) {
    const int groups = divided_up(width, 16);
    const int y = thread_index() / groups, first = thread_index() % groups * 16;
    if (y >= height) return;
    const Place place_y(down[y]);
    const int* upper = missing + 3 * columns * place_y.block;
    const int* lower = missing + 3 * columns * smaller(place_y.block + 1, rows - 1);
    int left = Place(across[first]).block;
    int right = smaller(left + 1, columns - 1);
    ColumnShift here(upper + 3 * left, lower + 3 * left, place_y.share);
    ColumnShift next(upper + 3 * right, lower + 3 * right, place_y.share);
    u8* row = rgb + static_cast<i64>(y) * 3 * width;
    const auto pixels = load_of_row<48, 3>(row, 3 * first, 3 * width);
    Bytes<48> shifted;
    UNROLL for (int i = 0; i < 16; ++i) {
        const Place place(across[smaller(first + i, width - 1)]);
        if (place.block != left) {
            left = place.block;
            right = smaller(left + 1, columns - 1);
            here = ColumnShift(upper + 3 * left, lower + 3 * left, place_y.share);
            next = ColumnShift(upper + 3 * right, lower + 3 * right, place_y.share);
        }
        const int threshold = (2 * bayer(i, y) + 1) << (kFractionBits - 5);
        const int red = mixed(here.red, next.red, place.share) + threshold;
        const int green = mixed(here.green, next.green, place.share) + threshold;
        const int blue = mixed(here.blue, next.blue, place.share) + threshold;
        put_shifted(shifted, 3 * i, pixels.get(3 * i), red);
        put_shifted(shifted, 3 * i + 1, pixels.get(3 * i + 1), green);
        put_shifted(shifted, 3 * i + 2, pixels.get(3 * i + 2), blue);
    }
    store(row + 3 * first, shifted, 3 * (width - first));
}
