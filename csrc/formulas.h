// Every scalar formula of fastgan, once, for host and device. A formula is a type with `value`, `derivative` and
// `second_derivative`: forward, backward and double backward. Loops (csrc/cpu) and kernels (csrc/cuda) are skeletons
// templated on it.
//
// Single precision uses the branch-free exp and log below, so that compilers vectorise the loops and every device
// computes by the same steps (where it fuses multiply and add, the last bit may differ); double precision uses the C
// library. No -ffast-math: infinities and NaN are part of the contract.
#pragma once
#include <cmath>

#include "schema.h"

#ifdef __CUDACC__
#define FASTGAN_HD __host__ __device__ __forceinline__
#define FASTGAN_CALLS_BACK \
  _Pragma("nv_exec_check_disable")              // a host-only call is allowed where the caller runs on the host
#define FASTGAN_CALLED __device__ __noinline__  // with all inlined, kernels would compile for minutes
#else
#define FASTGAN_HD inline __attribute__((always_inline))
#define FASTGAN_CALLS_BACK
#define FASTGAN_CALLED
#endif

// The same source is compiled once per instruction set; the namespace keeps the linker from mixing the copies.
#ifndef FASTGAN_ISA
#define FASTGAN_ISA baseline
#endif

namespace fastgan {
inline namespace FASTGAN_ISA {

// ---------------------------------------------------------------- elementary functions

FASTGAN_HD unsigned bits_of(float x) {
  unsigned u;
  __builtin_memcpy(&u, &x, sizeof u);
  return u;
}

FASTGAN_HD float float_of(unsigned u) {
  float x;
  __builtin_memcpy(&x, &u, sizeof x);
  return x;
}

FASTGAN_HD float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
FASTGAN_HD double magnitude(double x) { return std::fabs(x); }

template <class T>
FASTGAN_HD T infinity() {
  return T(__builtin_huge_val());
}

// a * b + c, rounded once where the processor has an instruction for that. A compiler fuses a product with a sum. In a
// sum of two products it may fuse either one, and g++ from version 14 on chooses anew for the vectors and for the
// remainder of a loop. Bits would then depend on an element's position, and so on the number of threads. A sum of two
// products must therefore say which one is fused.
template <class T>
FASTGAN_HD T fused(T a, T b, T c) {
#if defined(__CUDA_ARCH__) || defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// max(x, 0) that lets NaN through: no comparison with NaN holds, so the `else` branch must be x.
template <class T>
FASTGAN_HD T positive_part(T x) {
  return x < T(0) ? T(0) : x;
}

// exp(x) = 2^n exp(r) with |r| = |x - n log 2| <= log(2)/2 and exp(r) = 1 + r + tail: the caller adds the two, because
// it may add other terms before the one rounding.
struct Exponential {
  float r, tail;
  unsigned n;  // two's complement, -151 .. 129

  FASTGAN_HD static Exponential reduce(float x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float high = x - n * 0.693145751953125f;  // few bits of log 2, so that n times them is exact
    float low = n * 1.42860682e-6f;
    float r = high - low;
    float q = 0x1.6d117cp-10f;
    q = q * r + 0x1.120be2p-7f;
    q = q * r + 0x1.555518p-5f;
    q = q * r + 0x1.5554dcp-3f;
    q = q * r + 0.5f;
    return {r, r * r * q + ((high - r) - low), bits_of(shifted) - bits_of(magic)};
  }
};

FASTGAN_HD float power_of_two(int n) { return float_of(unsigned(n + 127) << 23); }  // -126 <= n <= 127

// exp(x) for x <= 89.
FASTGAN_HD float exp_bounded(float x) {
  x = x < -104.5f ? -104.5f : x;  // exp is 0 below; NaN passes the comparison
  Exponential e = Exponential::reduce(x);
  int n = int(e.n), half = n >> 1;  // two steps, so that subnormal results are rounded once
  float sum = 1.0f + e.r, lost = (1.0f - sum) + e.r;
  return (sum + (lost + e.tail)) * power_of_two(half) * power_of_two(n - half);
}

FASTGAN_HD float exp(float x) { return exp_bounded(x > 89.0f ? 89.0f : x); }  // infinite from there on

// exp(x) - 1 for x <= 0, without cancellation near 0.
FASTGAN_HD float expm1_negative(float x) {
  x = x < -80.0f ? -80.0f : x;
  Exponential e = Exponential::reduce(x);
  float scale = power_of_two(int(e.n));
  return scale * (e.r + e.tail) + (scale - 1.0f);
}

// log(1 + f) = f - (f^2/2 - s (f^2/2 + R(s^2))) with s = f / (2 + f), for |s| <= 1/3. The correction, s times `factor`,
// is small against f, so its rounding hardly shows (the form of fdlibm, with R refitted to this wider interval).
struct Logarithm {
  float f, half, s, factor;  // half: f / 2

  FASTGAN_HD static Logarithm of_one_plus(float f) {
    float s = f / (2.0f + f), z = s * s, half = 0.5f * f;
    float r = 0x1.dba25ep-3f;
    r = r * z + 0x1.bc8cf8p-3f;
    r = r * z + 0x1.24c926p-2f;
    r = r * z + 0x1.9998d4p-2f;
    r = r * z + 0x1.555556p-1f;
    return {f, half, s, fused(half, f, r * z)};
  }
};

// log(1 + e) for 0 <= e <= 1.
FASTGAN_HD float log1p_unit(float e) {
  Logarithm l = Logarithm::of_one_plus(e);
  return l.f + fused(-l.half, l.f, l.s * l.factor);
}

FASTGAN_HD float log(float x) {
  bool tiny = x < 1.17549435e-38f;  // subnormal: scaled to normal
  float scaled = tiny ? x * 33554432.0f : x;
  unsigned u = bits_of(scaled) + (0x3f800000u - 0x3f3504f3u);  // mantissa into [sqrt(1/2), sqrt(2))
  float k = float(int(u >> 23) - 127) - (tiny ? 25.0f : 0.0f);
  Logarithm l = Logarithm::of_one_plus(float_of((u & 0x007fffffu) + 0x3f3504f3u) - 1.0f);
  float small = fused(-l.half, l.f, fused(k, 9.05800061e-6f, l.s * l.factor));
  float result = fused(k, 0.693138123f, small + l.f);
  result = x == infinity<float>() ? x : result;
  result = x == 0.0f ? -infinity<float>() : result;
  return x >= 0.0f ? result : x - x + float_of(0x7fc00000u);  // NaN for negative x and NaN
}

FASTGAN_HD double exp(double x) { return std::exp(x); }
FASTGAN_HD double exp_bounded(double x) { return std::exp(x); }
FASTGAN_HD double log(double x) { return std::log(x); }
FASTGAN_HD double log1p_unit(double e) { return std::log1p(e); }
FASTGAN_HD double expm1_negative(double x) { return std::expm1(x); }

// log(1 - p) for 0 <= p <= 1: the rounding error of 1 - p is corrected.
FASTGAN_HD float log_complement(float p) {
  float u = 1.0f - p, lost = (1.0f - u) - p;
  return u > 0.0f ? log(u) + lost / u : log(u);
}
FASTGAN_HD double log_complement(double p) { return std::log1p(-p); }

// cos and sin of 2 pi v for 0 <= v <= 1: the quarter is removed from v, exactly, before pi enters.
FASTGAN_HD void cos_sin_turns(float v, float& cosine, float& sine) {
  float quarter = float(int(4.0f * v + 0.5f));
  float r = v - 0.25f * quarter;
  float t = fused(r, 6.28318548f, r * -1.74845553e-7f), z = t * t;
  float s = t + t * z * ((-0x1.9ac9b0p-13f * z + 0x1.110c28p-7f) * z - 0x1.555552p-3f);
  float c = 1.0f + z * (((0x1.9bd89cp-16f * z - 0x1.6c12d2p-10f) * z + 0x1.555554p-5f) * z - 0.5f);
  int q = int(quarter) & 3;
  float a = (q & 1) ? s : c, b = (q & 1) ? c : s;
  cosine = (q == 1 || q == 2) ? -a : a;
  sine = q >= 2 ? -b : b;
}
FASTGAN_HD void cos_sin_turns(double v, double& cosine, double& sine) {
  const double two_pi = 6.283185307179586476925287;
  cosine = std::cos(two_pi * v);
  sine = std::sin(two_pi * v);
}

// ---------------------------------------------------------------- the logistic family

// 1 / (1 + e) or e / (1 + e) with e = exp(-|x|). The rounding error of 1 + e is corrected to first order. Without the
// correction the result is off by up to 2.4 units in the last place, with it by less than 2.
template <class T>
FASTGAN_HD T sigmoid(T x) {
  T e = exp_bounded(-magnitude(x)), d = T(1) + e, lost = (T(1) - d) + e;
  bool negative = x < T(0);
  T q = (negative ? e : T(1)) / d;
  return q - q * (negative ? T(1) - q : q) * lost;
}

template <class T>
FASTGAN_HD T softplus(T x) {
  return positive_part(x) + log1p_unit(exp_bounded(-magnitude(x)));
}

template <class T>
FASTGAN_HD T logistic_second_derivative(T x) {
  T e = exp_bounded(-magnitude(x)), d = T(1) + e;
  return e / (d * d);
}

// ---------------------------------------------------------------- losses of one logit l; t is the target, where there
// is one

struct NonSaturating {  // -log D, D = sigmoid(l): the generator's loss and the real half of the discriminator's
  template <class T> FASTGAN_HD static T value(T l, T) { return softplus(-l); }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return -sigmoid(-l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return logistic_second_derivative(l); }
};

struct Fake {  // -log(1 - D): the fake half of the discriminator's loss
  template <class T> FASTGAN_HD static T value(T l, T) { return softplus(l); }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return sigmoid(l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return logistic_second_derivative(l); }
};

struct Minimax {  // log(1 - D): the generator's side of the minimax game
  template <class T> FASTGAN_HD static T value(T l, T) { return -softplus(l); }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return -sigmoid(l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return -logistic_second_derivative(l); }
};

struct MaximumLikelihood {  // -exp(l) / 2; held at 88 (709 in double), so that it and a mean of it stay finite
  template <class T> FASTGAN_HD static T value(T l, T) {
    const T limit = sizeof(T) == 8 ? T(709) : T(88);
    return T(-0.5) * exp(l > limit ? limit : l);
  }
  template <class T> FASTGAN_HD static T derivative(T l, T t) { return value(l, t); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T t) { return value(l, t); }
};

struct SoftTarget {  // -t log D - (1 - t) log(1 - D), 0 <= t <= 1
  template <class T> FASTGAN_HD static T value(T l, T t) {
    T weight = l < T(0) ? t : T(1) - t;
    T factor = weight == T(0) ? T(0) : magnitude(l);  // 0 * infinity would be NaN
    return fused(weight, factor, log1p_unit(exp_bounded(-magnitude(l))));
  }
  template <class T> FASTGAN_HD static T derivative(T l,
                                                    T t) {  // sigmoid(l) - t, from the side on which sigmoid is small
    T s = sigmoid(-magnitude(l));
    return l < T(0) ? s - t : (T(1) - t) - s;
  }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return logistic_second_derivative(l); }
};

// c wherever l is a number, NaN where it is not.
template <class T>
FASTGAN_HD T constant(T c, T l) {
  return l == l ? c : l;
}

struct HingeReal {  // max(0, 1 - l)
  template <class T> FASTGAN_HD static T value(T l, T) { return positive_part(T(1) - l); }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return l >= T(1) ? T(0) : constant(T(-1), l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return constant(T(0), l); }
};

struct HingeFake {  // max(0, 1 + l)
  template <class T> FASTGAN_HD static T value(T l, T) { return positive_part(T(1) + l); }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return l <= T(-1) ? T(0) : constant(T(1), l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return constant(T(0), l); }
};

struct LeastSquares {  // (l - t)^2 / 2
  template <class T> FASTGAN_HD static T value(T l, T t) { return T(0.5) * (l - t) * (l - t); }
  template <class T> FASTGAN_HD static T derivative(T l, T t) { return l - t; }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return constant(T(1), l); }
};

struct WassersteinReal {  // -l
  template <class T> FASTGAN_HD static T value(T l, T) { return -l; }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return constant(T(-1), l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return constant(T(0), l); }
};

struct WassersteinFake {  // l
  template <class T> FASTGAN_HD static T value(T l, T) { return l; }
  template <class T> FASTGAN_HD static T derivative(T l, T) { return constant(T(1), l); }
  template <class T> FASTGAN_HD static T second_derivative(T l, T) { return constant(T(0), l); }
};

// Losses of a probability p in [0, 1] (NaN outside), for networks that kept their sigmoid. t is the smallest
// probability that counts as positive: below it, value and derivative are those at t; for t = 0 they are infinite at p
// = 0.
template <class T>
FASTGAN_HD T at_least(T p, T least) {
  return p < least ? least : p;
}
template <class T>
FASTGAN_HD T probability_or_nan(T p) {
  return (p < T(0) || p > T(1)) ? infinity<T>() * T(0) : p;
}

struct ProbabilityReal {  // -log p
  template <class T> FASTGAN_HD static T value(T p, T t) { return -log(at_least(probability_or_nan(p), t)); }
  template <class T> FASTGAN_HD static T derivative(T p, T t) { return T(-1) / at_least(probability_or_nan(p), t); }
  template <class T> FASTGAN_HD static T second_derivative(T p, T t) {
    T r = T(1) / at_least(probability_or_nan(p), t);  // squared afterwards: q * q would lose bits where it is subnormal
    return r * r;
  }
};

struct ProbabilityFake {  // -log(1 - p)
  template <class T> FASTGAN_HD static T value(T p, T t) {
    p = probability_or_nan(p);
    return T(1) - p < t ? -log(t) : -log_complement(p);
  }
  template <class T> FASTGAN_HD static T derivative(T p, T t) {
    return T(1) / at_least(T(1) - probability_or_nan(p), t);
  }
  template <class T> FASTGAN_HD static T second_derivative(T p, T t) {
    T r = T(1) / at_least(T(1) - probability_or_nan(p), t);
    return r * r;
  }
};

// Their names in fastgan/reference.py, in the order of their numbers.
FASTGAN_ENUM(enum class, Formula, non_saturating, fake, minimax, mle, soft_target, hinge_real, hinge_fake,
             least_squares, wasserstein_real, wasserstein_fake, probability_real, probability_fake)

// Calls f with the type of the formula of this number.
FASTGAN_CALLS_BACK
template <class Function>
FASTGAN_HD constexpr bool with_formula(int number, Function&& f) {
  switch (Formula(number)) {
    case Formula::non_saturating: f(NonSaturating{}); return true;
    case Formula::fake: f(Fake{}); return true;
    case Formula::minimax: f(Minimax{}); return true;
    case Formula::mle: f(MaximumLikelihood{}); return true;
    case Formula::soft_target: f(SoftTarget{}); return true;
    case Formula::hinge_real: f(HingeReal{}); return true;
    case Formula::hinge_fake: f(HingeFake{}); return true;
    case Formula::least_squares: f(LeastSquares{}); return true;
    case Formula::wasserstein_real: f(WassersteinReal{}); return true;
    case Formula::wasserstein_fake: f(WassersteinFake{}); return true;
    case Formula::probability_real: f(ProbabilityReal{}); return true;
    case Formula::probability_fake: f(ProbabilityFake{}); return true;
  }
  return false;
}

// ---------------------------------------------------------------- activations: y = value(x), derivative and second
// derivative from y or x `from_output` says which of both backward keeps: the output where they can be had from it,
// else the input. `has_second_derivative` says whether there is a second derivative at all.

struct Identity {
  static constexpr bool from_output = true, has_second_derivative = false;
  template <class T> FASTGAN_HD static T value(T x, T) { return x; }
  template <class T> FASTGAN_HD static T derivative(T, T) { return T(1); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return constant(T(0), y); }
};

struct Relu {
  static constexpr bool from_output = true, has_second_derivative = false;
  template <class T> FASTGAN_HD static T value(T x, T) { return positive_part(x); }
  template <class T> FASTGAN_HD static T derivative(T y, T) { return y <= T(0) ? T(0) : T(1); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return constant(T(0), y); }
};

struct LeakyRelu {  // a > 0, so the output has the input's sign
  static constexpr bool from_output = true, has_second_derivative = false;
  template <class T> FASTGAN_HD static T value(T x, T a) { return x <= T(0) ? a * x : x; }
  template <class T> FASTGAN_HD static T derivative(T y, T a) { return y <= T(0) ? a : T(1); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return constant(T(0), y); }
};

struct Tanh {
  static constexpr bool from_output = true, has_second_derivative = true;
  template <class T> FASTGAN_HD static T value(T x, T) {
    T t = expm1_negative(T(-2) * magnitude(x));
    T y = -t / (T(2) + t);
    return x < T(0) ? -y : y;
  }
  template <class T> FASTGAN_HD static T derivative(T y, T) { return (T(1) - y) * (T(1) + y); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return T(-2) * y * (T(1) - y) * (T(1) + y); }
};

struct Sigmoid {
  static constexpr bool from_output = true, has_second_derivative = true;
  template <class T> FASTGAN_HD static T value(T x, T) { return sigmoid(x); }
  template <class T> FASTGAN_HD static T derivative(T y, T) { return y * (T(1) - y); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return y * (T(1) - y) * (T(1) - T(2) * y); }
};

struct Elu {  // alpha = 1
  static constexpr bool from_output = true, has_second_derivative = true;
  template <class T> FASTGAN_HD static T value(T x, T) { return x <= T(0) ? expm1_negative(x) : x; }
  template <class T> FASTGAN_HD static T derivative(T y, T) { return y <= T(0) ? y + T(1) : T(1); }
  template <class T> FASTGAN_HD static T second_derivative(T y, T) { return y <= T(0) ? y + T(1) : constant(T(0), y); }
};

struct Softplus {
  static constexpr bool from_output = false, has_second_derivative = true;
  template <class T> FASTGAN_HD static T value(T x, T) { return softplus(x); }
  template <class T> FASTGAN_HD static T derivative(T x, T) { return sigmoid(x); }
  template <class T> FASTGAN_HD static T second_derivative(T x, T) { return logistic_second_derivative(x); }
};

struct Gelu {  // x Phi(x), the exact form
  static constexpr bool from_output = false, has_second_derivative = true;
  template <class T> FASTGAN_HD static T value(T x, T) { return x * normal_cdf(x); }
  template <class T> FASTGAN_HD static T derivative(T x, T) {
    const T inverse_sqrt_two_pi = T(0.398942280401432677940);
    return normal_cdf(x) + x * inverse_sqrt_two_pi * exp(T(-0.5) * x * x);
  }
  template <class T> FASTGAN_HD static T second_derivative(T x, T) {
    const T inverse_sqrt_two_pi = T(0.398942280401432677940), square = x * x;
    const T bounded = square < T(1e4) ? square : T(1e4);  // the exponential is 0 there: 0 * infinity would be NaN
    return inverse_sqrt_two_pi * exp(T(-0.5) * x * x) * (T(2) - bounded);
  }
  template <class T> FASTGAN_HD static T normal_cdf(T x) { return T(0.5) * std::erfc(x * T(-0.707106781186547524401)); }
};

FASTGAN_ENUM(enum class, Activation, none, relu, leaky_relu, tanh, sigmoid, elu, softplus, gelu)

FASTGAN_CALLS_BACK
template <class Function>
FASTGAN_HD bool with_activation(int number, Function&& f) {
  switch (Activation(number)) {
    case Activation::none: f(Identity{}); return true;
    case Activation::relu: f(Relu{}); return true;
    case Activation::leaky_relu: f(LeakyRelu{}); return true;
    case Activation::tanh: f(Tanh{}); return true;
    case Activation::sigmoid: f(Sigmoid{}); return true;
    case Activation::elu: f(Elu{}); return true;
    case Activation::softplus: f(Softplus{}); return true;
    case Activation::gelu: f(Gelu{}); return true;
  }
  return false;
}

// ---------------------------------------------------------------- statistics and bounds

// A number's weight in a softmax, before the division by their sum. Infinite ones share the whole.
template <class T>
FASTGAN_HD T softmax_weight(T x, T largest, T inverse_temperature) {
  return exp(x == largest ? T(0) : (x - largest) * inverse_temperature);
}

// The gradient of a number before a softmax, from that of its share. mean: of all gradients, weighted by the shares.
template <class T>
FASTGAN_HD T softmax_backward(T share, T grad, T mean, T inverse_temperature) {
  return share * (grad - mean) * inverse_temperature;
}

// -log of the share that softmax_weight(x, largest, 1) has in a sum of such weights.
template <class T>
FASTGAN_HD T softmax_entropy(T x, T largest, T sum) {
  return largest - x + log(sum);
}

// Its derivative by a number whose weight this is; `own`: by x.
template <class T>
FASTGAN_HD T softmax_entropy_derivative(T weight, T sum, bool own) {
  return weight / sum - T(own);
}

// The larger one; NaN if one of them is.
template <class T>
FASTGAN_HD T larger(T x, T y) {
  return x > y || x != x ? x : y;
}

// A running statistic of batch normalisation after one more batch.
template <class T>
FASTGAN_HD T running(T before, T of_batch, T momentum) {
  return fused(T(1) - momentum, before, momentum * of_batch);
}

// The running variance averages the unbiased one.
template <class T>
FASTGAN_HD T unbiased(T variance, T rows) {
  return variance * rows / (rows - T(1));
}

// The factor that scales weights, whose squares add up to `square`, down to the norm `limit`; 1 where they are within
// it (or NaN).
FASTGAN_HD double bounding(double square, double limit) {
  return square > limit * limit ? limit / std::sqrt(square) : 1.0;
}

}  // namespace FASTGAN_ISA
}  // namespace fastgan
