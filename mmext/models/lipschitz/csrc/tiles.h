// Copyright (c) mmext contributors. All rights reserved.
// Tiles of the distance. A register tile is MR outputs times NV vectors
// of windows; it runs over all K cells before it is stored.
#pragma once

#include "short_power.h"
#include "windows.h"

namespace lp {

// Cells after which a tile at p = inf notes which maxima have grown. The
// cell itself is looked for in the end, in one block per output.
constexpr int64_t kBlock = 32;
constexpr int kVectors = 2;

enum class Kind { kInf, kInteger, kShort, kGeneral, kLarge };

// What a tile reads and writes. Columns of a are windows, rows of w outputs.
template <class T>
struct Tile {
  const T* a;
  int64_t width;
  const T* w;
  int64_t row;  // K
  T* y;         // [MR][width]
  int32_t* block;
  T p;
  const ShortPower* power;  // of Kind::kShort
};

template <class T, int MR, int NV>
LP_INLINE void load_columns(const Tile<T>& t, int64_t k, Vec<T> (&v)[NV]) {
  for (int j = 0; j < NV; ++j)
    v[j] = load<T>(t.a + k * t.width + j * lanes<T>());
}

template <class T, int MR, int NV>
LP_INLINE void max_sweep(const Tile<T>& t, int64_t first, int64_t last,
                         Vec<T> (&acc)[MR][NV]) {
  for (int64_t k = first; k < last; ++k) {
    Vec<T> v[NV];
    load_columns<T, MR, NV>(t, k, v);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const Vec<T> w = set1<T>(t.w[r * t.row + k]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc[r][j] = max_abs<T>(acc[r][j], v[j] - w);
    }
  }
}

template <class T, int MR, int NV>
void inf_tile(const Tile<T>& t) {
  Vec<T> acc[MR][NV] = {};
  max_sweep<T, MR, NV>(t, 0, t.row, acc);
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j)
      store<T>(t.y + r * t.width + j * lanes<T>(), acc[r][j]);
}

// Also the block in which the maximum was first attained.
template <class T, int MR, int NV>
void inf_block_tile(const Tile<T>& t) {
  typedef typename Traits<T>::Int Int;
  Vec<T> acc[MR][NV] = {};
  alignas(64) Vec<T> best[MR][NV];
  alignas(64) VecI<T> where[MR][NV] = {};
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) best[r][j] = set1<T>(T(-1));
  for (int64_t first = 0; first < t.row; first += kBlock) {
    max_sweep<T, MR, NV>(t, first, std::min(first + kBlock, t.row), acc);
    const VecI<T> id = (Int)(first / kBlock) - VecI<T>{};
    for (int r = 0; r < MR; ++r)
      for (int j = 0; j < NV; ++j) {
        where[r][j] = acc[r][j] > best[r][j] ? id : where[r][j];
        best[r][j] = acc[r][j];
      }
  }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      store<T>(t.y + r * t.width + j * lanes<T>(), acc[r][j]);
      for (int i = 0; i < lanes<T>(); ++i)
        t.block[r * t.width + j * lanes<T>() + i] = (int32_t)where[r][j][i];
    }
}

// Sum of |d|^P without a normaliser; the caller checks its range.
template <int P, class T, int MR, int NV>
void integer_tile(const Tile<T>& t) {
  Vec<T> acc[MR][NV] = {};
  for (int64_t k = 0; k < t.row; ++k) {
    Vec<T> v[NV];
    load_columns<T, MR, NV>(t, k, v);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const Vec<T> w = set1<T>(t.w[r * t.row + k]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) {
        const Vec<T> d = v[j] - w;
        if constexpr (P == 1) {
          acc[r][j] += vabs<T>(d);
        } else if constexpr (P % 2 == 0) {
          const Vec<T> h = int_power<P / 2>(d);
          acc[r][j] += h * h;
        } else {
          const Vec<T> h = int_power<P / 2>(d);
          acc[r][j] += h * h * vabs<T>(d);
        }
      }
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j)
      store<T>(t.y + r * t.width + j * lanes<T>(), acc[r][j]);
}

template <class T>
LP_INLINE Vec<T> positive(Vec<T> a) {
  return vmax<T>(a, set1<T>(std::numeric_limits<T>::min()));
}

// M (sum (|d| / M)^p)^(1/p); a first sweep finds M.
template <class T, int MR, int NV>
void general_tile(const Tile<T>& t) {
  Vec<T> largest[MR][NV] = {}, sum[MR][NV] = {}, inverse[MR][NV];
  max_sweep<T, MR, NV>(t, 0, t.row, largest);
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j)
      inverse[r][j] = T(1) / positive<T>(largest[r][j]);
  for (int64_t k = 0; k < t.row; ++k) {
    Vec<T> v[NV];
    load_columns<T, MR, NV>(t, k, v);
    for (int r = 0; r < MR; ++r)
      for (int j = 0; j < NV; ++j) {
        const Vec<T> d = vabs<T>(v[j] - t.w[r * t.row + k]);
        sum[r][j] += power<T>(d * inverse[r][j], t.p);
      }
  }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      store<T>(t.y + r * t.width + j * lanes<T>(),
               largest[r][j] * root<T>(positive<T>(sum[r][j]), t.p));
    }
}

