// A convolution and the operations fused with it, for Hopper's tensor cores. See convolution.py.
//
// A warpgroup copies a tile of the image with its halo into shared memory once and multiplies it
// tap by tap: each tap is the same tile, shifted by some pixels. The layout is that of rows for
// `wgmma`, eight channels of a pixel in 16 bytes, so the next pixel is 16 bytes further on and no
// tap needs its own copy.
#include "tensor_core.h"

// Parameters of a kernel; all tensors are NHWC.
struct Convolution {
    const u8* source;     // half [count, height, width, passes * inputs]
    const u8* weights;    // half, in the order of `packed` in convolution.py
    const float* biases;  // [blocks, outputs]
    const float* slopes;  // [blocks, outputs], of PReLU
    const u8* added;      // half, same shape as the target, or null
    u8* target;           // half [count, f height, f width, channels], or the image's bytes
    const u8* pixels;     // bytes [count, height, width, 3] that an image is added to, or null
    float* totals;        // [count]: sums of the images, in levels, before they are clamped
    int count, height, width;
};

// Compile-time parameters.
//
// There are `kPasses` passes of `kInputs` channels; a block of the grid's y computes `kOutputs`
// channels. `kFactor` is that of the PixelShuffle. A row of a tile has `kPitch` pixels, including
// the halo. A group of threads has a tile; each of its warpgroups has `kRowsOf64` times 64 pixels.
template <
    int kInputs_, int kOutputs_, int kSide_, int kPasses_, int kFactor_, bool kIsImage_,
    int kPitch_, int kGroups_, int kGroupWarpgroups_, int kRowsOf64_>
struct Shape {
    static constexpr int kInputs = kInputs_, kOutputs = kOutputs_, kSide = kSide_;
    static constexpr int kPasses = kPasses_, kFactor = kFactor_, kPitch = kPitch_;
    static constexpr bool kIsImage = kIsImage_;
    static constexpr int kGroups = kGroups_, kGroupThreads = 128 * kGroupWarpgroups_;
    static constexpr int kThreads = kGroups * kGroupThreads;
    static constexpr int kRowsOf64 = kRowsOf64_;  // per warpgroup

    static constexpr int kReach = kSide / 2;
    static constexpr int kChunks = kInputs / 8;
    static constexpr int kPositions = 64 * kRowsOf64 * kGroupWarpgroups_;
    static constexpr int kRows = kPositions / kPitch, kColumns = kPitch - 2 * kReach;
    static constexpr int kHaloRows = kRows + 2 * kReach;
    // Taps reach beyond the last row, but only in unused columns.
    static constexpr int kHaloPositions = (kHaloRows * kPitch + 2 * kReach + 1 + 7) / 8 * 8;
    // Adjacent threads write chunks of one pixel, into different banks.
    static constexpr int kPlaneBytes = 16 * kHaloPositions + (kChunks == 1 ? 0 : 128 / kChunks);

    // A step multiplies sixteen values: of one tap, or of two taps with eight channels each.
    static constexpr int kTapSteps = kChunks == 1 ? (kSide + 1) / 2 : kSide * kChunks / 2;
    static constexpr int kSteps = kSide * kTapSteps;
    static constexpr int kStepBytes = 32 * kOutputs;
    static constexpr int kWeightBytes = kSteps * kStepBytes;

    static constexpr int kStagedPitch = 2 * kOutputs + 16;  // bytes per pixel
    static constexpr int kStagedBytes =
        kIsImage ? kPositions * 3 * kFactor * kFactor : kPositions * kStagedPitch;
    static constexpr int kTileBytes =
        divided_up(larger(kChunks * kPlaneBytes, kStagedBytes), 128) * 128;
    // If all weights fit at once, the next tile is copied while one is multiplied.
    static constexpr int kBuffers = kPasses == 1 ? 2 : 1;
    static_assert(kPasses == 1 || kGroups == 1, "parts of the weights are one group's");
    static constexpr int kSharedBytes =
        kWeightBytes + kGroups * kBuffers * kTileBytes + 8 * kOutputs;
};

