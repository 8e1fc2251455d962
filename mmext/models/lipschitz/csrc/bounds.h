// Copyright (c) mmext contributors. All rights reserved.
// Bounds of distances at p = inf over a box of inputs.
#pragma once

#include "forward.h"

namespace lp {

// The range of |x - w| over a box, maximised over cells.
template <class T, int MR, int NV>
void bounds_tile(const T* low, const T* high, int64_t width, const T* w,
                 int64_t row, T* lower, T* upper) {
  // Of the least upper end, the negative is kept.
  Vec<T> l[MR][NV] = {}, u[MR][NV];
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j)
      u[r][j] = set1<T>(std::numeric_limits<T>::max());
  for (int64_t k = 0; k < row; ++k)
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      const Vec<T> v = set1<T>(w[r * row + k]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) {
        const Vec<T> a = load<T>(low + k * width + j * lanes<T>()) - v;
        const Vec<T> b = v - load<T>(high + k * width + j * lanes<T>());
        l[r][j] = vmax<T>(l[r][j], vmax<T>(a, b));
        u[r][j] = vmin<T>(u[r][j], vmin<T>(a, b));
      }
    }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      store<T>(lower + r * width + j * lanes<T>(), l[r][j]);
      store<T>(upper + r * width + j * lanes<T>(), -u[r][j]);
    }
}

template <class T>
struct BoundsTask {
  const Shape& s;
  const T *low, *high, *w;
  T *lower, *upper;

  template <int MR, int NV>
  void tile(const Columns<T>& c, const Forward<T>& f, const T* a, const T* b,
            int64_t o) const {
    alignas(64) T out[2][MR * NV * lanes<T>()];
    bounds_tile<T, MR, NV>(a, b, c.width, w + o * s.row(), s.row(), out[0],
                           out[1]);
    f.template scatter<MR>(c, o, out[0], lower);
    f.template scatter<MR>(c, o, out[1], upper);
  }

  template <int NV>
  void panel(const Columns<T>& c, const T* a, const T* b, int64_t first,
             int64_t last) const {
    const Forward<T> f{s, low, w, lower, nullptr, T(0), Kind::kInf, T(0), nullptr};
    int64_t o = first;
    for (; o + 4 <= last; o += 4) tile<4, NV>(c, f, a, b, o);
    for (; o < last; ++o) tile<1, NV>(c, f, a, b, o);
  }

  void operator()(const Taps& taps, int64_t window, int64_t count,
                  int64_t first, int64_t last, Scratch<T>& scratch) const {
    const int64_t width = lanes<T>() * (count > lanes<T>() ? kVectors : 1);
    Columns<T>& c = scratch.columns;
    c.list(window, count, width);
    T* a = scratch.a.resize(s.row() * width + lanes<T>());
    T* b = scratch.b.resize(s.row() * width + lanes<T>());
    c.copy(low, taps, a);
    c.copy(high, taps, b);
    if (width > lanes<T>())
      panel<kVectors>(c, a, b, first, last);
    else
      panel<1>(c, a, b, first, last);
  }
};

}  // namespace lp
