// The largest numbers of a row, in order.
#pragma once

#include <algorithm>
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
inline bool select_largest(const float *row, int count, int wanted, float *values, int32_t *indices) {
    std::vector<Candidate> held;
    held.reserve(static_cast<size_t>(4) * wanted + kLanes);
    __mmask16 none = 0;
    float least = -std::numeric_limits<float>::infinity();
    const auto prune = [&] {
        std::nth_element(held.begin(), held.begin() + (wanted - 1), held.end());
        held.resize(wanted);
        least = held.back().value;
        for (const Candidate &one : held) least = std::min(least, one.value);
    };
    int at = 0;
    for (; at + kLanes <= count; at += kLanes) {
        const Float16 numbers = _mm512_loadu_ps(row + at);
        none |= _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
        if (none) return false;
        // Equals of the least so far stand behind it, and are not wanted.
        const bool young = static_cast<int>(held.size()) < wanted;
        __mmask16 larger = young ? 0xFFFF : _mm512_cmp_ps_mask(numbers, _mm512_set1_ps(least), _CMP_GT_OQ);
        for (; larger; larger &= larger - 1) {
            const int lane = __builtin_ctz(larger);
            held.push_back({row[at + lane], at + lane});
        }
        if (static_cast<int>(held.size()) >= 4 * wanted) prune();
    }
    for (; at < count; ++at) {
        if (std::isnan(row[at])) return false;
        held.push_back({row[at], at});
    }
    std::partial_sort(held.begin(), held.begin() + wanted, held.end());
    for (int index = 0; index < wanted; ++index) {
        values[index] = held[index].value;
        indices[index] = held[index].index;
    }
    return true;
}
