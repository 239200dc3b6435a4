// The largest numbers of a row, in order.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "vectors.hpp"

// A number and where it stands as one integer: the larger number is the larger one, of equals the one that stands before.
inline uint64_t ranked(float value, int index) {
    uint32_t bits;
    value += 0.0f;  // there is one zero
    std::memcpy(&bits, &value, 4);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(~index);
}

inline int index_of(uint64_t rank) { return static_cast<int>(~static_cast<uint32_t>(rank)); }

constexpr int kPiece = 64;  // of a row; as many outputs as a panel of the head has

inline int pieces_of(int count) { return (count + kPiece - 1) / kPiece; }

// Which of sixteen numbers from `at` on are among the first `count`.
inline __mmask16 inside(int at, int count) {
    return at + kLanes <= count ? static_cast<__mmask16>(0xFFFF)
                                : static_cast<__mmask16>(at < count ? (1u << (count - at)) - 1 : 0);
}

// Has a piece on its way from wherever it is, often another core: asked for at once, pieces come at once.
inline void ask_for(const float *row, int piece) {
    for (int at = 0; at < kPiece; at += kLanes)
        _mm_prefetch(reinterpret_cast<const char *>(row + piece * kPiece + at), _MM_HINT_T0);
}

// The largest number of a piece, or none if one of its numbers is none.
inline float peak_of(const float *row, int count, int piece) {
    Float16 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    __mmask16 none = 0;
    for (int at = piece * kPiece; at < (piece + 1) * kPiece; at += kLanes) {
        const Float16 numbers = _mm512_mask_loadu_ps(most, inside(at, count), row + at);
        none |= _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, numbers);
    }
    return none ? std::numeric_limits<float>::quiet_NaN() : _mm512_reduce_max_ps(most);
}

inline std::vector<float> find_peaks(const float *row, int count) {
    std::vector<float> peaks(pieces_of(count));
    for (size_t piece = 0; piece < peaks.size(); ++piece) peaks[piece] = peak_of(row, count, static_cast<int>(piece));
    return peaks;
}

// The `wanted` largest of `count` numbers, the largest first, equals in their order. `wanted` is at most `count`, `peaks`
// those of its pieces. False if one of them is no number, or the largest is infinite.
//
// So many pieces reach the `wanted`-th of the peaks that nothing below it can be among the `wanted` largest, and few
// numbers are looked at.
inline bool select_largest(const float *row, int count, int wanted, const float *peaks, float *values, int32_t *indices) {
    const int pieces = pieces_of(count);
    for (int piece = 0; piece < pieces; ++piece)
        if (!(peaks[piece] < std::numeric_limits<float>::infinity())) return false;
    float least = -std::numeric_limits<float>::infinity();
    if (wanted <= pieces) {
        std::vector<float> order(peaks, peaks + pieces);
        std::nth_element(order.begin(), order.begin() + (wanted - 1), order.end(), std::greater<float>());
        least = order[wanted - 1];
    }
    std::vector<int> reaching;
    reaching.reserve(pieces);
    for (int piece = 0; piece < pieces; ++piece)
        if (peaks[piece] >= least) {
            ask_for(row, piece);
            reaching.push_back(piece);
        }
    std::vector<uint64_t> held;
    held.reserve(static_cast<size_t>(4) * wanted);
    for (const int piece : reaching) {
        for (int at = piece * kPiece; at < std::min(count, (piece + 1) * kPiece); at += kLanes) {
            const Float16 numbers = _mm512_maskz_loadu_ps(inside(at, count), row + at);
            unsigned reach = _mm512_mask_cmp_ps_mask(inside(at, count), numbers, _mm512_set1_ps(least), _CMP_GE_OQ);
            for (; reach; reach &= reach - 1) {
                const int index = at + __builtin_ctz(reach);
                held.push_back(ranked(row[index], index));
            }
        }
    }
    const auto middle = held.begin() + wanted;
    std::nth_element(held.begin(), middle - 1, held.end(), std::greater<uint64_t>());
    std::sort(held.begin(), middle, std::greater<uint64_t>());
    for (int at = 0; at < wanted; ++at) {
        indices[at] = index_of(held[at]);
        values[at] = row[indices[at]];
    }
    return true;
}