struct Place {
    int image, y, x;  // of the first output pixel of a tile

    template <class S>
    DEVICE static Place of(int tile, const Convolution& it, S) {
        const int across = divided_up(it.width, S::kColumns);
        const int down = divided_up(it.height, S::kRows);
        return {tile / (across * down), tile / across % down * S::kRows,
                tile % across * S::kColumns};
    }
};

template <class S>
DEVICE void load_tile(
    u32 tile_address, const Convolution& it, const Place& place, int pass, int thread) {
    constexpr int kPixelBytes = 2 * S::kInputs * S::kPasses;
    // If two taps are one step, an odd row of taps reads one more value, times zero: that is only
    // zero if the value is finite.
    constexpr int kPositions = S::kChunks == 1 ? S::kHaloPositions : S::kHaloRows * S::kPitch;
    for (int i = thread; i < kPositions * S::kChunks; i += S::kGroupThreads) {
        const int chunk = i % S::kChunks, position = i / S::kChunks;
        const int y = place.y + position / S::kPitch - S::kReach;
        const int x = place.x + position % S::kPitch - S::kReach;
        const bool is_inside = y >= 0 && y < it.height && x >= 0 && x < it.width
            && position < S::kHaloRows * S::kPitch;
        const i64 pixel = (static_cast<i64>(place.image) * it.height + y) * it.width + x;
        const u8* from = it.source + pixel * kPixelBytes + 2 * S::kInputs * pass + 16 * chunk;
        copy_to_shared(
            tile_address + chunk * S::kPlaneBytes + 16 * position,
            is_inside ? from : it.source, is_inside);
    }
}

template <class S>
DEVICE void load_weights(u32 address, const u8* from, int thread, int threads) {
    for (int i = thread; i < S::kWeightBytes / 16; i += threads) {
        copy_to_shared(address + 16 * i, from + 16 * static_cast<i64>(i), true);
    }
}

// Multiplies all taps of one pass, for the rows of 64 of one warpgroup.
template <class S>
DEVICE void multiply(
    float (&sums)[S::kRowsOf64][S::kOutputs / 2], u32 tile_address, u32 weights_address,
    bool adds) {
    const u64 weights = matrix_at(weights_address, 16 * S::kOutputs);
    const u64 tile = matrix_at(tile_address, S::kChunks == 1 ? 16 : S::kPlaneBytes);
    begin_multiplying();
#pragma unroll 1
    for (int row = 0; row < S::kSide; ++row) {
        UNROLL for (int step = 0; step < S::kTapSteps; ++step) {
            constexpr int kOfTap = S::kChunks == 1 ? 1 : S::kChunks / 2;
            const int tap = S::kChunks == 1 ? 2 * step : step / kOfTap;
            const int planes = 2 * (step % kOfTap) * (S::kPlaneBytes / 16);
            const u64 right = weights + (row * S::kTapSteps + step) * (S::kStepBytes / 16);
            const u64 left = tile + row * S::kPitch + tap + planes;
            UNROLL for (int m = 0; m < S::kRowsOf64; ++m) {
                multiply_64<S::kOutputs>(sums[m], left + 64 * m, right, adds);
            }
            adds = true;
        }
    }
    finish_multiplying();
}

