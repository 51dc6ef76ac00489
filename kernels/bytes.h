// Bytes at any address, 16 in one access where alignment allows. Little-endian, as all GPUs are.
//
// Rows of RGB begin at any address: they are only aligned if 16 divides the width.
#pragma once

#include "portable.h"

template <int kBytes>
struct Bytes {
    static_assert(kBytes % 16 == 0, "whole accesses");
    u32 word[kBytes / 4] = {};

    HOST_DEVICE u32 get(int i) const { return word[i / 4] >> 8 * (i % 4) & 0xffu; }

    // Sets byte `i`, which must still be 0.
    HOST_DEVICE void put(int i, u32 value) { word[i / 4] |= value << 8 * (i % 4); }
};

HOST_DEVICE bool is_aligned(const void* at, int bytes) {
    return reinterpret_cast<u64>(at) % bytes == 0;
}

// One access of 16 bytes; `at` is aligned to 16.
HOST_DEVICE void load_aligned(const u8* at, u32* word) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(at);
    word[0] = loaded.x, word[1] = loaded.y, word[2] = loaded.z, word[3] = loaded.w;
}

HOST_DEVICE void store_aligned(u8* at, const u32* word) {
    *reinterpret_cast<uint4*>(at) = uint4{word[0], word[1], word[2], word[3]};
}

// Reads the bytes at `at`; returns false if that would read beyond `end`.
//
// Unaligned bytes are read as words and shifted. The first word may begin up to 3 bytes earlier,
// which is still inside the allocation, since allocations are aligned.
template <int kBytes>
HOST_DEVICE bool load(const u8* at, const u8* end, Bytes<kBytes>& loaded) {
    const int ahead = reinterpret_cast<u64>(at) % 4;
    if (end - at < (ahead == 0 ? kBytes : kBytes + 4 - ahead)) return false;
    if (is_aligned(at, 16)) {
        UNROLL for (int i = 0; i < kBytes; i += 16) load_aligned(at + i, loaded.word + i / 4);
        return true;
    }
    const u32* words = reinterpret_cast<const u32*>(at - ahead);
    u64 low = words[0];
    UNROLL for (int i = 0; i < kBytes / 4; ++i) {
        const bool is_needed = i + 1 < kBytes / 4 || ahead != 0;
        const u64 high = is_needed ? words[i + 1] : 0;
        loaded.word[i] = static_cast<u32>((high << 32 | low) >> 8 * ahead);
        low = high;
    }
    return true;
}

// Reads `kBytes` from position `first` of a row of `row_bytes`. The last `kGroup` bytes, one pixel,
// are repeated beyond the end of the row.
template <int kBytes, int kGroup>
HOST_DEVICE Bytes<kBytes> load_of_row(const u8* row, int first, int row_bytes) {
    Bytes<kBytes> loaded;
    if (!load(row + first, row + row_bytes, loaded)) {
        UNROLL for (int i = 0; i < kBytes; ++i) {
            loaded.put(i, row[smaller(first + i, row_bytes - kGroup + i % kGroup)]);
        }
    }
    return loaded;
}

// Writes the first `count` bytes.
template <int kBytes>
HOST_DEVICE void store(u8* at, const Bytes<kBytes>& bytes, int count) {
    if (count >= kBytes && is_aligned(at, 16)) {
        UNROLL for (int i = 0; i < kBytes; i += 16) store_aligned(at + i, bytes.word + i / 4);
    } else if (count >= kBytes && is_aligned(at, 4)) {
        u32* words = reinterpret_cast<u32*>(at);
        UNROLL for (int i = 0; i < kBytes / 4; ++i) words[i] = bytes.word[i];
    } else {
        UNROLL for (int i = 0; i < kBytes; ++i) {
            if (i < count) at[i] = static_cast<u8>(bytes.get(i));
        }
    }
}
