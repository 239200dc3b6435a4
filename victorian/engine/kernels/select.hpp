// The largest numbers of a row, in order.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "vectors.hpp"

struct Candidate {
    float value;
    int32_t index;
    // The larger first; of equals the one that stands before.
    bool operator<(const Candidate &other) const {
        return value > other.value || (value == other.value && index < other.index);
    }
};

// The `wanted` largest of `count` numbers, the largest first, equals in their order. `wanted` is at most `count`. False if
// one of them is no number.
//
// The largest of each piece of the row are found first, in one pass: so many pieces reach the `wanted`-th of these that
// nothing below it can be among the `wanted` largest, and few pieces need a second look.
inline bool select_largest(const float *row, int count, int wanted, float *values, int32_t *indices) {
    constexpr int kPiece = 64;
    const int pieces = (count + kPiece - 1) / kPiece;
    std::vector<float> largest(pieces);
    const auto load = [&](int at) {
        if (at + kLanes <= count) return _mm512_loadu_ps(row + at);
        const __mmask16 inside = at < count ? static_cast<__mmask16>((1u << (count - at)) - 1) : 0;
        return _mm512_mask_loadu_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), inside, row + at);
    };
    __mmask16 none = 0;
    for (int piece = 0; piece < pieces; ++piece) {
        Float16 most = load(piece * kPiece);
        none |= _mm512_cmp_ps_mask(most, most, _CMP_UNORD_Q);
        for (int at = kLanes; at < kPiece; at += kLanes) {
            const Float16 numbers = load(piece * kPiece + at);
            none |= _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
            most = _mm512_max_ps(most, numbers);
        }
        largest[piece] = _mm512_reduce_max_ps(most);
    }
    if (none) return false;
    float least = -std::numeric_limits<float>::infinity();
    if (wanted <= pieces) {
        std::vector<float> order(largest);
        std::nth_element(order.begin(), order.begin() + (wanted - 1), order.end(), std::greater<float>());
        least = order[wanted - 1];
    }
    std::vector<Candidate> held;
    held.reserve(static_cast<size_t>(2) * wanted + kPiece);
    for (int piece = 0; piece < pieces; ++piece) {
        if (largest[piece] < least) continue;
        for (int at = piece * kPiece; at < std::min(count, (piece + 1) * kPiece); ++at)
            if (row[at] >= least) held.push_back({row[at], at});
    }
    std::partial_sort(held.begin(), held.begin() + wanted, held.end());
    for (int index = 0; index < wanted; ++index) {
        values[index] = held[index].value;
        indices[index] = held[index].index;
    }
    return true;
}
