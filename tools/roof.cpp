// The rate of multiply-adds on registers alone: the roof of bench_attention.py on the CPU.
#include <cstdint>

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif

typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int CHAINS = 12;  // independent, to cover a multiply-add's latency

// Floating point operations done: `steps` multiply-adds on each chain of each thread.
extern "C" double multiply_adds(int64_t threads, int64_t steps) {
    volatile float kept = 0;
#pragma omp parallel for num_threads(threads)
    for (int64_t thread = 0; thread < threads; ++thread) {
        Vector sums[CHAINS], factor = Vector{} + 0.999f, term = Vector{} + 0.001f;
        for (int i = 0; i < CHAINS; ++i) sums[i] = Vector{} + float(i + thread);
        for (int64_t step = 0; step < steps; ++step)
            for (int i = 0; i < CHAINS; ++i) sums[i] = sums[i] * factor + term;
        float total = 0;
        for (int i = 0; i < CHAINS; ++i)
            for (int lane = 0; lane < int(BYTES / sizeof(float)); ++lane) total += sums[i][lane];
        kept = total;
    }
    return 2.0 * (BYTES / sizeof(float)) * CHAINS * double(steps) * double(threads);
}
