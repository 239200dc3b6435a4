// GPT-2's forward pass for a CPU with AVX-512: any number of tokens of any sequences in one call.
//
// What the engine calls is at the end, as plain C. The network is that of model/gpt2.py; residuals, norms and the
// softmax are float32, products float32, bfloat16 or int8, the cache float32 or bfloat16.
#include <string>

#include "attention.hpp"
#include "draw.hpp"

namespace {

struct Step {
    int tokens;             // of all sequences
    const int32_t *ids;     // (tokens)
    const int32_t *places;  // (tokens): position in the sequence's window
    int sequences;
    const int32_t *starts;  // (sequences + 1): where each sequence's tokens begin among all; they stand one after another
    const int32_t *blocks;  // (sequences, table): blocks of the cache that hold a sequence's window
    int table;
    int wanted;
    const int32_t *rows;  // (wanted): tokens after which logits are wanted
    float *logits;        // (wanted, outputs of the head)
};

// What the head says, with the peaks of its pieces while these are still at hand.
struct ToLogits {
    float *logits, *peaks;
    int vocabulary;

    void operator()(int row, int output, Float16 y) const { _mm512_storeu_ps(at(row) + output, y); }

    void done(int row, int panel) const {
        peaks[static_cast<size_t>(row) * pieces_of(vocabulary) + panel] = peak_of(at(row), vocabulary, panel);
    }

