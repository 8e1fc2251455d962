// Copyright (c) mmext contributors. All rights reserved.
// Both gradients in one pass. Vectors hold cells of a window here, so that
// neither gradient needs a sum over lanes:
//   slope = (|d| / y)^(p - 1) sign(d) grad,   grad_x += slope,
//   grad_w -= slope.
// A task owns a range of cells, hence its part of both gradients.
#pragma once

#include "forward.h"

namespace lp {

// Windows per panel, and outputs per block: w and grad_w of a block stay in
// the second-level cache.
constexpr int64_t kPanel = 32;
constexpr int64_t kOutputs = 512;
constexpr int64_t kCellBytes = 512 << 10;

// What the tile needs to know of an output of a window, kRows windows at a
// time: [outputs][kFields][kRows].
enum Field { kInverse, kGrad, kLeast, kY, kFields };

template <class T>
struct Slope {
  T p;
  T exponent;  // p - 1
  Kind kind;
  // Of Kind::kShort: to p - 2, and the ratio below which slopes are 0.
  const ShortPower* power;
  T cut;
};

template <int P, class T>
LP_INLINE Vec<T> integer_slope(Vec<T> t) {
  if constexpr (P % 2 == 0)
    return int_power<P - 1>(t);
  else
    return int_power<P - 2>(t) * vabs<T>(t);
}

// x, grad_x [kRows][width] at one vector of cells; w, grad_w
// [outputs][lanes].
template <int P, Kind K, class T>
void slope_tile(const T* x, T* grad_x, int64_t width, const T* w, T* grad_w,
                const T* fields, int64_t outputs, const Slope<T>& f) {
  Vec<T> v[kRows], g[kRows];
  for (int r = 0; r < kRows; ++r) {
    v[r] = load<T>(x + r * width);
    g[r] = load<T>(grad_x + r * width);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const T* q = fields + o * kFields * kRows;
    const Vec<T> wo = load<T>(w + o * lanes<T>());
    // Two sums, as one would wait for its own result.
    Vec<T> sum[2] = {load<T>(grad_w + o * lanes<T>()), Vec<T>{}};
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> d = v[r] - wo;
      Vec<T> slope;
      if constexpr (K == Kind::kInteger) {
        slope = integer_slope<P, T>(d * q[kInverse * kRows + r]);
      } else if constexpr (K == Kind::kGeneral) {
        const Vec<T> a = vabs<T>(d);
        slope = power<T>(a * q[kInverse * kRows + r], f.exponent);
        slope = copysign<T>(slope, d);
        slope = (Vec<T>)((VecI<T>)slope & (a > T(0)));
      } else {
        const Vec<T> a = vabs<T>(d);
        const Vec<T> least = set1<T>(q[kLeast * kRows + r]);
        if (__builtin_expect(bits_greater<T>(a, least) == 0, 1)) continue;
        slope = power_1p<T>((a - q[kY * kRows + r]) * q[kInverse * kRows + r],
                            f.exponent);
        slope = copysign<T>(slope, d);
        slope = (Vec<T>)((VecI<T>)slope & (a > least));
      }
      const T upstream = q[kGrad * kRows + r];
      g[r] += slope * upstream;
      sum[r % 2] += slope * upstream;
    }
    store<T>(grad_w + o * lanes<T>(), sum[0] + sum[1]);
  }
  for (int r = 0; r < kRows; ++r) store<T>(grad_x + r * width, g[r]);
}

