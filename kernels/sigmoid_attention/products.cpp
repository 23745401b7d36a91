// Vectors, buffers, the exponential and the one product that attention.cpp is made of.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

#if defined(__AVX512F__)
constexpr int VL = 16, NV = 4, MR = 6;  // 24 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int VL = 8, NV = 2, MR = 6;  // 12 of 16
#else
constexpr int VL = 4, NV = 2, MR = 4;
#endif

typedef float vec __attribute__((vector_size(VL * 4)));
typedef float vec_u __attribute__((vector_size(VL * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(VL * 4)));

inline vec load(const float* p) { return *reinterpret_cast<const vec_u*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<vec_u*>(p) = x; }
inline vec splat(float x) { return x - vec{}; }
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Free { void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); } };
using Buffer = std::unique_ptr<float[], Free>;
Buffer buffer(int64_t n) {
  return Buffer(static_cast<float*>(::operator new[](std::max<int64_t>(n, 1) * 4, std::align_val_t(64))));
}
Buffer zeros(int64_t n) {
  Buffer b = buffer(n);
  std::memset(b.get(), 0, n * 4);
  return b;
}

// exp in float32, relative error below 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2].
inline vec exp_(vec x) {
  const vec low = splat(-87.3f), high = splat(88.0f), magic = splat(12582912.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  vec n = (x * 1.44269504f + magic) - magic;
  vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vec y = splat(1.9875691e-4f);
  y = y * r + 1.3981999e-3f;
  y = y * r + 8.3334519e-3f;
  y = y * r + 4.1665795e-2f;
  y = y * r + 1.6666665e-1f;
  y = y * r + 5.0000001e-1f;
  y = y * r * r + r + 1.0f;
  ivec bits = (__builtin_convertvector(n, ivec) + 127) << 23;
  return y * (vec)bits;
}

// C[M, 16 * NVEC] (+)= A[M, K] B[K, .], A's element (i, j) at a[i * ra + j * ca].
template <int M, int N>
void micro(int64_t K, const float* a, int64_t ra, int64_t ca, const float* b, int64_t ldb, float* c,
           int64_t ldc, bool add) {
  vec acc[M][N];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) acc[i][j] = add ? load(c + i * ldc + j * VL) : vec{};
  for (int64_t k = 0; k < K; k++) {
    vec bv[N];
    for (int j = 0; j < N; j++) bv[j] = load(b + k * ldb + j * VL);
    for (int i = 0; i < M; i++) {
      vec av = splat(a[i * ra + k * ca]);
      for (int j = 0; j < N; j++) acc[i][j] += av * bv[j];
    }
  }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) store(c + i * ldc + j * VL, acc[i][j]);
}

template <int N>
void micro_rows(int64_t rows, int64_t K, const float* a, int64_t ra, int64_t ca, const float* b,
                int64_t ldb, float* c, int64_t ldc, bool add) {
  int64_t i = 0;
  for (; i + MR <= rows; i += MR) micro<MR, N>(K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, add);
  for (; i + 2 <= rows; i += 2) micro<2, N>(K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, add);
  if (i < rows) micro<1, N>(K, a + i * ra, ra, ca, b, ldb, c + i * ldc, ldc, add);
}

// The same for any number of rows; `width` is a multiple of VL.
void gemm(int64_t rows, int64_t width, int64_t K, const float* a, int64_t ra, int64_t ca,
          const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  int64_t j = 0;
  for (; j + NV * VL <= width; j += NV * VL)
    micro_rows<NV>(rows, K, a, ra, ca, b + j, ldb, c + j, ldc, add);
  for (; NV > 2 && j + 2 * VL <= width; j += 2 * VL)
    micro_rows<2>(rows, K, a, ra, ca, b + j, ldb, c + j, ldc, add);
  for (; j < width; j += VL) micro_rows<1>(rows, K, a, ra, ca, b + j, ldb, c + j, ldc, add);
}

}  // namespace
