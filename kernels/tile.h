// A tile, and a thread's share of one of its rows: common to gathering, scattering and comparing.
#pragma once

#include "bytes.h"

// A row of `TilePlan.table`: a window of the frame and its core, in LR pixels of the frame.
struct Tile {
    int window_y, window_x;
    int core_y, core_x, core_height, core_width;
};

// The tile, the row and the 16 bytes of it that a thread works on.
struct Share {
    int tile, row, chunk;

    HOST_DEVICE Share(int thread, int rows, int row_bytes) {
        // One more than fill the row, since a row may begin anywhere in 16 bytes.
        const int chunks = divided_up(row_bytes + 15, 16);
        chunk = thread % chunks;
        row = thread / chunks % rows;
        tile = thread / chunks / rows;
    }
};

// The bytes of a row in one aligned chunk of 16 bytes: all in the middle, fewer at its ends.
struct Chunk {
    int start, stop;

    HOST_DEVICE Chunk(const u8* row, int row_bytes, int chunk) {
        const int first = 16 * chunk - static_cast<int>(reinterpret_cast<u64>(row) % 16);
        start = larger(first, 0);
        stop = smaller(first + 16, row_bytes);
    }

    HOST_DEVICE bool is_whole() const { return stop - start == 16; }
};

// Copies one chunk of a row; `source_end` is the end of the source's memory.
HOST_DEVICE void copy_chunk(
    u8* target, const u8* source, const u8* source_end, int row_bytes, int chunk) {
    const Chunk part(target, row_bytes, chunk);
    Bytes<16> bytes;
    if (part.is_whole() && load(source + part.start, source_end, bytes)) {
        store_aligned(target + part.start, bytes.word);
    } else {
        for (int i = part.start; i < part.stop; ++i) target[i] = source[i];
    }
}