// As general_tile for a large p: all cells but those close to the maximum
// are below rounding, even together.
template <class T, int MR, int NV>
void large_tile(const Tile<T>& t, T cut) {
  Vec<T> largest[MR][NV] = {}, sum[MR][NV] = {}, least[MR][NV];
  max_sweep<T, MR, NV>(t, 0, t.row, largest);
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) least[r][j] = largest[r][j] * cut;
  for (int64_t k = 0; k < t.row; ++k) {
    Vec<T> v[NV];
    load_columns<T, MR, NV>(t, k, v);
    for (int r = 0; r < MR; ++r)
      for (int j = 0; j < NV; ++j) {
        const Vec<T> d = vabs<T>(v[j] - t.w[r * t.row + k]);
        if (__builtin_expect(bits_greater<T>(d, least[r][j]) == 0, 1)) continue;
        const Vec<T> ratio =
            (d - largest[r][j]) / positive<T>(largest[r][j]);
        const VecI<T> near = d > least[r][j];
        sum[r][j] +=
            (Vec<T>)((VecI<T>)power_1p<T>(ratio, t.p) & near);
      }
  }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      // The sum is at least 1, unless all differences are 0.
      store<T>(t.y + r * t.width + j * lanes<T>(),
               largest[r][j] * root<T>(positive<T>(sum[r][j]), t.p));
    }
}

// As general_tile, by a short polynomial. Cells below `least` M are skipped
// where all cells of the tile are: with identity weights, most of them.
template <int F, int MR, int NV>
void short_tile(const Tile<float>& t, float cut) {
  constexpr int n = MR * NV;
  const FlushTiny flush;
  VF largest[MR][NV] = {}, sum[n] = {}, inverse[n];
  max_sweep<float, MR, NV>(t, 0, t.row, largest);
  for (int i = 0; i < n; ++i)
    inverse[i] = 1.f / positive<float>(largest[i / NV][i % NV]);
  const VF least = set1<float>(cut - 1);
  for (int64_t k = 0; k < t.row; ++k) {
    VF v[NV], u[n];
    load_columns<float, MR, NV>(t, k, v);
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i)
      u[i] = (vabs<float>(v[i % NV] - t.w[i / NV * t.row + k]) -
              largest[i / NV][i % NV]) *
             inverse[i];
    if (!any_above<n>(u, least)) continue;
    half_power<F, n>(t.power->at, u);
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) sum[i] += u[i] * u[i];
  }
  for (int i = 0; i < n; ++i)
    store<float>(t.y + i / NV * t.width + i % NV * lanes<float>(),
                 largest[i / NV][i % NV] *
                     root<float>(positive<float>(sum[i]), t.p));
}

// In general_tile's terms, the ratio below which n cells do not matter.
template <class T>
inline double negligible(double p, int64_t n) {
  const double digits = std::numeric_limits<T>::digits + 2;
  return std::exp2(-(digits + std::log2((double)n)) / p);
}

// log2(1 + t) is a plain polynomial from here on.
constexpr double kDirect = 2. / 3. + 1e-4;

template <class T, int MR, int NV>
void run_tile(const Tile<T>& t, Kind kind, T cut, bool index) {
  constexpr int kFew = MR > 4 ? 4 : MR;  // rows of a kind with many registers
  switch (kind) {
    case Kind::kInf:
      return index ? inf_block_tile<T, MR, NV>(t) : inf_tile<T, MR, NV>(t);
    case Kind::kLarge:
      return large_tile<T, kFew, NV>(t, cut);
    case Kind::kGeneral:
      return general_tile<T, kFew, NV>(t);
    case Kind::kShort:
      if constexpr (std::is_same_v<T, float>) {
#define LP_CASE(F) \
  case F:          \
    return short_tile<F, kFew, NV>(t, cut);
        switch (t.power->form) { LP_FORMS(LP_CASE) }
#undef LP_CASE
      }
      return;
    case Kind::kInteger:
      break;
  }
#define LP_CASE(P) \
  case P:          \
    return integer_tile<P, T, MR, NV>(t);
  switch ((int)t.p) {
    LP_CASE(1) LP_CASE(2) LP_CASE(3) LP_CASE(4) LP_CASE(5) LP_CASE(6)
    LP_CASE(7) LP_CASE(8) LP_CASE(9) LP_CASE(10) LP_CASE(11) LP_CASE(12)
    LP_CASE(13) LP_CASE(14) LP_CASE(15) LP_CASE(16)
  }
#undef LP_CASE
}

// Takes the p-th root of sums of powers; false if one of them is so large or
// small that cells may have been lost.
template <class T, int MR, int NV>
bool take_root(const Tile<T>& t) {
  const T margin = std::numeric_limits<T>::max_exponent * 3 / 4;
  const Vec<T> low = set1<T>(std::exp2(-margin));
  const Vec<T> high = set1<T>(std::exp2(margin));
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      const Vec<T> sum = load<T>(t.y + r * t.width + j * lanes<T>());
      // Also where the sum overflowed.
      if (bits_greater<T>(low, sum) | bits_greater<T>(sum, high)) return false;
    }
  for (int r = 0; r < MR; ++r)
    for (int j = 0; j < NV; ++j) {
      T* y = t.y + r * t.width + j * lanes<T>();
      store<T>(y, root<T>(load<T>(y), t.p));
    }
  return true;
}

}  // namespace lp