    float *at(int row) const { return logits + static_cast<size_t>(row) * pieces_of(vocabulary) * kPanel; }
};
static_assert(kPiece == kPanel);

struct Selection {
    const float *rows;  // `stride` floats apart
    int count, stride, length, wanted;
    float *values;     // (count, wanted)
    int32_t *indices;  // (count, wanted)
    uint8_t *good;     // (count): whether all of a row are numbers
};

struct Drawing {
    float *rows;  // `stride` floats apart
    int count, stride, length, candidates;
    bool untouched;  // the rows are those of the last step, as it left them
    const Parameters *parameters;  // (count)
    const Seen *seen;              // (count)
    const double *uniforms;        // (count)
    int32_t *tokens;               // (count): -1 where a row has something that is no number
};

class Network {
  public:
    virtual ~Network() = default;
    virtual void set(int layer, int what, const float *values, const float *bias) = 0;
    virtual void step(const Step &step) = 0;
    virtual void select(const Selection &selection) = 0;
    virtual void draw(const Drawing &drawing) = 0;
};

struct Shape {
    int layers, channels, heads, vocabulary, context, tokens, blocks, threads;
};

enum Part { kTokens, kPositions, kAttentionNorm, kQueryKeyValue, kProjection, kFeedForwardNorm, kExpand, kContract, kFinalNorm };

template <typename Kind> class Gpt : public Network {
    using Cache = std::conditional_t<std::is_same_v<Kind, Float32>, Float32, Bfloat16>;
    using Number = typename Cache::Weight;
    // Few rows are looked up, so more than eight bits cost no time, and every layer adds to what they say.
    static constexpr bool kLooksUp = std::is_same_v<Kind, Int8>;

    struct Norm {
        Buffer<float> weight, bias;
        explicit Norm(int channels) : weight(new_buffer<float>(channels)), bias(new_buffer<float>(channels)) {}
        void set(const float *w, const float *b, int channels) {
            std::copy(w, w + channels, weight.get());
            std::copy(b, b + channels, bias.get());
        }
    };

    struct Layer {
        Norm attention_norm, feed_forward_norm;
        Matrix<Kind> query_key_value, projection, expand, contract;
        explicit Layer(int c)
            : attention_norm(c), feed_forward_norm(c), query_key_value(3 * c, c), projection(c, c), expand(4 * c, c),
              contract(c, 4 * c) {}
    };

  public:
    explicit Gpt(const Shape &shape)
        : s_(shape), head_channels_(shape.channels / shape.heads), head_(shape.vocabulary, shape.channels),
          embedding_(new_buffer<BFloat>(kLooksUp ? static_cast<size_t>(shape.vocabulary) * shape.channels : 0)),
          final_norm_(shape.channels),
          positions_(new_buffer<float>(static_cast<size_t>(shape.context) * shape.channels)),
          residual_(floats(1)), mixed_(floats(3)), wide_(floats(4)), normed_(new_buffer<float>(static_cast<size_t>(shape.threads) * 4 * shape.channels)),
          inputs_(new_buffer<typename Kind::Input>(static_cast<size_t>(shape.tokens) * 4 * shape.channels)),
          scales_(new_buffer<float>(shape.tokens)),
          peaks_(new_buffer<float>(static_cast<size_t>(shape.tokens) * pieces_of(shape.vocabulary))),
          cache_(new_buffer<Number>(
              static_cast<size_t>(shape.layers) * shape.blocks * shape.heads * Block<Cache>::size(head_channels_))),
          counters_(new std::atomic<int>[static_cast<size_t>(shape.layers) * 5 + 1]), pool_(shape.threads) {
        for (int layer = 0; layer < shape.layers; ++layer) layers_.emplace_back(new Layer(shape.channels));
        for (int thread = 0; thread < shape.threads; ++thread)
            spaces_.emplace_back(new AttentionSpace<Cache>(shape.context));
    }

    void set(int layer, int what, const float *values, const float *bias) override {
        const int c = s_.channels;
        switch (what) {
        case kTokens:
            head_.pack(values, nullptr);
            if constexpr (kLooksUp)
                for (size_t i = 0; i < static_cast<size_t>(s_.vocabulary) * c; ++i) embedding_[i] = to_bfloat(values[i]);
            break;
        case kPositions: std::copy(values, values + static_cast<size_t>(s_.context) * c, positions_.get()); break;
        case kAttentionNorm: layers_[layer]->attention_norm.set(values, bias, c); break;
        case kQueryKeyValue: layers_[layer]->query_key_value.pack(values, bias); break;
        case kProjection: layers_[layer]->projection.pack(values, bias); break;
        case kFeedForwardNorm: layers_[layer]->feed_forward_norm.set(values, bias, c); break;
        case kExpand: layers_[layer]->expand.pack(values, bias); break;
        case kContract: layers_[layer]->contract.pack(values, bias); break;
        case kFinalNorm: final_norm_.set(values, bias, c); break;
        }
    }

    void step(const Step &step) override {
        const size_t counters = static_cast<size_t>(s_.layers) * 5 + 1;
        for (size_t index = 0; index < counters; ++index) counters_[index].store(0, std::memory_order_relaxed);
        pool_.run([&](int thread) { forward(step, thread); });
    }

    void select(const Selection &s) override {
        for_rows(s.count, [&](int row) {
            s.good[row] = select_largest(
                s.rows + static_cast<size_t>(row) * s.stride, s.length, s.wanted,
                find_peaks(s.rows + static_cast<size_t>(row) * s.stride, s.length).data(), s.values + static_cast<size_t>(row) * s.wanted, s.indices + static_cast<size_t>(row) * s.wanted);
        });
    }

    void draw(const Drawing &d) override {
        for_rows(d.count, [&](int row) {
            d.tokens[row] = draw_token(
                d.rows + static_cast<size_t>(row) * d.stride, d.length, d.candidates, d.parameters[row], d.seen[row],
                d.uniforms[row], d.untouched ? peaks_.get() + static_cast<size_t>(row) * pieces_of(s_.vocabulary) : nullptr);
        });
    }

  private:
    template <typename Work> void for_rows(int count, const Work &work) {
        constexpr int kFew = 4;  // rows that are done before another thread wakes up
        if (count <= kFew) {
            for (int row = 0; row < count; ++row) work(row);
        } else {
            pool_.run([&](int thread) {
                for (int row = thread; row < count; row += pool_.size()) work(row);
            });
        }
    }

    Buffer<float> floats(int times) const {
        return new_buffer<float>(static_cast<size_t>(s_.tokens) * times * s_.channels);
    }

    void forward(const Step &step, int thread) {
        const int c = s_.channels;
        for (int row = thread; row < step.tokens; row += s_.threads) {
            float *x = residual_.get() + static_cast<size_t>(row) * c;
            if constexpr (kLooksUp) {
                const BFloat *embedding = embedding_.get() + static_cast<size_t>(step.ids[row]) * c;
                for (int i = 0; i < c; ++i) x[i] = to_float(embedding[i]);
            } else {
                head_.row(step.ids[row], x);
            }
            const float *position = positions_.get() + static_cast<size_t>(step.places[row]) * c;
            for (int i = 0; i < c; ++i) x[i] += position[i];
        }
        for (int index = 0; index < s_.layers; ++index) run_layer(step, index, thread);
        for (int index = thread; index < step.wanted; index += s_.threads)
            take_normed(final_norm_, step.rows[index], index, thread);
        pool_.barrier();
        multiply(head_, inputs(c), step.wanted, counters_[static_cast<size_t>(s_.layers) * 5],
                 ToLogits{step.logits, peaks_.get(), s_.vocabulary});
    }

    void run_layer(const Step &step, int index, int thread) {
        const int c = s_.channels, count = step.tokens;
        const Layer &layer = *layers_[index];
        std::atomic<int> *next = counters_.get() + static_cast<size_t>(index) * 5;
        float *x = residual_.get(), *mixed = mixed_.get(), *wide = wide_.get();
        const auto add_to_residual = [&](int row, int output, Float16 y) {
            float *target = x + static_cast<size_t>(row) * c + output;
            _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), y));
        };
        for (int row = thread; row < count; row += s_.threads) take_normed(layer.attention_norm, row, row, thread);
        pool_.barrier();
        multiply(layer.query_key_value, inputs(c), count, next[0], [&](int row, int output, Float16 y) {
            _mm512_storeu_ps(mixed + static_cast<size_t>(row) * 3 * c + output, y);
        });
        pool_.barrier();
        attend_all(step, index, next[1], *spaces_[thread]);
        pool_.barrier();
        for (int row = thread; row < count; row += s_.threads) inputs(c).set(row, wide + static_cast<size_t>(row) * c, c);
        pool_.barrier();
        multiply(layer.projection, inputs(c), count, next[2], add_to_residual);
        pool_.barrier();
        for (int row = thread; row < count; row += s_.threads) take_normed(layer.feed_forward_norm, row, row, thread);
        pool_.barrier();
        multiply(layer.expand, inputs(c), count, next[3], [&](int row, int output, Float16 y) {
            _mm512_storeu_ps(wide + static_cast<size_t>(row) * 4 * c + output, gelu(y));
        });
        pool_.barrier();
        for (int row = thread; row < count; row += s_.threads)
            inputs(4 * c).set(row, wide + static_cast<size_t>(row) * 4 * c, 4 * c);
        pool_.barrier();
        multiply(layer.contract, inputs(4 * c), count, next[4], add_to_residual);
        pool_.barrier();
    }

    // A unit of work is one head of one sequence: its new keys and values go into the cache, then its queries look.
    void attend_all(const Step &step, int layer, std::atomic<int> &next, AttentionSpace<Cache> &space) {
        const int c = s_.channels, d = head_channels_;
        const size_t block = Block<Cache>::size(d);
        const size_t stride = static_cast<size_t>(3) * c;
        while (true) {
            const int unit = next.fetch_add(1, std::memory_order_relaxed);
            if (unit >= step.sequences * s_.heads) return;
            const int sequence = unit / s_.heads, head = unit % s_.heads;
            const int32_t *table = step.blocks + static_cast<size_t>(sequence) * step.table;
            const auto blocks = [&](int b) {
                return cache_.get() + ((static_cast<size_t>(layer) * s_.blocks + table[b]) * s_.heads + head) * block;
            };
            const int begin = step.starts[sequence], end = step.starts[sequence + 1];
            for (int row = begin; row < end; ++row) {
                const float *key = mixed_.get() + row * stride + c + static_cast<size_t>(head) * d;
                const int place = step.places[row];
                // A weight of zero makes nothing of a number, but not of what an earlier owner left that is no number.
                if (place % kBlock == 0) std::memset(blocks(place / kBlock), 0, block * sizeof(Number));
                Block<Cache>::write(blocks(place / kBlock), d, place % kBlock, key, key + c);
            }
            for (int row = begin; row < end;) {
                const float *query = mixed_.get() + row * stride + static_cast<size_t>(head) * d;
                float *out = wide_.get() + static_cast<size_t>(row) * c + static_cast<size_t>(head) * d;
                const int place = step.places[row];
                if (end - row >= kQueries) {
                    attend<Cache, kQueries>(blocks, d, place, query, stride, out, c, space);
                    row += kQueries;
                } else {
                    attend<Cache, 1>(blocks, d, place, query, stride, out, c, space);
                    row += 1;
                }
            }
        }
    }

    Rows<Kind> inputs(int stride) const { return {inputs_.get(), scales_.get(), stride}; }

    void take_normed(const Norm &norm, int row, int target, int thread) {
        float *y = normed_.get() + static_cast<size_t>(thread) * 4 * s_.channels;
        normalize(residual_.get() + static_cast<size_t>(row) * s_.channels, norm.weight.get(), norm.bias.get(), s_.channels, y);
        inputs(s_.channels).set(target, y, s_.channels);
    }

    const Shape s_;
    const int head_channels_;
    Matrix<Kind> head_;
    Buffer<BFloat> embedding_;
    Norm final_norm_;
    Buffer<float> positions_, residual_, mixed_, wide_, normed_;
    Buffer<typename Kind::Input> inputs_;
    Buffer<float> scales_;
    Buffer<float> peaks_;  // of the pieces of the rows of logits
    Buffer<Number> cache_;
    std::unique_ptr<std::atomic<int>[]> counters_;
    std::vector<std::unique_ptr<Layer>> layers_;
    std::vector<std::unique_ptr<AttentionSpace<Cache>>> spaces_;
    Pool pool_;
};

}  // namespace

