// Rows times a packed matrix, in float32, bfloat16 or int8.
//
// A matrix of N outputs and K inputs is packed in panels of 64 outputs, so that a panel is read from its beginning to its
// end. An output is summed over its inputs in one order whatever the number of rows: the same row gives the same bits
// alone and in a crowd.
#pragma once

#include <atomic>
#include <algorithm>
#include <memory>
#include <new>
#include <type_traits>

#include <sys/mman.h>

#include "pool.hpp"
#include "vectors.hpp"

constexpr int kPanel = 64;
constexpr int kVectors = kPanel / kLanes;
constexpr int kRows = 6;  // 6 x 4 sums, 4 weights and an input fit into 32 registers

struct Unmap {
    size_t bytes = 0;
    void operator()(void *memory) const { munmap(memory, bytes); }
};

template <typename T> using Buffer = std::unique_ptr<T[], Unmap>;

// Zeroed memory that is not touched before it is used, in large pages where the system has them.
template <typename T> Buffer<T> new_buffer(size_t count) {
    const size_t bytes = count * sizeof(T) + 4096;  // weights are fetched a little ahead
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);
    return Buffer<T>(static_cast<T *>(memory), Unmap{bytes});
}

// How numbers are stored and multiplied. `kGroup` inputs stand together, as one instruction takes them.
struct Float32 {
    using Weight = float;
    using Input = float;
    using Sum = __m512;
    static constexpr int kGroup = 1;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const Input *input, const Weight *weights) {
        return _mm512_fmadd_ps(_mm512_set1_ps(*input), _mm512_load_ps(weights), sum);
    }
};

struct Bfloat16 {
    using Weight = BFloat;
    using Input = BFloat;
    using Sum = __m512;
    static constexpr int kGroup = 2;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum add(Sum sum, const Input *input, const Weight *weights) {
        int32_t pair;
        std::memcpy(&pair, input, 4);
        return _mm512_dpbf16_ps(
            sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(weights));
    }
};

// Inputs are unsigned, 128 above what they stand for: the instruction wants one side so.
struct Int8 {
    using Weight = int8_t;
    using Input = uint8_t;
    using Sum = __m512i;
    static constexpr int kGroup = 4;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum add(Sum sum, const Input *input, const Weight *weights) {
        int32_t four;
        std::memcpy(&four, input, 4);
        const __m512i inputs = _mm512_set1_epi32(four), loaded = _mm512_load_si512(weights);
        // As an intrinsic GCC 12 moves the sums through memory, which takes twice as long.
        asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(inputs), "v"(loaded));
        return sum;
    }
};

// A packed matrix with its bias; for int8 also a scale for each output, and what the inputs' offset adds to its sum.
template <typename Kind> class Matrix {
  public:
    using Weight = typename Kind::Weight;

    Matrix(int outputs, int inputs)
        : outputs_(outputs), inputs_(inputs), panels_((outputs + kPanel - 1) / kPanel),
          weights_(new_buffer<Weight>(static_cast<size_t>(panels_) * kPanel * inputs)),
          bias_(new_buffer<float>(static_cast<size_t>(panels_) * kPanel)) {
        if constexpr (std::is_same_v<Kind, Int8>) {
            scales_ = new_buffer<float>(static_cast<size_t>(panels_) * kPanel);
            offsets_ = new_buffer<int32_t>(static_cast<size_t>(panels_) * kPanel);
        }
    }

    int outputs() const { return outputs_; }
    int inputs() const { return inputs_; }
    int panels() const { return panels_; }

    // Weights (outputs, inputs) in float32, a row after the other; no bias is a bias of zeros.
    void pack(const float *source, const float *bias) {
        for (int output = 0; output < outputs_; ++output) {
            const float *row = source + static_cast<size_t>(output) * inputs_;
            if (bias) bias_[output] = bias[output];
            if constexpr (std::is_same_v<Kind, Int8>) {
                float largest = 0.0f;
                bool finite = true;
                for (int k = 0; k < inputs_; ++k) {
                    largest = std::max(largest, std::fabs(row[k]));
                    finite = finite && std::isfinite(row[k]);
                }
                // Integers have no way to say that they are no number: the scale says it for them.
                const float scale = !finite ? std::numeric_limits<float>::quiet_NaN() : largest > 0 ? largest / 127.0f : 1.0f;
                int32_t sum = 0;
                for (int k = 0; k < inputs_; ++k) {
                    const int value = finite ? static_cast<int>(std::nearbyint(row[k] / scale)) : 0;
                    weights_[place(output, k)] = static_cast<int8_t>(value);
                    sum += value;
                }
                scales_[output] = scale;
                offsets_[output] = 128 * sum;
            } else if constexpr (std::is_same_v<Kind, Bfloat16>) {
                for (int k = 0; k < inputs_; ++k) weights_[place(output, k)] = to_bfloat(row[k]);
            } else {
                for (int k = 0; k < inputs_; ++k) weights_[place(output, k)] = row[k];
            }
        }
    }

    // One row of the matrix, as an embedding is looked up; int8 is too coarse for that.
    void row(int output, float *target) const {
        static_assert(!std::is_same_v<Kind, Int8>);
        for (int k = 0; k < inputs_; ++k) {
            const Weight weight = weights_[place(output, k)];
            if constexpr (std::is_same_v<Kind, Bfloat16>) {
                target[k] = to_float(weight);
            } else {
                target[k] = weight;
            }
        }
    }

    const Weight *panel(int index) const { return weights_.get() + static_cast<size_t>(index) * kPanel * inputs_; }
    const float *bias() const { return bias_.get(); }
    const float *scales() const { return scales_.get(); }
    const int32_t *offsets() const { return offsets_.get(); }

  private:
    size_t place(int output, int k) const {
        constexpr int group = Kind::kGroup;
        const size_t vector = static_cast<size_t>(k / group) * kVectors + output % kPanel / kLanes;
        return static_cast<size_t>(output / kPanel) * kPanel * inputs_ + (vector * kLanes + output % kLanes) * group +
               k % group;
    }

    int outputs_, inputs_, panels_;
    Buffer<Weight> weights_;
    Buffer<float> bias_;
    Buffer<float> scales_;
    Buffer<int32_t> offsets_;
};