// Converts sums to the next convolution's input in halves, through shared memory for whole lines.
template <class S>
DEVICE void write_features(
    const float (&sums)[S::kRowsOf64][S::kOutputs / 2], u8* staged, const float* constants,
    const Convolution& it, const Place& place, int group, int thread) {
    const int warp = thread / 32, lane = thread % 32;
    constexpr int kLine = S::kOutputs / 8;  // lines of 16 bytes
    constexpr int kLines = S::kPositions * kLine / S::kGroupThreads;
    const auto offset_of = [&](int line) -> i64 {  // in the target; -1 beyond its edges
        const int i = thread + line * S::kGroupThreads, block = blockIdx.y;
        const int column = i / kLine % S::kPitch;
        const int y = place.y + i / kLine / S::kPitch, x = place.x + column;
        if (column >= S::kColumns || y >= it.height || x >= it.width) return -1;
        const i64 row = static_cast<i64>(place.image) * it.height + y;
        const i64 pixel = S::kFactor == 1
            ? (row * it.width + x) * gridDim.y + block
            : ((row * S::kFactor + block / S::kFactor) * it.width + x) * S::kFactor
                + block % S::kFactor;
        return 16 * (pixel * kLine + i % kLine);
    };
    uint4 added[kLines] = {};
    if (it.added != nullptr) {
        UNROLL for (int line = 0; line < kLines; ++line) {  // all loads in flight at once
            const i64 offset = offset_of(line);
            if (offset >= 0) added[line] = *reinterpret_cast<const uint4*>(it.added + offset);
        }
    }
    UNROLL for (int m = 0; m < S::kRowsOf64; ++m) {
        const int position =
            64 * (thread / 128 * S::kRowsOf64 + m) + 16 * (warp % 4) + lane / 4;
        UNROLL for (int j = 0; j < S::kOutputs / 8; ++j) {
            const int channel = 8 * j + 2 * (lane % 4);
            const float bias[2] = {constants[channel], constants[channel + 1]};
            const float slope[2] = {
                constants[S::kOutputs + channel], constants[S::kOutputs + channel + 1]};
            UNROLL for (int below = 0; below < 2; ++below) {
                float value[2];
                UNROLL for (int k = 0; k < 2; ++k) {
                    value[k] = sums[m][4 * j + 2 * below + k] + bias[k];
                    value[k] = value[k] < 0 ? value[k] * slope[k] : value[k];
                }
                u8* at = staged + (position + 8 * below) * S::kStagedPitch + 2 * channel;
                *reinterpret_cast<u32*>(at) = halves_of(value[0], value[1]);
            }
        }
    }
    barrier<S::kGroupThreads>(1 + group);
    UNROLL for (int line = 0; line < kLines; ++line) {
        const i64 offset = offset_of(line);
        if (offset < 0) continue;
        const int i = thread + line * S::kGroupThreads;
        uint4 made = *reinterpret_cast<const uint4*>(
            staged + i / kLine * S::kStagedPitch + 16 * (i % kLine));
        if (it.added != nullptr) {
            made = {sum_of_halves(made.x, added[line].x), sum_of_halves(made.y, added[line].y),
                    sum_of_halves(made.z, added[line].z), sum_of_halves(made.w, added[line].w)};
        }
        *reinterpret_cast<uint4*>(it.target + offset) = made;
    }
}