// As slope_tile, where kGrad holds the upstream gradient over y: the factor
// d y^-1 of the slope brings its sign, and the exact zero of a zero d.
template <int F>
void short_slope_tile(const float* x, float* grad_x, int64_t width,
                      const float* w, float* grad_w, const float* fields,
                      int64_t outputs, const Slope<float>& f) {
  constexpr int n = 4;  // chains side by side
  const FlushTiny flush;
  const VF least = set1<float>(f.cut - 1);
  VF v[kRows], g[kRows];
  for (int r = 0; r < kRows; ++r) {
    v[r] = load<float>(x + r * width);
    g[r] = load<float>(grad_x + r * width);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const float* q = fields + o * kFields * kRows;
    const VF wo = load<float>(w + o * lanes<float>());
    VF sum[2] = {load<float>(grad_w + o * lanes<float>()), VF{}};
#pragma GCC unroll 2
    for (int first = 0; first < kRows; first += n) {
      VF d[n], u[n];
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        d[i] = v[first + i] - wo;
        u[i] = (vabs<float>(d[i]) - q[kY * kRows + first + i]) *
               q[kInverse * kRows + first + i];
      }
      if (!any_above<n>(u, least)) continue;
      half_power<F, n>(f.power->at, u);
#pragma GCC unroll 4
      for (int i = 0; i < n; ++i) {
        const VF slope = u[i] * u[i] * d[i];
        const float upstream = q[kGrad * kRows + first + i];
        g[first + i] += slope * upstream;
        sum[i % 2] += slope * upstream;
      }
    }
    store<float>(grad_w + o * lanes<float>(), sum[0] + sum[1]);
  }
  for (int r = 0; r < kRows; ++r) store<float>(grad_x + r * width, g[r]);
}

template <class T>
void run_slope(const T* x, T* grad_x, int64_t width, const T* w, T* grad_w,
               const T* fields, int64_t outputs, const Slope<T>& f) {
#define LP_ARGS x, grad_x, width, w, grad_w, fields, outputs, f
  if (f.kind == Kind::kLarge)
    return slope_tile<0, Kind::kLarge, T>(LP_ARGS);
  if (f.kind == Kind::kGeneral)
    return slope_tile<0, Kind::kGeneral, T>(LP_ARGS);
  if constexpr (std::is_same_v<T, float>)
    if (f.kind == Kind::kShort) {
#define LP_CASE(F) \
  case F:          \
    return short_slope_tile<F>(LP_ARGS);
      switch (f.power->form) { LP_FORMS(LP_CASE) }
#undef LP_CASE
    }
#define LP_CASE(P) \
  case P:          \
    return slope_tile<P, Kind::kInteger, T>(LP_ARGS);
  switch ((int)f.p) {
    LP_CASE(2) LP_CASE(3) LP_CASE(4) LP_CASE(5) LP_CASE(6) LP_CASE(7)
    LP_CASE(8) LP_CASE(9) LP_CASE(10) LP_CASE(11) LP_CASE(12) LP_CASE(13)
    LP_CASE(14) LP_CASE(15) LP_CASE(16)
  }
#undef LP_CASE
#undef LP_ARGS
}

// How cells and images are cut into tasks.
struct Cut {
  int64_t channels, blocks;  // channels per block, blocks per group
  int64_t splits;            // parts of the batch, each with its own grad_w

  Cut(const Shape& s, int64_t lane) {
    const int64_t n = s.group_channels(), area = s.area();
    const int64_t rows = std::min(s.group_outputs(), kOutputs);
    // A block's w and grad_w, a multiple of whole vectors of cells.
    const int64_t vectors =
        std::max<int64_t>(1, kCellBytes / (2 * kBytes * rows));
    int64_t best = 1;
    double score = -1;
    for (int64_t c = std::min(n, std::max<int64_t>(1, vectors * lane / area));
         c >= 1; --c) {
      const int64_t padded = (c * area + lane - 1) / lane * lane;
      // Full vectors count most, then a task per thread.
      const double fill = (double)(c * area) / padded;
      const double busy = std::min(
          1., (double)(s.groups * ((n + c - 1) / c)) / (2 * s.threads));
      if (fill * (3 + busy) > score + 1e-9) score = fill * (3 + busy), best = c;
    }
    channels = best;
    blocks = (n + channels - 1) / channels;
    const int64_t tasks = s.groups * blocks;
    splits = std::max<int64_t>(
        1, std::min(s.batch, (s.threads + tasks - 1) / tasks));
    if (tasks >= s.threads) splits = 1;
  }
};

template <class T>
struct Backward {
  const Shape& s;
  const T *grad, *x, *w, *y;
  T *grad_x, *grad_w;  // or null; both start at zero
  Slope<T> slope;

  struct Scratch {
    Buffer<T> w, grad_w, x, grad_x, fields;
    std::vector<Window> windows;
  };

