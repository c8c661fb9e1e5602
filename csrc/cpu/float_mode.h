// Whether a thread computes with subnormal numbers (below 1.2e-38 in float) or flushes them to zero.
//
// Arithmetic with them may be several times slower. Training produces them: if an input is always zero, Adam's first
// moments of its weights decay into that range.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastgan {

// The flush bits of the processor's control register: for results and for operands on x86, one for both on ARM.
struct FloatMode {
  uint64_t flush = 0;

  static FloatMode of_this_thread() { return {read() & kFlush}; }
  void apply() const {
    const uint64_t word = read();
    if ((word & kFlush) != flush) write((word & ~kFlush) | flush);
  }
  static constexpr FloatMode flushing() { return {kFlush}; }
  static constexpr FloatMode exact() { return {}; }

 private:
  // The fences keep the compiler from moving loads and stores, hence the arithmetic between them, across a change.
#if defined(__x86_64__)
  static constexpr uint64_t kFlush = 0x8040;  // flush-to-zero, denormals-are-zero
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t word) {
    asm volatile("" ::: "memory");
    _mm_setcsr(uint32_t(word));
    asm volatile("" ::: "memory");
  }
#elif defined(__aarch64__)
  static constexpr uint64_t kFlush = uint64_t(1) << 24;
  static uint64_t read() {
    uint64_t word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(uint64_t word) { asm volatile("msr fpcr, %0" ::"r"(word) : "memory"); }
#else
  static constexpr uint64_t kFlush = 0;
  static uint64_t read() { return 0; }
  static void write(uint64_t) {}
#endif
};

// This thread's mode for as long as the object lives.
class ScopedFloatMode {
 public:
  explicit ScopedFloatMode(FloatMode mode) : before_(FloatMode::of_this_thread()) { mode.apply(); }
  ~ScopedFloatMode() { before_.apply(); }
  ScopedFloatMode(const ScopedFloatMode&) = delete;
  ScopedFloatMode& operator=(const ScopedFloatMode&) = delete;

 private:
  const FloatMode before_;
};

}  // namespace fastgan
