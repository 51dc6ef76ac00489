// Windows of a frame -> a batch of tiles. See tile_gather.py.
#include "tile.h"

KERNEL tile_gather(
    const u8* frame, int width, int height, const Tile* tiles, int count, u8* batch,
    int window_width, int window_height) {
    const int row_bytes = 3 * window_width;
    const Share share(thread_index(), window_height, row_bytes);
    if (share.tile >= count) return;
    const Tile& tile = tiles[share.tile];
    const i64 y = tile.window_y + share.row;
    const i64 target_row = static_cast<i64>(share.tile) * window_height + share.row;
    copy_chunk(
        batch + target_row * row_bytes, frame + 3 * (y * width + tile.window_x),
        frame + 3 * static_cast<i64>(height) * width, row_bytes, share.chunk);
}