// Converts sums to bytes of the image, which stays in FP32 until then. Channels are in the order of
// the bytes: row, column and color within a pixel of the input. A row has whole words of 4 bytes.
template <class S>
DEVICE void write_image(
    const float (&sums)[S::kRowsOf64][S::kOutputs / 2], u8* staged, const float* constants,
    const Convolution& it, const Place& place, int group, int thread) {
    constexpr int kRowBytes = 3 * S::kFactor;  // per pixel of the input
    constexpr int kValues = S::kFactor * kRowBytes;
    const int warp = thread / 32, lane = thread % 32;
    float total = 0;
    UNROLL for (int m = 0; m < S::kRowsOf64; ++m) {
        UNROLL for (int below = 0; below < 2; ++below) {
            const int position = 64 * (thread / 128 * S::kRowsOf64 + m) + 16 * (warp % 4)
                + lane / 4 + 8 * below;
            const int row = position / S::kPitch, column = position % S::kPitch;
            const int y = place.y + row, x = place.x + column;
            if (column >= S::kColumns || y >= it.height || x >= it.width) continue;
            float base[3] = {0.5f, 0.5f, 0.5f};
            if (it.pixels != nullptr) {
                const i64 pixel = (static_cast<i64>(place.image) * it.height + y) * it.width + x;
                UNROLL for (int color = 0; color < 3; ++color) {
                    base[color] += it.pixels[3 * pixel + color];
                }
            }
            UNROLL for (int j = 0; j < S::kOutputs / 8; ++j) {
                const int value = 8 * j + 2 * (lane % 4);
                if (value >= kValues) continue;
                u32 bytes = 0;
                UNROLL for (int k = 0; k < 2; ++k) {
                    const float detail = sums[m][4 * j + 2 * below + k] + constants[value + k];
                    const int color = (value + k) % 3;
                    const float level =
                        (color == 0 ? base[0] : color == 1 ? base[1] : base[2]) + 255 * detail;
                    total += level;
                    bytes |= byte_of(level) << 8 * k;
                }
                u8* at = staged
                    + ((row * S::kFactor + value / kRowBytes) * S::kColumns + column) * kRowBytes
                    + value % kRowBytes;
                *reinterpret_cast<unsigned short*>(at) = static_cast<unsigned short>(bytes);
            }
        }
    }
    add_of_warp(it.totals + place.image, total, lane);
    barrier<S::kGroupThreads>(1 + group);
    constexpr int kWords = S::kColumns * kRowBytes / 4;
    const int words = smaller(S::kColumns, it.width - place.x) * kRowBytes / 4;
    for (int i = thread; i < S::kRows * S::kFactor * kWords; i += S::kGroupThreads) {
        const int word = i % kWords, row = i / kWords;
        if (word >= words || place.y + row / S::kFactor >= it.height) continue;
        const i64 line = (static_cast<i64>(place.image) * it.height + place.y) * S::kFactor + row;
        u8* at = it.target + (line * it.width + place.x) * kRowBytes + 4 * word;
        *reinterpret_cast<u32*>(at) =
            *reinterpret_cast<const u32*>(staged + row * S::kColumns * kRowBytes + 4 * word);
    }
}

// Loops over one group's tiles.
template <class S>
DEVICE void convolve_tiles(
    const Convolution& it, u8* tile_bytes, u32 weights_address, const u8* weights,
    const float* constants, int group, int thread) {
    const int warpgroup = uniform(thread / 128);
    const int tiles =
        it.count * divided_up(it.height, S::kRows) * divided_up(it.width, S::kColumns);
    const int first = blockIdx.x + group * gridDim.x, step = S::kGroups * gridDim.x;
    int buffer = 0;
    const auto address_of = [&](int which) {
        return shared_address(tile_bytes) + which * S::kTileBytes;
    };
    if (S::kBuffers == 2 && first < tiles) {
        load_tile<S>(address_of(0), it, Place::of(first, it, S()), 0, thread);
    }
    for (int tile = first; tile < tiles; tile += step) {
        const Place place = Place::of(tile, it, S());
        float sums[S::kRowsOf64][S::kOutputs / 2];
        for (int pass = 0; pass < S::kPasses; ++pass) {
            if (S::kBuffers == 1) {
                load_tile<S>(address_of(0), it, place, pass, thread);
                load_weights<S>(
                    weights_address, weights + static_cast<i64>(pass) * S::kWeightBytes, thread,
                    S::kGroupThreads);
            }
            wait_for_copies();
            barrier<S::kGroupThreads>(1 + group);
            if (S::kBuffers == 2 && tile + step < tiles) {
                load_tile<S>(
                    address_of(1 - buffer), it, Place::of(tile + step, it, S()), 0, thread);
            }
            // Groups that start together would wait together, with the tensor cores idle: at first,
            // each group waits for the previous one.
            const bool is_first = S::kGroups > 1 && tile == first;
            if (is_first && group > 0) barrier<2 * S::kGroupThreads>(8 + group);
            multiply<S>(
                sums, address_of(buffer) + 1024 * S::kRowsOf64 * warpgroup, weights_address,
                pass > 0);
            if (is_first && group + 1 < S::kGroups && first + gridDim.x < tiles) {
                arrive<2 * S::kGroupThreads>(9 + group);
            }
            barrier<S::kGroupThreads>(1 + group);  // buffers that were read may be overwritten
        }
        u8* const staged = tile_bytes + buffer * S::kTileBytes;
        if constexpr (S::kIsImage) {
            write_image<S>(sums, staged, constants, it, place, group, thread);
        } else {
            write_features<S>(sums, staged, constants, it, place, group, thread);
        }
        barrier<S::kGroupThreads>(1 + group);
        if (S::kBuffers == 2) buffer = 1 - buffer;
    }
}

