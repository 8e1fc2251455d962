// Copyright (c) mmext contributors. All rights reserved.
// Windows of an image, copied a panel at a time: an implicit unfold.
#pragma once

#include <algorithm>
#include <vector>

#include "vec.h"

namespace lp {

// Mirrors the array that cpp_backend.py fills.
struct Shape {
  int64_t batch, channels, height, width;  // input; channels of all groups
  int64_t outputs, out_height, out_width, groups;
  int64_t kernel_h, kernel_w, stride_h, stride_w;
  int64_t pad_h, pad_w, dilation_h, dilation_w;
  int64_t threads;

  int64_t area() const { return kernel_h * kernel_w; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_outputs() const { return outputs / groups; }
  int64_t row() const { return group_channels() * area(); }  // K
  int64_t image() const { return channels * height * width; }
  int64_t positions() const { return out_height * out_width; }
  int64_t windows() const { return batch * positions(); }  // M
  // Whether each window is a vector of the input, cell after cell.
  bool vectors() const {
    return area() == 1 && height * width == 1 && pad_h == 0 && pad_w == 0;
  }
};

// Where cell k of a window lies, relative to its first pixel.
struct Taps {
  std::vector<int64_t> offset;
  std::vector<int32_t> h, w, tap;

  Taps(const Shape& s, int64_t first_channel, int64_t channels) {
    const int64_t n = channels * s.area();
    offset.resize(n), h.resize(n), w.resize(n), tap.resize(n);
    int64_t k = 0;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < s.kernel_h; ++i)
        for (int64_t j = 0; j < s.kernel_w; ++j, ++k) {
          h[k] = i * s.dilation_h, w[k] = j * s.dilation_w;
          tap[k] = i * s.kernel_w + j;
          offset[k] = ((first_channel + c) * s.height + h[k]) * s.width + w[k];
        }
  }
};

// A window's first pixel; it may lie in the padding.
struct Window {
  int64_t base;  // offset in the input, of channel 0
  int64_t out;   // offset in the output, of output 0
  int64_t h, w;
  bool inside;  // whether no tap falls into the padding

  bool has(const Shape& s, int64_t dh, int64_t dw) const {
    return h + dh >= 0 && h + dh < s.height && w + dw >= 0 && w + dw < s.width;
  }
};

// Windows first ... first + count - 1; images follow each other.
inline void list_windows(const Shape& s, int64_t first, int64_t count,
                         std::vector<Window>& windows) {
  windows.resize(count);
  int64_t b = first / s.positions(), pos = first % s.positions();
  int64_t row = pos / s.out_width, column = pos % s.out_width;
  for (int64_t i = 0; i < count; ++i) {
    Window& v = windows[i];
    v.h = row * s.stride_h - s.pad_h, v.w = column * s.stride_w - s.pad_w;
    v.base = b * s.image() + v.h * s.width + v.w;
    v.out = b * s.outputs * s.positions() + pos;
    v.inside = v.h >= 0 && v.w >= 0 &&
               v.h + (s.kernel_h - 1) * s.dilation_h < s.height &&
               v.w + (s.kernel_w - 1) * s.dilation_w < s.width;
    ++pos;
    if (++column == s.out_width) column = 0, ++row;
    if (row == s.out_height) row = pos = 0, ++b;
  }
}

// Memory that starts at a cache line, so that no vector straddles two.
template <class T>
class Buffer {
 public:
  T* resize(int64_t n) {
    if (n + kSpare > (int64_t)memory_.size()) memory_.resize(n + kSpare);
    return data();
  }
  T* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return memory_.data() + (64 - address % 64) % 64 / sizeof(T);
  }

 private:
  static constexpr int64_t kSpare = 64 / sizeof(T);
  std::vector<T> memory_;
};

// Windows as columns: cell k of window m at [k][m], so that a vector holds
// one cell of many windows. Columns beyond `count` repeat the last window, so
// that what a tile decides for all of its columns depends on windows alone.
template <class T>
struct Columns {
  int64_t width = 0, count = 0;  // columns, and how many are windows
  std::vector<Window> windows;
  bool adjacent = false;  // outputs of the windows follow each other

  explicit Columns(const Shape& s) : s_(s) {}

  void list(int64_t first, int64_t count_, int64_t width_) {
    width = width_, count = count_;
    list_windows(s_, first, count, windows);
    adjacent = windows[count - 1].out - windows[0].out == count - 1;
    low_ = high_ = windows[0].base;
    bool inside = true;
    for (const Window& v : windows) {
      low_ = std::min(low_, v.base), high_ = std::max(high_, v.base);
      inside = inside && v.inside;
    }
    runs_.clear();
    for (int64_t i = 0, n; i < count; i += n) {
      for (n = 1; i + n < count && windows[i + n].base == windows[i].base + n;)
        ++n;
      runs_.push_back({i, n});
    }
    mask_.clear();
    if (!inside) find_padding();
  }