// Rows of numbers as products take them; int8 rows have a scale each.
template <typename Kind> struct Rows {
    typename Kind::Input *values;
    float *scales;
    int stride;

    const typename Kind::Input *row(int index) const { return values + static_cast<size_t>(index) * stride; }

    // Takes over a float32 row; `count` is a multiple of sixteen.
    void set(int index, const float *source, int count) const {
        typename Kind::Input *target = values + static_cast<size_t>(index) * stride;
        if constexpr (std::is_same_v<Kind, Int8>) {
            const Float16 infinite = _mm512_set1_ps(std::numeric_limits<float>::infinity());
            Float16 largest = _mm512_setzero_ps();
            __mmask16 bad = 0;
            for (int k = 0; k < count; k += kLanes) {
                const Float16 sizes = _mm512_abs_ps(_mm512_loadu_ps(source + k));
                bad |= _mm512_cmp_ps_mask(sizes, infinite, _CMP_NLT_UQ);
                largest = _mm512_max_ps(largest, sizes);
            }
            const float most = _mm512_reduce_max_ps(largest);
            const float scale = bad ? std::numeric_limits<float>::quiet_NaN() : most > 0 ? most / 127.0f : 1.0f;
            const Float16 factor = _mm512_set1_ps(1.0f / scale);
            for (int k = 0; k < count; k += kLanes) {
                const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(source + k), factor));
                const __m512i raised = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
                _mm_storeu_si128(reinterpret_cast<__m128i *>(target + k), _mm512_cvtusepi32_epi8(raised));
            }
            scales[index] = scale;
        } else if constexpr (std::is_same_v<Kind, Bfloat16>) {
            for (int k = 0; k < count; k += kLanes) store_bfloats(target + k, _mm512_loadu_ps(source + k));
        } else {
            std::memcpy(target, source, sizeof(float) * count);
        }
    }
};

template <typename Kind, int rows, typename Finish>
inline void multiply_tile(
    const Matrix<Kind> &matrix, const Rows<Kind> &inputs, int first, int panel, const Finish &finish) {
    typename Kind::Sum sums[rows][kVectors];
    for (auto &row : sums)
        for (auto &sum : row) sum = Kind::zero();
    const typename Kind::Weight *weights = matrix.panel(panel);
    const typename Kind::Input *row[rows];
    for (int r = 0; r < rows; ++r) row[r] = inputs.row(first + r);
    for (int k = 0; k < matrix.inputs(); k += Kind::kGroup, weights += kPanel * Kind::kGroup) {
        _mm_prefetch(reinterpret_cast<const char *>(weights) + 2048, _MM_HINT_T0);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v)
                sums[r][v] = Kind::add(sums[r][v], row[r] + k, weights + v * kLanes * Kind::kGroup);
    }
    for (int r = 0; r < rows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
            const int output = panel * kPanel + v * kLanes;
            if (output >= matrix.outputs()) break;
            Float16 y;
            if constexpr (std::is_same_v<Kind, Int8>) {
                const __m512i exact = _mm512_sub_epi32(sums[r][v], _mm512_load_si512(matrix.offsets() + output));
                const Float16 scale = _mm512_mul_ps(
                    _mm512_set1_ps(inputs.scales[first + r]), _mm512_load_ps(matrix.scales() + output));
                y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), scale, _mm512_load_ps(matrix.bias() + output));
            } else {
                y = _mm512_add_ps(sums[r][v], _mm512_load_ps(matrix.bias() + output));
            }
            finish(first + r, output, y);
        }
        if constexpr (requires { finish.done(0, 0); }) finish.done(first + r, panel);
    }
}

// Every output of `count` rows goes to `finish(row, output, sixteen values)`. `next` is shared by the threads, which take
// panels from it until there are none; it is zero before.
template <typename Kind, typename Finish>
void multiply(
    const Matrix<Kind> &matrix, const Rows<Kind> &inputs, int count, std::atomic<int> &next, const Finish &finish) {
    constexpr int kAtOnce = 2;
    while (true) {
        const int begin = next.fetch_add(kAtOnce, std::memory_order_relaxed);
        if (begin >= matrix.panels()) return;
        const int end = std::min(begin + kAtOnce, matrix.panels());
        for (int panel = begin; panel < end; ++panel) {
            int row = 0;
            for (; row + kRows <= count; row += kRows)
                multiply_tile<Kind, kRows>(matrix, inputs, row, panel, finish);
            switch (count - row) {
            case 5: multiply_tile<Kind, 5>(matrix, inputs, row, panel, finish); break;
            case 4: multiply_tile<Kind, 4>(matrix, inputs, row, panel, finish); break;
            case 3: multiply_tile<Kind, 3>(matrix, inputs, row, panel, finish); break;
            case 2: multiply_tile<Kind, 2>(matrix, inputs, row, panel, finish); break;
            case 1: multiply_tile<Kind, 1>(matrix, inputs, row, panel, finish); break;
            default: break;
            }
        }
    }
}
