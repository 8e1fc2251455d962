// Copyright (c) mmext contributors. All rights reserved.
// Entry points of the distance operator, called from cpp_backend.py. They
// take bare pointers to contiguous arrays, so that the library depends
// neither on Python nor on torch.
#include "backward.h"
#include "bounds.h"

#define LP_EXPORT __attribute__((visibility("default")))

#if defined(__AVX512F__)
#define LP_REGISTER(v) "+v"(v)
#elif defined(__AVX__)
#define LP_REGISTER(v) "+x"(v)
#else
#define LP_REGISTER(v) "+m"(v)
#endif

namespace {

using lp::Shape;

// False if a number is infinite or NaN.
template <class T>
bool all_finite(const T* x, int64_t n, int64_t threads) {
  int bad = 0;
#pragma omp parallel for num_threads((int)threads) reduction(| : bad)
  for (int64_t i = 0; i < n; ++i)
    bad |= !(std::abs(x[i]) <= std::numeric_limits<T>::max());
  return !bad;
}

// The instructions that a cell cannot do without, on registers only: what
// the forward pass at p = inf is measured against.
template <class T>
T floor_inf(int64_t cells, int64_t threads) {
  T result = 0;
#pragma omp parallel num_threads((int)threads) reduction(+ : result)
  {
    constexpr int n = lp::kRows * 2;
    lp::Vec<T> acc[n] = {}, a = {}, w = lp::set1<T>(T(1.5));
    const int64_t rounds = cells / threads / (n * lp::lanes<T>());
    for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < n; ++j) {
        asm volatile("" : LP_REGISTER(w));  // or a - w is computed once
        acc[j] = lp::max_abs<T>(acc[j], a - w);
      }
    for (int j = 0; j < n; ++j) result += acc[j][0];
  }
  return result;
}

}  // namespace

extern "C" {

// Shape and this number change together.
LP_EXPORT int lp_abi() { return 1; }

LP_EXPORT int lp_vector_bytes() { return lp::kBytes; }

// Vector instructions per vector of cells of floor_inf.
LP_EXPORT int lp_floor_instructions() { return 1 + lp::kMaxAbsInstructions; }

#define LP_ENTRIES(T, NAME)                                                   \
  LP_EXPORT int lp_all_finite_##NAME(const T* x, int64_t n,                   \
                                     int64_t threads) {                       \
    return all_finite<T>(x, n, threads);                                      \
  }                                                                           \
  LP_EXPORT double lp_floor_inf_##NAME(int64_t cells, int64_t threads) {      \
    return floor_inf<T>(cells, threads);                                      \
  }                                                                           \
  LP_EXPORT void lp_forward_##NAME(const Shape* s, const T* x, const T* w,    \
                                   double p, T* y, int32_t* index) {          \
    lp::forward<T>(*s, x, w, p, y, index);                                    \
  }                                                                           \
  LP_EXPORT void lp_backward_inf_##NAME(const Shape* s, const T* grad,        \
                                        const int32_t* index, T* grad_x,      \
                                        T* grad_w) {                          \
    lp::backward_inf<T>(*s, grad, index, grad_x, grad_w);                     \
  }                                                                           \
  LP_EXPORT void lp_backward_finite_##NAME(                                   \
      const Shape* s, const T* grad, const T* x, const T* w, const T* y,      \
      double p, T* grad_x, T* grad_w) {                                       \
    lp::backward_finite<T>(*s, grad, x, w, y, p, grad_x, grad_w);             \
  }                                                                           \
  LP_EXPORT void lp_bounds_##NAME(const Shape* s, const T* low,               \
                                  const T* high, const T* w, T* lower,        \
                                  T* upper) {                                 \
    lp::for_tasks<T>(*s, lp::BoundsTask<T>{*s, low, high, w, lower, upper});  \
  }

LP_ENTRIES(float, f32)
LP_ENTRIES(double, f64)
}
