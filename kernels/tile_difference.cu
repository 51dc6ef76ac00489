// Marks the tiles that differ from those of the previous frame. See tile_difference.py.
#include "tile.h"

HOST_DEVICE bool chunk_differs(const u8* a, const u8* b, int row_bytes, int chunk) {
    const Chunk part(a, row_bytes, chunk);
    u32 difference = 0;
    if (part.is_whole() && is_aligned(b + part.start, 16)) {
        u32 left[4], right[4];
        load_aligned(a + part.start, left);
        load_aligned(b + part.start, right);
        UNROLL for (int i = 0; i < 4; ++i) difference |= left[i] ^ right[i];
    } else {  // without an early exit, so that all loads are in flight at once
        UNROLL for (int i = 0; i < 16; ++i) {
            const int at = part.start + i;
            if (at < part.stop) difference |= a[at] ^ b[at];
        }
    }
    return difference != 0;
}

KERNEL tile_difference(
    const u8* frame, const u8* previous, int width, const Tile* tiles, int count,
    int window_width, int window_height, u8* dirty) {
    const int row_bytes = 3 * window_width;
    const Share share(thread_index(), window_height, row_bytes);
    if (share.tile >= count) return;
    const Tile& tile = tiles[share.tile];
    const i64 offset = 3 * (static_cast<i64>(tile.window_y + share.row) * width + tile.window_x);
    // All threads of a tile that find a difference write the same value, so order does not matter.
    if (chunk_differs(frame + offset, previous + offset, row_bytes, share.chunk)) {
        dirty[share.tile] = 1;
    }
}