  // Upstream gradients and distances of a panel, from [o][position]. The last
  // of kRows windows are that of row `count - 1` again, without a gradient:
  // of no window, a slope may be infinite.
  void fill(const std::vector<Window>& windows, int64_t count, int64_t first,
            int64_t outputs, T* fields) const {
    const int64_t step = s.positions();
    for (int64_t l = 0; l < padded(count); ++l) {
      T* q = fields + l / kRows * outputs * kFields * kRows + l % kRows;
      const int64_t at = windows[std::min(l, count - 1)].out + first * step;
      const T *g = grad + at, *d = y + at;
      for (int64_t o = 0; o < outputs; ++o, q += kFields * kRows) {
        const T far = std::max(d[o * step], std::numeric_limits<T>::min());
        const T upstream = l < count ? g[o * step] : T(0);
        q[kGrad * kRows] = upstream;
        q[kInverse * kRows] = T(1) / far;
        q[kY * kRows] = far;
        if (slope.kind == Kind::kShort) {
          // Finite also where y is below what can be inverted.
          constexpr T most = std::numeric_limits<T>::max();
          q[kGrad * kRows] =
              std::min(std::max(upstream / far, -most), most);
        }
        q[kLeast * kRows] = far * slope.cut;
      }
    }
  }

  static int64_t padded(int64_t count) {
    return (count + kRows - 1) / kRows * kRows;
  }

  // Rows of w as [vector of cells][output][lane], 0 beyond the cells.
  void pack(const T* from, int64_t outputs, int64_t cells, T* to) const {
    constexpr int64_t n = lanes<T>();
    for (int64_t k = 0; k < cells; k += n)
      for (int64_t i = 0; i < outputs; ++i, to += n)
        for (int64_t j = 0; j < n; ++j)
          to[j] = k + j < cells ? from[i * s.row() + k + j] : T(0);
  }

  // The reverse, negated.
  void unpack(const T* from, int64_t outputs, int64_t cells, T* to) const {
    constexpr int64_t n = lanes<T>();
    for (int64_t k = 0; k < cells; k += n)
      for (int64_t i = 0; i < outputs; ++i, from += n)
        for (int64_t j = 0; j < std::min(n, cells - k); ++j)
          to[i * s.row() + k + j] = -from[j];
  }

  // Cells of some channels, images first_image ... last_image - 1.
  void task(int64_t group, int64_t channel, int64_t channels,
            int64_t first_image, int64_t last_image, T* target,
            Scratch& b) const {
    const int64_t lane = lanes<T>(), cells = channels * s.area();
    const int64_t vectors = (cells + lane - 1) / lane, width = vectors * lane;
    const Taps taps(s, group * s.group_channels() + channel, channels);
    const int64_t n = s.group_outputs();
    T* rows = b.x.resize(kPanel * width);
    T* back = b.grad_x.resize(kPanel * width);
    std::fill(rows, rows + kPanel * width, T(0));
    for (int64_t o = 0; o < n; o += kOutputs) {
      const int64_t outputs = std::min(kOutputs, n - o);
      const int64_t first = group * n + o;
      const int64_t block = outputs * lane;  // of one vector of cells
      const int64_t offset = first * s.row() + channel * s.area();
      T* weight = b.w.resize(vectors * block);
      T* grad_weight = b.grad_w.resize(vectors * block);
      T* fields = b.fields.resize(kPanel * outputs * kFields);
      pack(w + offset, outputs, cells, weight);
      std::fill(grad_weight, grad_weight + vectors * block, T(0));
      const int64_t end = last_image * s.positions();
      for (int64_t m = first_image * s.positions(); m < end; m += kPanel) {
        const int64_t count = std::min(kPanel, end - m);
        list_windows(s, m, count, b.windows);
        copy_rows<T>(s, x, taps, b.windows, count, width, rows);
        for (int64_t l = count; l < padded(count); ++l)
          std::memcpy(rows + l * width, rows + (count - 1) * width,
                      width * sizeof(T));
        std::fill(back, back + kPanel * width, T(0));
        fill(b.windows, count, first, outputs, fields);
        for (int64_t v = 0; v < vectors; ++v)
          for (int64_t l = 0; l < count; l += kRows)
            run_slope<T>(rows + l * width + v * lane,
                         back + l * width + v * lane, width,
                         weight + v * block, grad_weight + v * block,
                         fields + l * outputs * kFields, outputs, slope);
        if (grad_x)
          add_rows<T>(s, grad_x, taps, b.windows, count, width, back);
      }
      if (target) unpack(grad_weight, outputs, cells, target + offset);
    }
  }

