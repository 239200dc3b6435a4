// Threads that go through a step together. They spin for a moment at a barrier, since steps are short, and sleep between
// steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <immintrin.h>

class Pool {
  public:
    explicit Pool(int size) : size_(size) {
        for (int index = 1; index < size; ++index) threads_.emplace_back([this, index] { wait_for_work(index); });
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> held(mutex_);
            closing_ = true;
            round_.fetch_add(1);
        }
        wake_.notify_all();
        for (auto &thread : threads_) thread.join();
    }

    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int size() const { return size_; }

    // Runs `work(index)` on every thread, the caller's included, and returns when all are done.
    void run(const std::function<void(int)> &work) {
        if (size_ > 1) {
            {
                std::lock_guard<std::mutex> held(mutex_);
                work_ = &work;
                round_.fetch_add(1);
            }
            wake_.notify_all();
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
            return;
        }
        spin([&] { return turn_.load(std::memory_order_acquire) != turn; });
    }

  private:
    static constexpr int kSpins = 4000;      // about as long as the longest of the short waits
    static constexpr int kPatience = 16000;  // some tenths of a millisecond: the engine is between two steps

    template <typename Condition> static void spin(Condition done) {
        for (int count = 0; !done(); ++count) {
            if (count < kSpins) {
                _mm_pause();
            } else {
                std::this_thread::yield();  // another process has the core that is waited for
            }
        }
    }

    void wait_for_work(int index) {
        uint32_t seen = 0;
        while (true) {
            for (int count = 0; count < kPatience && round_.load(std::memory_order_acquire) == seen; ++count) {
                _mm_pause();
                if (count % 64 == 63) std::this_thread::yield();  // whoever has work may have the core
            }
            if (round_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> held(mutex_);
                wake_.wait(held, [&] { return round_.load() != seen; });
            }
            seen = round_.load(std::memory_order_acquire);
            if (closing_) return;
            (*work_)(index);
            barrier();
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> turn_{0};
    std::atomic<int> arrived_{0};
    std::atomic<bool> closing_{false};
    const std::function<void(int)> *work_ = nullptr;
};
