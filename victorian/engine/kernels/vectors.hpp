// Sixteen floats at a time: conversions, the exponential function, sums.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <immintrin.h>

using Float16 = __m512;  // sixteen floats, not a half
constexpr int kLanes = 16;

struct BFloat {
    uint16_t bits;
};

inline BFloat to_bfloat(float value) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return {static_cast<uint16_t>(bits >> 16 | 0x40)};  // no number stays none
    return {static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}

inline float to_float(BFloat value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline void store_bfloats(BFloat *target, Float16 values) {
    const __m256bh rounded = _mm512_cvtneps_pbh(values);
    std::memcpy(target, &rounded, sizeof rounded);
}

// e^x to about one unit in the last place; x is at most 88. Cody and Waite's reduction, Taylor's polynomial.
inline Float16 exponential(Float16 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-104.0f));
    const Float16 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0x08);
    Float16 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    Float16 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

// GELU in its tanh form (Hendrycks and Gimpel 2016): x times the logistic function of 2u.
inline Float16 gelu(Float16 x) {
    const Float16 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const Float16 u = _mm512_mul_ps(
        _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x), _mm512_set1_ps(-2.0f * 0.7978845608028654f));
    const Float16 capped = _mm512_min_ps(u, _mm512_set1_ps(88.0f));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(capped)));
}

// LayerNorm of a row: (x - mean) / sqrt(variance + 1e-5) * weight + bias. `channels` is a multiple of sixteen.
inline void normalize(const float *x, const float *weight, const float *bias, int channels, float *y) {
    Float16 sum = _mm512_setzero_ps();
    for (int c = 0; c < channels; c += kLanes) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + c));
    const Float16 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / channels);
    Float16 squares = _mm512_setzero_ps();
    for (int c = 0; c < channels; c += kLanes) {
        const Float16 apart = _mm512_sub_ps(_mm512_loadu_ps(x + c), mean);
        squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    const Float16 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / channels + 1e-5f));
    for (int c = 0; c < channels; c += kLanes) {
        const Float16 scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + c), mean), scale);
        _mm512_storeu_ps(y + c, _mm512_fmadd_ps(scaled, _mm512_loadu_ps(weight + c), _mm512_loadu_ps(bias + c)));
    }
}