template <class S>
DEVICE void convolve(const Convolution& it) {
    extern __shared__ __align__(128) u8 shared[];
    const int group = uniform(threadIdx.x / S::kGroupThreads);
    u8* const tiles = shared + S::kWeightBytes;
    float* const constants =
        reinterpret_cast<float*>(tiles + S::kGroups * S::kBuffers * S::kTileBytes);
    const u8* const weights =
        it.weights + static_cast<i64>(blockIdx.y) * S::kPasses * S::kWeightBytes;
    for (int i = threadIdx.x; i < S::kOutputs; i += S::kThreads) {
        constants[i] = it.biases[blockIdx.y * S::kOutputs + i];
        constants[S::kOutputs + i] = it.slopes[blockIdx.y * S::kOutputs + i];
    }
    if (S::kPasses == 1) {
        load_weights<S>(shared_address(shared), weights, threadIdx.x, S::kThreads);
        wait_for_copies();
    }
    // Weights and constants are available at the start; everything else is from earlier kernels.
    wait_for_those_before();
    let_the_next_begin();
    __syncthreads();
    convolve_tiles<S>(
        it, tiles + group * S::kBuffers * S::kTileBytes, shared_address(shared), weights,
        constants, group, threadIdx.x % S::kGroupThreads);
}

#define CONVOLUTION(name, blocks_at_once, ...)                                                  \
    extern "C" __global__ void __launch_bounds__(Shape<__VA_ARGS__>::kThreads, blocks_at_once)  \
        name(                                                                                   \
            const u8* source, const u8* weights, const float* biases, const float* slopes,      \
            const u8* added, u8* target, const u8* pixels, float* totals, int count, int height, \
            int width) {                                                                        \
        convolve<Shape<__VA_ARGS__>>({source, weights, biases, slopes, added, target, pixels,   \
                                      totals, count, height, width});                           \
    }                                                                                           \
    static_assert((Shape<__VA_ARGS__>::kSharedBytes + 1024) * blocks_at_once <= 228 * 1024, #name);

//          name               at once inputs outputs side passes factor image pitch groups wgs m
CONVOLUTION(convolve_8_to_64_by_9, 1, 8, 64, 9, 1, 1, false, 32, 3, 1, 2)
CONVOLUTION(convolve_64_to_64_by_3, 1, 64, 64, 3, 1, 1, false, 32, 3, 1, 2)
CONVOLUTION(convolve_64_to_256_by_3, 1, 64, 64, 3, 1, 2, false, 32, 3, 1, 2)
CONVOLUTION(image_of_256_by_5, 3, 32, 16, 5, 8, 2, true, 64, 1, 2, 4)
CONVOLUTION(convolve_8_to_32_by_3, 1, 8, 32, 3, 1, 1, false, 32, 4, 1, 2)
CONVOLUTION(convolve_32_to_32_by_3, 1, 32, 32, 3, 1, 1, false, 32, 4, 1, 2)
CONVOLUTION(image_of_32_by_3, 1, 32, 48, 3, 1, 4, true, 32, 4, 1, 2)
