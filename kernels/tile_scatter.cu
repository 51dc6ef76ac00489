// The cores of upscaled tiles -> the frame. See tile_scatter.py.
#include "tile.h"

KERNEL tile_scatter(
    const u8* batch, int window_width, int window_height, const Tile* tiles, int count, int scale,
    u8* frame, int width) {
    const int window_row_bytes = 3 * scale * window_width;
    const int window_rows = scale * window_height;
    const Share share(thread_index(), window_rows, window_row_bytes);
    if (share.tile >= count) return;
    const Tile& tile = tiles[share.tile];
    if (share.row >= scale * tile.core_height) return;
    const i64 y = scale * tile.core_y + share.row;
    const i64 source_row = static_cast<i64>(share.tile) * window_rows + share.row
        + scale * (tile.core_y - tile.window_y);
    copy_chunk(
        frame + 3 * scale * (y * width + tile.core_x),
        batch + source_row * window_row_bytes + 3 * scale * (tile.core_x - tile.window_x),
        batch + static_cast<i64>(count) * window_rows * window_row_bytes,
        3 * scale * tile.core_width, share.chunk);
}