  void run() const {
    const Cut c(s, lanes<T>());
    const int64_t size = s.outputs * s.row();
    std::vector<T> parts(grad_w ? (c.splits - 1) * size : 0);
    const int64_t tasks = s.groups * c.blocks * c.splits;
#pragma omp parallel num_threads((int)s.threads)
    {
      Scratch b;
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < tasks; ++i) {
        const int64_t part = i % c.splits;
        const int64_t channel = i / c.splits % c.blocks * c.channels;
        T* target = !grad_w ? nullptr
                    : part  ? parts.data() + (part - 1) * size
                            : grad_w;
        task(i / c.splits / c.blocks, channel,
             std::min(c.channels, s.group_channels() - channel),
             part * s.batch / c.splits, (part + 1) * s.batch / c.splits, target,
             b);
      }
    }
    for (int64_t part = 1; grad_w && part < c.splits; ++part)
      for (int64_t i = 0; i < size; ++i)
        grad_w[i] += parts[(part - 1) * size + i];
  }
};

template <class T>
void backward_finite(const Shape& s, const T* grad, const T* x, const T* w,
                     const T* y, double p, T* grad_x, T* grad_w) {
  const double cut = p > 1 ? negligible<T>(p - 1, s.row()) : 0.;
  const ShortPower* power = nullptr;
  Kind kind = cut > kDirect ? Kind::kLarge : Kind::kGeneral;
  if (p == std::floor(p) && p >= 2 && p <= 16) {
    kind = Kind::kInteger;
  } else if (short_enough<T>(p - 2)) {
    power = &short_power(p - 2);
    if (power->form >= 0) kind = Kind::kShort;
  }
  const Slope<T> slope{(T)p, (T)(p - 1), kind, power, (T)cut};
  Backward<T>{s, grad, x, w, y, grad_x, grad_w, slope}.run();
}

// The gradient goes to the cell that index names; images and outputs are
// owned by one thread each.
template <class T>
void backward_inf(const Shape& s, const T* grad, const int32_t* index,
                  T* grad_x, T* grad_w) {
  const int64_t step = s.positions(), n = s.group_outputs();
  const bool vectors = s.vectors();
#pragma omp parallel num_threads((int)s.threads)
  {
    const Taps taps(s, 0, s.group_channels());
    if (grad_x) {
#pragma omp for schedule(static)
      for (int64_t b = 0; b < s.batch; ++b) {
        T* image = grad_x + b * s.image();
        for (int64_t o = 0; o < s.outputs; ++o) {
          T* part = image + o / n * s.group_channels() * s.height * s.width;
          for (int64_t i = 0; i < step; ++i) {
            const int64_t at = (b * s.outputs + o) * step + i;
            const int32_t sign = index[at] >> 31;
            const int32_t k = index[at] ^ sign;
            const T value = grad[at] * (T)(sign | 1);
            if (vectors) {
              part[k] += value;
              continue;
            }
            const int64_t h = i / s.out_width * s.stride_h - s.pad_h;
            const int64_t w = i % s.out_width * s.stride_w - s.pad_w;
            if (h + taps.h[k] >= 0 && h + taps.h[k] < s.height &&
                w + taps.w[k] >= 0 && w + taps.w[k] < s.width)
              part[h * s.width + w + taps.offset[k]] += value;
          }
        }
      }
    }
    if (grad_w) {
      // A cache line of index entries at a time.
      const int64_t chunk = step > 1 ? 1 : 16;
#pragma omp for schedule(static)
      for (int64_t first = 0; first < s.outputs; first += chunk) {
        const int64_t last = std::min(first + chunk, s.outputs);
        for (int64_t b = 0; b < s.batch; ++b)
          for (int64_t o = first; o < last; ++o)
            for (int64_t i = 0; i < step; ++i) {
              const int64_t at = (b * s.outputs + o) * step + i;
              const int32_t sign = index[at] >> 31;
              grad_w[o * s.row() + (index[at] ^ sign)] -=
                  grad[at] * (T)(sign | 1);
            }
      }
    }
  }
}

}  // namespace lp
