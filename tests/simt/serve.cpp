// Serves calls of the emulated kernels over a pipe: the test sends a name and arguments, each call is run under several
// schedules, which must agree to the bit, and the buffers go back. A violation ends the process with a report on stderr.
//
// Request:  call NAME ARGUMENTS SCHEDULES FIRST_SEED INJECT BLOCK\n, then a line an argument:
//           i INTEGER | d NUMBER | s (the stream) | b BYTES SHIFT, then those bytes | h BYTES: zeros, as many as wanted
//           | r NUMBER: buffer NUMBER again
// Reply:    ok LAUNCHES\n and all buffers in order (of the h kind the end) | error MESSAGE\n (the kernels threw)
#include <sys/mman.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

namespace {

constexpr size_t kTail = 64;  // bytes of a huge buffer that are sent back

struct Buffer {
  std::string first, result;  // content before the call, and after it under the first schedule
  size_t shift = 0;           // bytes from an aligned address
  size_t huge = 0;            // bytes of zeros instead
};

struct Request {
  std::string name;
  int schedules = 1, inject = 0, block = -1;
  uint64_t seed = 0;
  std::vector<simt::Argument> arguments;
  std::vector<Buffer> buffers;
};

// Global memory as cudaMalloc gives it, or `shift` bytes further; ASan's red zones begin at the very last byte. A huge buffer is
// address space that costs memory only where it is touched; behind its last byte no access is allowed either.
class Allocation {
 public:
  explicit Allocation(const Buffer& buffer) : size_(buffer.huge ? buffer.huge : buffer.first.size()) {
    if (buffer.huge) {
      mapped_ = (size_ + kPage - 1) / kPage * kPage + kPage;
      void* at = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (at == MAP_FAILED) simt::fail("no address space for a huge buffer");
      base_ = static_cast<char*>(at);
      if (mprotect(base_ + mapped_ - kPage, kPage, PROT_NONE) != 0) simt::fail("no guard behind a huge buffer");
      at_ = base_ + mapped_ - kPage - size_;
    } else {
      base_ = static_cast<char*>(std::malloc(buffer.shift + size_));
      at_ = base_ + buffer.shift;
      std::memcpy(at_, buffer.first.data(), size_);
      simt::watch(at_, size_, false);
      ASAN_POISON_MEMORY_REGION(base_, buffer.shift);
    }
  }
  Allocation(const Allocation&) = delete;
  ~Allocation() {
    simt::forget(at_);
    mapped_ ? void(munmap(base_, mapped_)) : std::free(base_);
  }
  void* at() const { return at_; }
  std::string content() const { return mapped_ ? std::string(at_ + size_ - kTail, kTail) : std::string(at_, size_); }

 private:
  static constexpr size_t kPage = 4096;
  size_t size_, mapped_ = 0;
  char *base_, *at_;
};

bool read_line(std::string& line) {
  line.clear();
  for (int c; (c = std::getchar()) != EOF;) {
    if (c == '\n') return true;
    line.push_back(char(c));
  }
  return false;
}

// Signed, or unsigned up to 2^64 - 1.
int64_t read_integer(const char* text) {
  return *text == '-' ? std::strtoll(text, nullptr, 10) : int64_t(std::strtoull(text, nullptr, 10));
}

Buffer read_buffer(const std::string& line) {
  Buffer buffer;
  char* rest = nullptr;
  const size_t size = std::strtoull(line.c_str() + 2, &rest, 10);
  if (line[0] == 'h') {
    buffer.huge = size;
    return buffer;
  }
  buffer.shift = std::strtoull(rest, nullptr, 10);
  buffer.first.resize(size);
  if (std::fread(buffer.first.data(), 1, size, stdin) != size) simt::fail("a request broke off");
  return buffer;
}

bool read_request(Request& request) {
  std::string line;
  if (!read_line(line)) return false;
  char name[64];
  int count = 0;
  if (std::sscanf(line.c_str(), "call %63s %d %d %" SCNu64 " %d %d", name, &count, &request.schedules,
                  &request.seed, &request.inject, &request.block) != 6)
    simt::fail("not a request: %s", line.c_str());
  request.name = name;
  for (int i = 0; i < count && read_line(line); ++i) {
    simt::Argument argument;
    argument.kind = line[0];
    if (line[0] == 'i') argument.integer = read_integer(line.c_str() + 2);
    if (line[0] == 'd') argument.number = std::strtod(line.c_str() + 2, nullptr);
    if (line[0] == 'r') {
      argument.kind = 'b';
      argument.integer = read_integer(line.c_str() + 2);
    }
    if (line[0] == 'b' || line[0] == 'h') {
      argument.kind = 'b';
      argument.integer = int64_t(request.buffers.size());
      request.buffers.push_back(read_buffer(line));
    }
    request.arguments.push_back(argument);
  }
  return true;
}

// One schedule; leaves the buffers' contents in `results`.
void run_once(const Request& request, std::vector<std::string>& results) {
  std::vector<std::unique_ptr<Allocation>> memory;
  for (const Buffer& b : request.buffers) memory.push_back(std::make_unique<Allocation>(b));
  std::vector<simt::Argument> arguments = request.arguments;
  for (simt::Argument& a : arguments)
    if (a.kind == 'b') a.pointer = memory[size_t(a.integer)]->at();
  simt::Arguments given(arguments);
  simt::call(request.name, given);
  for (const auto& allocation : memory) results.push_back(allocation->content());
}

void serve(Request& request) {
  simt::runtime.inject = cudaError_t(request.inject);
  simt::runtime.stream = simt::stream();
  simt::runtime.launches = 0;
  simt::options.only_block = request.block;
  for (int schedule = 0; schedule < request.schedules; ++schedule) {
    simt::options.seed = request.seed + uint64_t(schedule);
    std::vector<std::string> results;
    run_once(request, results);
    for (size_t i = 0; i < results.size(); ++i) {
      Buffer& buffer = request.buffers[i];
      if (schedule == 0) buffer.result = results[i];
      if (results[i] != buffer.result)
        simt::fail("%s: schedule %d leaves other bits in buffer %zu than schedule 0", request.name.c_str(), schedule, i);
    }
  }
  std::printf("ok %d\n", simt::runtime.launches);
  for (const Buffer& b : request.buffers) std::fwrite(b.result.data(), 1, b.result.size(), stdout);
}

}  // namespace

int main() {
  for (;;) {
    Request request;
    if (!read_request(request)) return 0;
    try {
      serve(request);
    } catch (const std::exception& error) {
      std::printf("error %s\n", error.what());
    }
    std::fflush(stdout);
  }
}