  // Copies to out [K][width]; pixels of the padding become 0. Whole vectors
  // are written, so that out needs one vector more.
  void copy(const T* x, const Taps& taps, T* out) const {
    const int64_t n = taps.offset.size();
    if (s_.vectors())
      transpose(x, taps, out);
    else
      gather(x, taps, out);
    if (count == width) return;
    for (T* row = out; row < out + n * width; row += width)
      std::fill(row + count, row + width, row[count - 1]);
  }

 private:
  typedef typename Traits<T>::Int Int;
  struct Run {
    int64_t first, count;
  };
  const Shape& s_;
  int64_t low_ = 0, high_ = 0;  // of the windows' bases
  std::vector<Run> runs_;
  std::vector<Int> mask_;

  void gather(const T* x, const Taps& taps, T* out) const {
    const int64_t n = taps.offset.size();
    const int64_t total = s_.batch * s_.image();
    const bool scalar = (int64_t)runs_.size() * lanes<T>() > width * 2;
    for (int64_t k = 0; k < n; ++k) {
      T* row = out + k * width;
      const int64_t offset = taps.offset[k];
      const Int* mask =
          mask_.empty() ? nullptr : &mask_[taps.tap[k] * width];
      // A run's last vector may reach beyond the input.
      if (scalar || low_ + offset < 0 ||
          high_ + offset + lanes<T>() > total) {
        for (int64_t l = 0; l < count; ++l)
          row[l] = !mask || mask[l] ? x[windows[l].base + offset] : T(0);
        continue;
      }
      for (const Run& r : runs_) {
        const T* from = x + windows[r.first].base + offset;
        for (int64_t i = 0; i < r.count; i += lanes<T>())
          store<T>(row + r.first + i, load<T>(from + i));
      }
      for (int64_t i = 0; mask && i < width; i += lanes<T>()) {
        VecI<T> m;
        std::memcpy(&m, mask + i, kBytes);
        store<T>(row + i, (Vec<T>)((VecI<T>)load<T>(row + i) & m));
      }
    }
  }

  void find_padding() {
    mask_.resize(s_.area() * width);
    for (int64_t i = 0, t = 0; i < s_.kernel_h; ++i)
      for (int64_t j = 0; j < s_.kernel_w; ++j, ++t)
        for (int64_t l = 0; l < count; ++l)
          mask_[t * width + l] =
              -(Int)windows[l].has(s_, i * s_.dilation_h, j * s_.dilation_w);
  }

  // Vectors, not images: blocks of a cache line of cells.
  void transpose(const T* x, const Taps& taps, T* out) const {
    const int64_t n = taps.offset.size();
    constexpr int64_t step = 64 / sizeof(T);
    for (int64_t k0 = 0; k0 < n; k0 += step) {
      const int64_t k1 = std::min(k0 + step, n);
      for (int64_t l = 0; l < count; ++l) {
        const T* from = x + windows[l].base + taps.offset[0];
        for (int64_t k = k0; k < k1; ++k) out[k * width + l] = from[k];
      }
    }
  }
};

// Windows as rows: cell k of window m at [m][k].
template <class T>
void copy_rows(const Shape& s, const T* x, const Taps& taps,
               const std::vector<Window>& windows, int64_t count,
               int64_t width, T* out) {
  const int64_t n = taps.offset.size();
  const bool vectors = s.vectors();
  for (int64_t l = 0; l < count; ++l) {
    T* row = out + l * width;
    const Window& v = windows[l];
    if (vectors) {
      std::memcpy(row, x + v.base + taps.offset[0], n * sizeof(T));
    } else if (v.inside) {
      for (int64_t k = 0; k < n; ++k) row[k] = x[v.base + taps.offset[k]];
    } else {
      for (int64_t k = 0; k < n; ++k)
        row[k] = v.has(s, taps.h[k], taps.w[k]) ? x[v.base + taps.offset[k]]
                                                : T(0);
    }
    std::fill(row + n, row + width, T(0));
  }
}

// Adds rows to the pixels that copy_rows took them from.
template <class T>
void add_rows(const Shape& s, T* x, const Taps& taps,
              const std::vector<Window>& windows, int64_t count, int64_t width,
              const T* rows) {
  const int64_t n = taps.offset.size();
  for (int64_t l = 0; l < count; ++l) {
    const T* row = rows + l * width;
    const Window& v = windows[l];
    if (v.inside) {
      for (int64_t k = 0; k < n; ++k) x[v.base + taps.offset[k]] += row[k];
    } else {
      for (int64_t k = 0; k < n; ++k)
        if (v.has(s, taps.h[k], taps.w[k])) x[v.base + taps.offset[k]] += row[k];
    }
  }
}

}  // namespace lp
