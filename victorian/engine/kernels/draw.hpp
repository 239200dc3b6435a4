// The next token of a row of logits. What it does and in which order is defined in distribution.py; this is the same, without
// an array for each stage.
#pragma once

#include <cmath>

#include "select.hpp"

struct Parameters {
    float temperature;  // 0 takes the likeliest
    float top_k;        // infinite where it is off
    float top_p, min_p, repetition, presence, frequency;
    float banned;  // a token that may not be drawn, or -1
};

struct Seen {
    const int32_t *ids;  // every token of prompt and output once
    const float *counts;  // how often each stands in the output
    int64_t length;
};

inline bool penalises(const Parameters &p) { return p.repetition != 1.0f || p.presence != 0.0f || p.frequency != 0.0f; }

inline void penalise(float *row, const Parameters &p, const Seen &seen) {
    for (int64_t i = 0; i < seen.length; ++i) ask_for(row, seen.ids[i] / kPiece);
    for (int64_t i = 0; i < seen.length; ++i) {
        float &logit = row[seen.ids[i]];
        logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
        const float count = seen.counts[i];
        logit -= p.presence * (count > 0 ? 1.0f : 0.0f) + p.frequency * count;
    }
}

// The first candidate at which the cumulative probability exceeds `uniform`; `values` are descending and are overwritten.
inline int choose(float *values, int count, const Parameters &p, double uniform) {
    if (p.temperature == 0.0f) return 0;
    const float largest = values[0];
    const int most = p.top_k < static_cast<float>(count) ? static_cast<int>(p.top_k) : count;
    double total = 0.0;
    for (int i = 0; i < most; ++i) {
        values[i] = std::exp((values[i] - largest) / p.temperature);
        total += values[i];
    }
    // A token stays if those before it hold less than top-p, and if it reaches min-p of the first one.
    double held = 0.0;
    int kept = 0;
    while (kept < most && (kept == 0 || (held < p.top_p * total && values[kept] >= p.min_p * values[0])))
        held += values[kept++];
    const double target = uniform * held;
    double passed = 0.0;
    int last = 0;
    for (int i = 0; i < kept; ++i) {
        if (values[i] > 0) last = i;
        passed += values[i];
        if (passed > target) return i;
    }
    return last;  // rounding may leave the target on the total
}

// Where a token was drawn from a row, which is overwritten; -1 if one of its numbers is none. `candidates` of the likeliest
// are enough for a top-k or a temperature of 0. `peaks` are those of the row as it comes, or null where nobody knows them.
inline int32_t draw_token(
    float *row, int length, int candidates, const Parameters &p, const Seen &seen, double uniform, float *peaks) {
    const int banned = static_cast<int>(p.banned);
    if (penalises(p)) penalise(row, p, seen);
    if (banned >= 0) row[banned] = -std::numeric_limits<float>::infinity();
    std::vector<float> found;
    if (!peaks) {
        found = find_peaks(row, length);
        peaks = found.data();
    } else {  // they knew nothing of penalties, nor of where the tokens end and the padding begins
        const auto renew = [&](int token) { peaks[token / kPiece] = peak_of(row, length, token / kPiece); };
        if (penalises(p))
            for (int64_t i = 0; i < seen.length; ++i) renew(seen.ids[i]);
        if (banned >= 0) renew(banned);
        renew(length - 1);
    }
    const int wanted = p.temperature == 0.0f || std::isfinite(p.top_k) ? std::min(candidates, length) : length;
    std::vector<float> values(wanted);
    std::vector<int32_t> indices(wanted);
    if (!select_largest(row, length, wanted, peaks, values.data(), indices.data())) return -1;
    return indices[choose(values.data(), wanted, p, uniform)];
}