extern "C" {

void *victorian_new(const int32_t *shape, int kind) {
    const Shape s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7]};
    try {
        switch (kind) {
        case 0: return new Gpt<Float32>(s);
        case 1: return new Gpt<Bfloat16>(s);
        case 2: return new Gpt<Int8>(s);
        default: return nullptr;
        }
    } catch (const std::exception &) {
        return nullptr;
    }
}

void victorian_free(void *network) { delete static_cast<Network *>(network); }

void victorian_set(void *network, int layer, int what, const float *values, const float *bias) {
    static_cast<Network *>(network)->set(layer, what, values, bias);
}

void victorian_step(
    void *network, int tokens, const int32_t *ids, const int32_t *places, int sequences, const int32_t *starts,
    const int32_t *blocks, int table, int wanted, const int32_t *rows, float *logits) {
    static_cast<Network *>(network)->step(
        {tokens, ids, places, sequences, starts, blocks, table, wanted, rows, logits});
}

void victorian_select(
    void *network, const float *rows, int count, int stride, int length, int wanted, float *values, int32_t *indices,
    uint8_t *good) {
    static_cast<Network *>(network)->select({rows, count, stride, length, wanted, values, indices, good});
}

void victorian_draw(
    void *network, float *rows, int count, int stride, int length, int candidates, int untouched, const void *parameters,
    const void *seen, const double *uniforms, int32_t *tokens) {
    static_cast<Network *>(network)->draw(
        {rows, count, stride, length, candidates, untouched != 0, static_cast<const Parameters *>(parameters),
         static_cast<const Seen *>(seen), uniforms, tokens});
}
}
