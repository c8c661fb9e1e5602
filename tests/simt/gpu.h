// The harness on a real GPU: what serve.cpp wants of the emulator, by CUDA itself. The same calls then run on both.
#pragma once
#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace simt {

[[noreturn]] inline void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("gpu: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  std::fflush(stderr);
  std::_Exit(66);
}

inline void must(cudaError_t status) {
  if (status != cudaSuccess) fail("%s", cudaGetErrorString(status));
}

// Device memory with the bytes given, `shift` beyond an aligned address; huge: so many zeros.
class Memory {
 public:
  Memory(const char* first, size_t size, size_t shift, bool huge) : size_(size) {
    if (size + shift == 0) return;
    must(cudaMalloc(&base_, size + shift));
    at_ = base_ + shift;
    must(huge ? cudaMemset(at_, 0, size) : cudaMemcpy(at_, first, size, cudaMemcpyHostToDevice));
  }
  Memory(const Memory&) = delete;
  ~Memory() { cudaFree(base_); }
  void* at() const { return at_; }
  void read(char* to, size_t from, size_t size) const {
    if (size) must(cudaMemcpy(to, at_ + from, size, cudaMemcpyDeviceToHost));
  }

 private:
  size_t size_;
  char *base_ = nullptr, *at_ = nullptr;
};

// What only the emulator can do.
inline void prepare_call(int inject, int) {
  if (inject) throw std::runtime_error("no error can be injected into a GPU");
}
inline void choose_schedule(uint64_t) {}
inline void allow_clusters(int) {}
inline int launches() { return 0; }

inline cudaStream_t stream() {
  static cudaStream_t own = [] {
    cudaStream_t made;
    must(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
    return made;
  }();
  return own;
}
inline void finish() { must(cudaStreamSynchronize(stream())); }

}  // namespace simt
