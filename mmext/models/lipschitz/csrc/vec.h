// Copyright (c) mmext contributors. All rights reserved.
// Vectors as wide as the CPU's registers, and the functions on them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

#define LP_INLINE inline __attribute__((always_inline))

namespace lp {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kRows = 8;  // rows of a register tile that two vectors leave
#elif defined(__AVX__)
constexpr int kBytes = 32;
constexpr int kRows = 4;
#else
constexpr int kBytes = 16;
constexpr int kRows = 4;
#endif

typedef float VF __attribute__((vector_size(kBytes)));
typedef double VD __attribute__((vector_size(kBytes)));
typedef int32_t VI __attribute__((vector_size(kBytes)));
typedef int64_t VL __attribute__((vector_size(kBytes)));

template <class T>
struct Traits;
template <>
struct Traits<float> {
  typedef VF V;
  typedef VI I;
  typedef int32_t Int;
  static constexpr Int kAbs = 0x7fffffff;
};
template <>
struct Traits<double> {
  typedef VD V;
  typedef VL I;
  typedef int64_t Int;
  static constexpr Int kAbs = 0x7fffffffffffffffLL;
};
template <class T>
using Vec = typename Traits<T>::V;
template <class T>
using VecI = typename Traits<T>::I;
template <class T>
constexpr int lanes() {
  return kBytes / sizeof(T);
}

template <class T>
LP_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, kBytes);
  return v;
}
template <class T>
LP_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, kBytes);
}
template <class T>
LP_INLINE Vec<T> set1(T s) {
  return s - Vec<T>{};  // folds to a broadcast, which a loop does not
}
template <class T>
LP_INLINE Vec<T> vabs(Vec<T> a) {
  return (Vec<T>)((VecI<T>)a & Traits<T>::kAbs);
}
// Magnitude of a, sign bit of b.
template <class T>
LP_INLINE Vec<T> copysign(Vec<T> a, Vec<T> b) {
  return (Vec<T>)(((VecI<T>)a & Traits<T>::kAbs) |
                  ((VecI<T>)b & ~Traits<T>::kAbs));
}
// Numbers are ordered here: the caller has ruled out NaN.
template <class T>
LP_INLINE Vec<T> vmax(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <class T>
LP_INLINE Vec<T> vmin(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}
#if defined(__AVX512F__)
template <>
LP_INLINE VF vmax<float>(VF a, VF b) {
  return (VF)_mm512_max_ps((__m512)a, (__m512)b);
}
template <>
LP_INLINE VF vmin<float>(VF a, VF b) {
  return (VF)_mm512_min_ps((__m512)a, (__m512)b);
}
template <>
LP_INLINE VD vmax<double>(VD a, VD b) {
  return (VD)_mm512_max_pd((__m512d)a, (__m512d)b);
}
template <>
LP_INLINE VD vmin<double>(VD a, VD b) {
  return (VD)_mm512_min_pd((__m512d)a, (__m512d)b);
}
#elif defined(__AVX__)
template <>
LP_INLINE VF vmax<float>(VF a, VF b) {
  return (VF)_mm256_max_ps((__m256)a, (__m256)b);
}
template <>
LP_INLINE VF vmin<float>(VF a, VF b) {
  return (VF)_mm256_min_ps((__m256)a, (__m256)b);
}
#endif

// max(a, |d|) of a non-negative a.
template <class T>
LP_INLINE Vec<T> max_abs(Vec<T> a, Vec<T> d) {
  return vmax<T>(a, vabs<T>(d));
}
#if defined(__AVX512DQ__)
constexpr int kMaxAbsInstructions = 1;
template <>
LP_INLINE VF max_abs<float>(VF a, VF d) {
  return (VF)_mm512_range_ps((__m512)a, (__m512)d, 0x0b);
}
template <>
LP_INLINE VD max_abs<double>(VD a, VD d) {
  return (VD)_mm512_range_pd((__m512d)a, (__m512d)d, 0x0b);
}
#else
constexpr int kMaxAbsInstructions = 2;
#endif

// Bit i is set where a > b.
template <class T>
LP_INLINE uint32_t bits_greater(Vec<T> a, Vec<T> b) {
  VecI<T> m = a > b;
  uint32_t r = 0;
  for (int i = 0; i < lanes<T>(); ++i) r |= (uint32_t)(m[i] & 1) << i;
  return r;
}
template <class T>
LP_INLINE uint32_t bits_equal(Vec<T> a, Vec<T> b) {
  VecI<T> m = a == b;
  uint32_t r = 0;
  for (int i = 0; i < lanes<T>(); ++i) r |= (uint32_t)(m[i] & 1) << i;
  return r;
}
#if defined(__AVX512F__)
template <>
LP_INLINE uint32_t bits_greater<float>(VF a, VF b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
}
template <>
LP_INLINE uint32_t bits_equal<float>(VF a, VF b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
}
template <>
LP_INLINE uint32_t bits_greater<double>(VD a, VD b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
}
template <>
LP_INLINE uint32_t bits_equal<double>(VD a, VD b) {
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ);
}
#elif defined(__AVX__)
template <>
LP_INLINE uint32_t bits_greater<float>(VF a, VF b) {
  return _mm256_movemask_ps(
      _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
}
template <>
LP_INLINE uint32_t bits_equal<float>(VF a, VF b) {
  return _mm256_movemask_ps(
      _mm256_cmp_ps((__m256)a, (__m256)b, _CMP_EQ_OQ));
}
#endif

// log2(1 + t) for t in [-1/3, 1/3], relative error 3e-8: minimax polynomial.
LP_INLINE VF log2_1p(VF t) {
  VF r = t * 0.2027868777513504f - 0.22222118079662323f;
  r = r * t + 0.20179913938045502f;
  r = r * t - 0.23678652942180634f;
  r = r * t + 0.2887113392353058f;
  r = r * t - 0.36078956723213196f;
  r = r * t + 0.4808959662914276f;
  r = r * t - 0.7213465571403503f;
  r = r * t + 1.4426950216293335f;
  return r * t;
}

// log2 of a normal number; of 0, about -127.
LP_INLINE VF log2_v(VF a) {
  const VI offset = (VI)set1<float>(2.f / 3.f);
  VI e = ((VI)a - offset) >> 23;
  VF m = (VF)((VI)a - (e << 23));
  return log2_1p(m - 1.f) + __builtin_convertvector(e, VF);
}

// 2^z, relative error 1e-7; z is clamped to where the result is normal.
LP_INLINE VF exp2_v(VF z) {
  z = vmin<float>(vmax<float>(z, set1<float>(-126.f)), set1<float>(127.f));
  const float magic = 12582912.f;  // 1.5 * 2^23: rounds to an integer
  VF shifted = z + magic;
  VF f = z - (shifted - magic);
  VF r = f * 0.00015353361959569156f + 0.0013398873852565885f;
  r = r * f + 0.00961843691766262f;
  r = r * f + 0.055503323674201965f;
  r = r * f + 0.24022647738456726f;
  r = r * f + 0.6931471824645996f;
  r = r * f + 1.f;
  return (VF)((VI)r + ((VI)shifted << 23));
}

// a^p of 0 <= a <= 1 or so.
template <class T>
LP_INLINE Vec<T> power(Vec<T> a, T p);
template <>
LP_INLINE VF power<float>(VF a, float p) {
  return exp2_v(log2_v(a) * p);
}
template <>
LP_INLINE VD power<double>(VD a, double p) {
  // Verification runs in float64; it need not be fast.
  VD r;
  for (int i = 0; i < lanes<double>(); ++i) r[i] = std::pow(a[i], p);
  return r;
}

// (1 + t)^p of -1/3 <= t <= 0: accurate at a large p, where 1 + t would lose
// what the exponent amplifies.
template <class T>
LP_INLINE Vec<T> power_1p(Vec<T> t, T p);
template <>
LP_INLINE VF power_1p<float>(VF t, float p) {
  return exp2_v(log2_1p(t) * p);
}
template <>
LP_INLINE VD power_1p<double>(VD t, double p) {
  VD r;
  for (int i = 0; i < lanes<double>(); ++i)
    r[i] = std::exp(p * std::log1p(t[i]));
  return r;
}

// a^N by repeated squaring.
template <int N, class V>
LP_INLINE V int_power(V a) {
  if constexpr (N == 1) {
    return a;
  } else if constexpr (N % 2) {
    return int_power<N - 1>(a) * a;
  } else {
    V h = int_power<N / 2>(a);
    return h * h;
  }
}

// a^(1/p) of a sum of powers; a small p is taken exactly.
template <class T>
LP_INLINE Vec<T> root(Vec<T> a, T p) {
  if (p == T(1)) return a;
  if (p == T(2)) {
    for (int i = 0; i < lanes<T>(); ++i) a[i] = std::sqrt(a[i]);
    return a;
  }
  return power<T>(a, T(1) / p);
}

}  // namespace lp
