// Causal attention over a cache of blocks.
//
// A block holds 16 tokens of one head: keys with the tokens side by side, so that 16 scores are summed at once, values with
// the channels side by side. A query's sums are taken in one order whatever stands beside it, and keys after it count for
// exactly nothing: the same query gives the same bits alone, in a crowd, and in a prompt of any division.
#pragma once

#include <algorithm>
#include <limits>

#include "products.hpp"

constexpr int kBlock = 16;    // tokens
constexpr int kQueries = 4;   // at once; 4 x 4 sums of 16 channels for heads of 64
constexpr int kHead = 128;    // channels of a head at most

// Numbers of a block of one head: keys, then values. `group` of Float32 or Bfloat16 stand together.
template <typename Kind> struct Block {
    using Number = typename Kind::Weight;
    static constexpr int kGroup = Kind::kGroup;

    static size_t size(int channels) { return static_cast<size_t>(2) * kBlock * channels; }

    static void write(Number *block, int channels, int slot, const float *key, const float *value) {
        Number *values = block + kBlock * channels;
        for (int c = 0; c < channels; ++c) {
            block[(c / kGroup * kBlock + slot) * kGroup + c % kGroup] = convert(key[c]);
            values[(slot / kGroup * channels + c) * kGroup + slot % kGroup] = convert(value[c]);
        }
    }

    static Number convert(float value) {
        if constexpr (std::is_same_v<Kind, Bfloat16>) {
            return to_bfloat(value);
        } else {
            return value;
        }
    }
};

// What one thread needs for its queries: scores of all keys, and queries and weights as products take them.
template <typename Kind> struct AttentionSpace {
    explicit AttentionSpace(int context)
        : keys((context + 2 * kBlock - 1) / kBlock * kBlock), scores(new_buffer<float>(static_cast<size_t>(kQueries) * keys)),
          weights(new_buffer<typename Kind::Input>(static_cast<size_t>(kQueries) * keys)),
          queries(new_buffer<typename Kind::Input>(kQueries * kHead)) {}

    int keys;  // from one query's numbers to the next one's: whole blocks, which vectors are aligned to
    Buffer<float> scores;
    Buffer<typename Kind::Input> weights;
    Buffer<typename Kind::Input> queries;
};

// Scores of `count` queries against the keys of every block, and the largest of each lane.
template <typename Kind, int count, typename Blocks>
void score(const Blocks &blocks, int full, int channels, int position, AttentionSpace<Kind> &space, Float16 *largest) {
    constexpr int at_once = count >= 4 ? 1 : 4 / count;  // enough sums on their way to hide how long one takes
    const Float16 nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int q = 0; q < count; ++q) largest[q] = nothing;
    for (int first = 0; first < full; first += at_once) {
        const typename Kind::Weight *keys[at_once];
        for (int i = 0; i < at_once; ++i) keys[i] = blocks(std::min(first + i, full - 1));
        Float16 sums[count][at_once];
        for (auto &row : sums)
            for (auto &sum : row) sum = _mm512_setzero_ps();
        for (int c = 0; c < channels; c += Kind::kGroup)
#pragma GCC unroll 4
            for (int q = 0; q < count; ++q)
#pragma GCC unroll 4
                for (int i = 0; i < at_once; ++i)
                    sums[q][i] = Kind::add(sums[q][i], space.queries.get() + q * kHead + c, keys[i] + c * kBlock);
        for (int i = 0; i < at_once && first + i < full; ++i) {
            const int key = (first + i) * kBlock;
            for (int q = 0; q < count; ++q) {
                const __mmask16 seen = _mm512_cmple_epi32_mask(
                    _mm512_add_epi32(lanes, _mm512_set1_epi32(key)), _mm512_set1_epi32(position + q));
                const Float16 scores = _mm512_mask_mov_ps(nothing, seen, sums[q][i]);
                _mm512_store_ps(space.scores.get() + static_cast<size_t>(q) * space.keys + key, scores);
                largest[q] = _mm512_max_ps(largest[q], scores);
            }
        }
    }
}

// Sums of the values of every block, `vectors` x 16 channels from `first` on, each token by its weight.
template <typename Kind, int count, int vectors, typename Blocks>
void weigh(
    const Blocks &blocks, int full, int channels, int first, const float *totals, float *out, size_t out_stride,
    const AttentionSpace<Kind> &space) {
    Float16 sums[count][vectors];
    for (auto &row : sums)
        for (auto &sum : row) sum = _mm512_setzero_ps();
    for (int b = 0; b < full; ++b) {
        const typename Kind::Weight *values = blocks(b) + kBlock * channels + first * Kind::kGroup;
        const typename Kind::Input *weights = space.weights.get() + b * kBlock;
        for (int t = 0; t < kBlock; t += Kind::kGroup)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 4
                for (int q = 0; q < count; ++q)
                    sums[q][v] = Kind::add(
                        sums[q][v], weights + static_cast<size_t>(q) * space.keys + t,
                        values + t * channels + v * kLanes * Kind::kGroup);
    }
    for (int q = 0; q < count; ++q)
        for (int v = 0; v < vectors; ++v)
            _mm512_storeu_ps(
                out + q * out_stride + first + v * kLanes, _mm512_div_ps(sums[q][v], _mm512_set1_ps(totals[q])));
}

// Up to four consecutive tokens of a sequence look at the tokens up to themselves, with one head.
//
// `blocks(b)` is the sequence's block b of that head; the first query stands at `position`. `query` and `out` are the
// first token's, the next one's are a stride further.
template <typename Kind, int count, typename Blocks>
void attend(
    const Blocks &blocks, int channels, int position, const float *query, size_t query_stride, float *out,
    size_t out_stride, AttentionSpace<Kind> &space) {
    const int full = (position + count + kBlock - 1) / kBlock;
    const float scale = 1.0f / std::sqrt(static_cast<float>(channels));
    for (int q = 0; q < count; ++q)
        for (int c = 0; c < channels; ++c)
            space.queries[q * kHead + c] = Block<Kind>::convert(query[q * query_stride + c] * scale);
    Float16 largest[count];
    score<Kind, count>(blocks, full, channels, position, space, largest);
    float totals[count];
    for (int q = 0; q < count; ++q) {
        const Float16 most = _mm512_set1_ps(_mm512_reduce_max_ps(largest[q]));
        Float16 sum = _mm512_setzero_ps();
        for (int b = 0; b < full; ++b) {
            const size_t at = static_cast<size_t>(q) * space.keys + b * kBlock;
            const Float16 scores = _mm512_load_ps(space.scores.get() + at);
            // What comes after a query weighs exactly nothing, and not merely very little.
            const __mmask16 seen = _mm512_cmp_ps_mask(
                scores, _mm512_set1_ps(-std::numeric_limits<float>::infinity()), _CMP_NEQ_UQ);
            const Float16 weight = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(scores, most)));
            sum = _mm512_add_ps(sum, weight);
            if constexpr (std::is_same_v<Kind, Bfloat16>) {
                store_bfloats(space.weights.get() + at, weight);
            } else {
                _mm512_store_ps(space.weights.get() + at, weight);
            }
        }
        totals[q] = _mm512_reduce_add_ps(sum);
    }
    int first = 0;
    for (; first + kPanel <= channels; first += kPanel)
        weigh<Kind, count, kVectors>(blocks, full, channels, first, totals, out, out_stride, space);
    for (; first < channels; first += kLanes)
        weigh<Kind, count, 1>(blocks, full, channels, first, totals, out, out_stride, space);
}
