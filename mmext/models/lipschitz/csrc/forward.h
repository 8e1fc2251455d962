// Copyright (c) mmext contributors. All rights reserved.
// Distances: panels of windows, cut into tiles, shared among threads.
#pragma once

#include "tiles.h"

namespace lp {

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
  const ShortPower* power;

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
    Tile<T> t{a, c.width, w + o * s.row(), s.row(), out, block, p, power};
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
    const bool heavy = kind != Kind::kInf && kind != Kind::kInteger;
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
      const bool vectors = s.vectors();
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
  const ShortPower* power = nullptr;
  Kind kind = cut > kDirect ? Kind::kLarge : Kind::kGeneral;
  if (std::isinf(p)) {
    kind = Kind::kInf;
  } else if (p == std::floor(p) && p <= 16.) {
    kind = Kind::kInteger;
  } else if (short_enough<T>(p)) {
    power = &short_power(p);
    if (power->form >= 0) kind = Kind::kShort;
  }
  const Forward<T> f{s, x, w, y, index, (T)p, kind, (T)cut, power};
  for_tasks<T>(s, [&](const Taps& taps, int64_t window, int64_t count,
                      int64_t first, int64_t last, Scratch<T>& scratch) {
    f.task(taps, window, count, first, last, scratch);
  });
}

}  // namespace lp
