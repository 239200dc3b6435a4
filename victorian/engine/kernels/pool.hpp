// Threads that go through a step together. They spin for a moment where they wait, since steps are short, and then sleep:
// whoever they wait for may need their core.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include <immintrin.h>

class Pool {
  public:
    explicit Pool(int size) : size_(size) {
        try {
            for (int index = 1; index < size; ++index) threads_.emplace_back([this, index] { wait_for_work(index); });
        } catch (...) {  // the system has no more threads, and those that there are must not outlive this
            close();
            throw;
        }
    }

    ~Pool() { close(); }

    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int size() const { return size_; }

    // Runs `work(index)` on every thread, the caller's included, and returns when all are done.
    void run(const std::function<void(int)> &work) {
        if (size_ > 1) {
            work_ = &work;
            round_.fetch_add(1, std::memory_order_acq_rel);
            round_.notify_all();
        }
        work(0);
        barrier();
    }

    // Nobody goes on before everybody is here.
    void barrier() {
        if (size_ == 1) return;
        const uint32_t turn = turn_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            turn_.notify_all();
            return;
        }
        wait(turn_, turn, kSpins);
    }

  private:
    static constexpr int kSpins = 4000;      // about as long as the longest of the short waits
    static constexpr int kPatience = 16000;  // some tenths of a millisecond: the engine is between two steps

    // Until the number is not `seen` any more.
    static void wait(const std::atomic<uint32_t> &number, uint32_t seen, int spins) {
        for (int count = 0; number.load(std::memory_order_acquire) == seen; ++count) {
            if (count < spins) {
                _mm_pause();
                if (count % 64 == 63) std::this_thread::yield();  // whoever is waited for may have the core
            } else {
                number.wait(seen, std::memory_order_acquire);
            }
        }
    }

    void close() {
        closing_ = true;
        round_.fetch_add(1, std::memory_order_acq_rel);
        round_.notify_all();
        for (auto &thread : threads_) thread.join();
        threads_.clear();
    }

    void wait_for_work(int index) {
        uint32_t seen = 0;
        while (true) {
            wait(round_, seen, kPatience);
            seen = round_.load(std::memory_order_acquire);
            if (closing_) return;
            (*work_)(index);
            barrier();
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> turn_{0};
    std::atomic<int> arrived_{0};
    std::atomic<bool> closing_{false};
    const std::function<void(int)> *work_ = nullptr;
};
