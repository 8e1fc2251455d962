// Copyright (c) mmext contributors. All rights reserved.
// Distances and their bounds. A register tile is MR outputs times NV vectors
// of windows; it runs over all K cells before it is stored.
#pragma once

#include "windows.h"

namespace lp {

// Cells after which a tile at p = inf notes which maxima have grown. The
// cell itself is looked for in the end, in one block per output.
constexpr int64_t kBlock = 32;
constexpr int kVectors = 2;

enum class Kind { kInf, kInteger, kGeneral, kLarge };

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

// In general_tile's terms, the ratio below which n cells do not matter.
template <class T>
inline double negligible(double p, int64_t n) {
  return std::exp2(-(std::numeric_limits<T>::digits + 2 + std::log2((double)n)) /
                   p);
}

// log2(1 + t) is a plain polynomial from here on.
constexpr double kDirect = 2. / 3. + 1e-4;

template <class T, int MR, int NV>
void run_tile(const Tile<T>& t, Kind kind, T cut, bool index) {
  switch (kind) {
    case Kind::kInf:
      return index ? inf_block_tile<T, MR, NV>(t) : inf_tile<T, MR, NV>(t);
    case Kind::kLarge:
      return large_tile<T, MR, NV>(t, cut);
    case Kind::kGeneral:
      return general_tile<T, MR, NV>(t);
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

// What a thread keeps between tasks.
template <class T>
struct Scratch {
  explicit Scratch(const Shape& s) : columns(s) {}
  Columns<T> columns;
  Buffer<T> a, b;
  std::vector<const T*> rows;
};

template <class T>
struct Forward {
  const Shape& s;
  const T *x, *w;
  T* y;
  int32_t* index;  // or null
  T p;
  Kind kind;
  T cut;

  // Where |x - w| equals the maximum first; ~k if x < w there.
  static int32_t find(const T* x, const T* w, int64_t row, int32_t block,
                      T best) {
    constexpr int64_t n = lanes<T>();
    const Vec<T> target = set1<T>(best);
    const int64_t first = block * kBlock;
    int64_t found = -1;
    if (first + kBlock <= row) {  // the common case, without a branch
      uint32_t bits = 0;
      for (int64_t k = 0; k < kBlock; k += n)
        bits |= bits_equal<T>(
                    vabs<T>(load<T>(x + first + k) - load<T>(w + first + k)),
                    target)
                << k;
      found = first + __builtin_ctz(bits);
    } else if (row >= n) {
      // The last vector overlaps with cells that were ruled out.
      for (int64_t k = first; found < 0; k += n) {
        const int64_t at = std::min(k, row - n);
        const uint32_t bits = bits_equal<T>(
            vabs<T>(load<T>(x + at) - load<T>(w + at)), target);
        if (bits) found = at + __builtin_ctz(bits);
      }
    } else {
      for (int64_t k = 0; found < 0; ++k)
        if (std::abs(x[k] - w[k]) == best) found = k;
    }
    return (int32_t)found ^ -(int32_t)(x[found] < w[found]);
  }

  template <int MR, int NV>
  void tile(const Columns<T>& c, const T* a, const std::vector<const T*>& rows,
            int64_t o, T* out, int32_t* block) const {
    Tile<T> t{a, c.width, w + o * s.row(), s.row(), out, block, p};
    run_tile<T, MR, NV>(t, kind, cut, index != nullptr);
    if (kind == Kind::kInteger && !take_root<T, MR, NV>(t))
      general_tile<T, MR, NV>(t);
    if (index)
      for (int r = 0; r < MR; ++r)
        for (int64_t l = 0; l < c.count; ++l) {
          int32_t& b = block[r * c.width + l];
          b = find(rows[l], t.w + r * t.row, t.row, b, out[r * c.width + l]);
        }
    scatter<MR>(c, o, out, y);
    if (index) scatter<MR>(c, o, block, index);
  }

  template <int MR, class U>
  void scatter(const Columns<T>& c, int64_t o, const U* from, U* to) const {
    const int64_t step = s.positions();
    if (c.adjacent && step > 1) {
      for (int r = 0; r < MR; ++r)
        std::memcpy(to + c.windows[0].out + (o + r) * step, from + r * c.width,
                    c.count * sizeof(U));
      return;
    }
    for (int64_t l = 0; l < c.count; ++l)
      for (int r = 0; r < MR; ++r)
        to[c.windows[l].out + (o + r) * step] = from[r * c.width + l];
  }

  // Outputs first ... last - 1 of a panel of windows.
  template <int NV>
  void panel(const Columns<T>& c, const T* a,
             const std::vector<const T*>& rows, int64_t first,
             int64_t last) const {
    alignas(64) T out[kRows * kVectors * lanes<T>()];
    alignas(64) int32_t block[kRows * kVectors * lanes<T>()];
    int64_t o = first;
    const bool heavy = kind == Kind::kGeneral || kind == Kind::kLarge;
    if (kRows > 4 && !heavy)
      for (; o + kRows <= last; o += kRows)
        tile<kRows, NV>(c, a, rows, o, out, block);
    for (; o + 4 <= last; o += 4) tile<4, NV>(c, a, rows, o, out, block);
    for (; o < last; ++o) tile<1, NV>(c, a, rows, o, out, block);
  }

  void task(const Taps& taps, int64_t window, int64_t count, int64_t first,
            int64_t last, Scratch<T>& b) const {
    const int64_t width = lanes<T>() * (count > lanes<T>() ? kVectors : 1);
    Columns<T>& c = b.columns;
    c.list(window, count, width);
    T* a = b.a.resize(s.row() * width + lanes<T>());
    c.copy(x, taps, a);
    if (index) {
      const bool vectors = s.area() == 1 && s.height * s.width == 1;
      T* rows = b.b.resize(vectors ? 0 : count * s.row());
      if (!vectors)
        copy_rows<T>(s, x, taps, c.windows, count, s.row(), rows);
      b.rows.resize(count);
      for (int64_t l = 0; l < count; ++l)
        b.rows[l] = vectors ? x + c.windows[l].base + taps.offset[0]
                            : rows + l * s.row();
    }
    if (width > lanes<T>())
      panel<kVectors>(c, a, b.rows, first, last);
    else
      panel<1>(c, a, b.rows, first, last);
  }
};

// Cuts windows times outputs into tasks: panels of windows, and so many
// outputs that every thread gets some tasks.
struct Tasks {
  int64_t panel, panels, chunk, chunks, count;

  Tasks(const Shape& s, int64_t panel_) : panel(panel_) {
    panels = (s.windows() + panel - 1) / panel;
    const int64_t n = s.group_outputs();
    const int64_t wanted = 4 * s.threads;
    chunks = std::max<int64_t>(
        1, std::min((wanted + panels * s.groups - 1) / (panels * s.groups),
                    n / 32));
    chunk = (n + chunks - 1) / chunks;
    chunk = (chunk + kRows - 1) / kRows * kRows;
    chunks = (n + chunk - 1) / chunk;
    count = s.groups * panels * chunks;
  }
};

template <class T, class F>
void for_tasks(const Shape& s, const F& f) {
  const int64_t panel = kVectors * lanes<T>();
  const Tasks tasks(s, panel);
  const int64_t n = s.group_outputs();
#pragma omp parallel num_threads((int)s.threads)
  {
    Scratch<T> scratch(s);
    int64_t group = 0;
    Taps taps(s, 0, s.group_channels());
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks.count; ++i) {
      const int64_t chunk = i % tasks.chunks;
      const int64_t window = i / tasks.chunks % tasks.panels * panel;
      const int64_t g = i / tasks.chunks / tasks.panels;
      if (g != group) {
        taps = Taps(s, g * s.group_channels(), s.group_channels());
        group = g;
      }
      const int64_t first = g * n + chunk * tasks.chunk;
      const int64_t last = std::min(first + tasks.chunk, (g + 1) * n);
      f(taps, window, std::min(panel, s.windows() - window), first, last,
        scratch);
    }
  }
}

template <class T>
void forward(const Shape& s, const T* x, const T* w, double p, T* y,
             int32_t* index) {
  const double cut = negligible<T>(p, s.row());
  const Kind kind = std::isinf(p)                      ? Kind::kInf
                    : p == std::floor(p) && p <= 16.   ? Kind::kInteger
                    : cut > kDirect                    ? Kind::kLarge
                                                       : Kind::kGeneral;
  const Forward<T> f{s, x, w, y, index, (T)p, kind, (T)cut};
  for_tasks<T>(s, [&](const Taps& taps, int64_t window, int64_t count,
                      int64_t first, int64_t last, Scratch<T>& scratch) {
    f.task(taps, window, count, first, last, scratch);
  });
}

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
    const Forward<T> f{s, low, w, lower, nullptr, T(0), Kind::kInf, T(0)};
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
