// Copyright (c) mmext contributors. All rights reserved.
// Powers r^e of ratios 0 <= r <= 1 where only their share in a sum counts,
// which is at least 1: with u = r - 1,
//   r^e = P(u)^(2^k),
// a short polynomial and k squarings. It is fitted anew to each exponent.
#pragma once

#include <algorithm>
#include <type_traits>

#include "vec.h"

namespace lp {

// Degree and squarings, the cheapest first; squarings amplify the rounding of
// P, so that fewer of them come first among equals.
struct PowerForm {
  int degree, squarings;
};
constexpr PowerForm kForms[] = {{6, 2}, {5, 3}, {4, 4}, {8, 1}, {7, 2},
                                {5, 4}, {9, 1}, {10, 1}, {11, 1}};
constexpr int kFormCount = sizeof(kForms) / sizeof(kForms[0]);

#define LP_FORMS(CASE)                                              \
  CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) \
  CASE(8)

// The polynomial for one exponent.
class ShortPower {
 public:
  static constexpr int kDegrees = 11;
  static constexpr double kTolerance = 3e-7;
  // Powers far below this need no digits: there are not enough of them.
  static constexpr double kFloor = 1e-3;

  int form = -1;                // an index of kForms; -1: none is good enough
  float at[kDegrees + 1] = {};  // coefficients, the highest first

  explicit ShortPower(double exponent) {
    double power[kPoints], wanted[kDegrees + 1];
    for (int i = 0; i < kPoints; ++i)
      power[i] = std::pow(ratio(i), exponent);
    for (int f = 0; f < kFormCount && form < 0; ++f) {
      const int degree = kForms[f].degree, k = kForms[f].squarings;
      double best = kTolerance;
      // Interpolated on [low, 1]; below, P only has to stay small.
      for (int i = 1; i <= 18; ++i) {
        const double low = 0.05 * i;
        interpolate(exponent / (1 << k), low, degree, wanted);
        if (!better(wanted, degree, k, power, best)) continue;
        form = f;
        std::copy(wanted, wanted + degree + 1, at);
      }
    }
  }

 private:
  static constexpr int kPoints = 241;

  // Points to compare at: evenly spaced, and more of them close to 1.
  static double ratio(int i) {
    return i < 200 ? i / 200. : 1 - 0.2 * std::pow(0.85, i - 200);
  }

  // Coefficients in u of the polynomial through r^s at Chebyshev's nodes.
  static void interpolate(double s, double low, int degree, double* out) {
    double u[kDegrees + 1], c[kDegrees + 1];
    const int n = degree + 1;
    for (int i = 0; i < n; ++i) {
      const double node = std::cos(M_PI * (2 * i + 1) / (2 * n));
      u[i] = (1 - low) / 2 * (node - 1);
      c[i] = std::pow(1 + u[i], s);
    }
    for (int j = 1; j < n; ++j)  // Newton's divided differences
      for (int i = n - 1; i >= j; --i)
        c[i] = (c[i] - c[i - 1]) / (u[i] - u[i - j]);
    std::fill(out, out + n, 0.);
    for (int i = n - 1; i >= 0; --i) {  // out <- out (u - u_i) + c_i
      for (int j = 0; j < degree; ++j) out[j] = out[j + 1] - u[i] * out[j];
      out[degree] = c[i] - u[i] * out[degree];
    }
  }

  // Whether the error is below `best`, which it then replaces.
  static bool better(const double* p, int degree, int k, const double* power,
                     double& best) {
    double worst = 0;
    for (int i = kPoints - 1; i >= 0; --i) {
      double h = p[0];
      const double u = ratio(i) - 1;
      for (int j = 1; j <= degree; ++j) h = h * u + p[j];
      for (int j = 0; j < k; ++j) h *= h;
      worst = std::max(worst, std::abs(h - power[i]) / (power[i] + kFloor));
      if (!(worst < best)) return false;
    }
    best = worst;
    return true;
  }
};

// Where it is tried: beyond, most cells are skipped anyway. float64 is for
// verification and need not be fast.
template <class T>
bool short_enough(double exponent) {
  return std::is_same_v<T, float> && exponent >= 6 && exponent <= 80;
}

// The last one is kept, as calls of one exponent follow each other.
inline const ShortPower& short_power(double exponent) {
  thread_local double last = 0;
  thread_local ShortPower kept(8.);
  if (exponent != last) kept = ShortPower(exponent), last = exponent;
  return kept;
}

// Numbers below the normal ones become 0 while it lives: squarings meet them,
// and they take a hundred times as long.
class FlushTiny {
#if defined(__AVX__)
 public:
  FlushTiny() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushTiny() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
 public:
  ~FlushTiny() {}  // or compilers call it unused
#endif
};

// Whether any number is above the bound.
template <int N>
LP_INLINE bool any_above(const VF (&u)[N], VF bound) {
  VF top[2] = {u[0], u[N / 2]};
#pragma GCC unroll 8
  for (int i = 1; i < N / 2; ++i) {
    top[0] = vmax<float>(top[0], u[i]);
    top[1] = vmax<float>(top[1], u[N / 2 + i]);
  }
  return bits_greater<float>(vmax<float>(top[0], top[1]), bound);
}

// P(u)^(2^(k - 1)) of N vectors side by side: the caller squares once more.
template <int F, int N>
LP_INLINE void half_power(const float* at, VF (&u)[N]) {
  constexpr PowerForm form = kForms[F];
  VF h[N];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) h[i] = u[i] * at[0] + at[1];
#pragma GCC unroll 12
  for (int j = 2; j <= form.degree; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) h[i] = h[i] * u[i] + at[j];
#pragma GCC unroll 4
  for (int j = 1; j < form.squarings; ++j)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) h[i] *= h[i];
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) u[i] = h[i];
}

}  // namespace lp
