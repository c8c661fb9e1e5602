// The harness on the emulator: memory whose every byte beyond the last is out of bounds.
#pragma once
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "cuda_runtime.h"
#include "races.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

namespace simt {

// The caller's; a launch on any other is an error.
inline cudaStream_t stream() {
  static int object;
  return reinterpret_cast<cudaStream_t>(&object);
}

// Global memory as cudaMalloc gives it, or `shift` bytes further; ASan's red zones begin at the very last byte. A huge
// block is address space that costs memory only where it is touched; behind its last byte no access is allowed either.
class Memory {
 public:
  Memory(const char* first, size_t size, size_t shift, bool huge) {
    if (huge) {
      mapped_ = (size + kPage - 1) / kPage * kPage + kPage;
      void* at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (at == MAP_FAILED) fail("no address space for a huge buffer");
      base_ = static_cast<char*>(at);
      if (mprotect(base_ + mapped_ - kPage, kPage, PROT_NONE) != 0) fail("no guard behind a huge buffer");
      at_ = base_ + mapped_ - kPage - size;
    } else {
      base_ = static_cast<char*>(std::malloc(shift + size));
      at_ = base_ + shift;
      std::memcpy(at_, first, size);
      ASAN_POISON_MEMORY_REGION(base_, shift);
      watch(at_, size, false);
    }
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    forget(at_);
    mapped_ ? void(munmap(base_, mapped_)) : std::free(base_);
  }
  void* at() const { return at_; }
  void read(char* to, size_t from, size_t size) const { std::memcpy(to, at_ + from, size); }

 private:
  static constexpr size_t kPage = 4096;
  size_t mapped_ = 0;
  char *base_, *at_;
};

inline void prepare_call(int inject, int only_block) {
  runtime.inject = cudaError_t(inject);
  runtime.stream = stream();
  runtime.launches = 0;
  options.only_block = only_block;
}
inline void choose_schedule(uint64_t seed) { options.seed = seed; }
inline void allow_clusters(int clusters) { runtime.clusters = clusters; }
inline int launches() { return runtime.launches; }
inline void finish() {}

}  // namespace simt
