// Finds races whatever the schedule: kernels compiled with -fsanitize=thread tell of each access here, to a runtime of
// our own. Two threads may touch a byte, one of them writing, only with a barrier between. Shared memory that is read
// before any write is found too. Accesses by atomics are left out.
#ifdef SIMT_RACES
#include "races.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace simt {
namespace {

struct Access {
  Moment moment;
  const void* from = nullptr;  // the address of the instruction
};

struct Byte {
  Access write, reads[2];  // two threads that read last
};

struct Region {
  uintptr_t begin, end;
  bool shared;
  std::vector<Byte> bytes;
};

std::vector<Region> regions;
bool off;  // inside an atomic, and in here

bool ordered(const Moment& a, const Moment& b) {
  if (a.launch != b.launch || a.thread == b.thread || a.grid_step != b.grid_step) return true;
  return (a.cluster == b.cluster && a.cluster_step != b.cluster_step) ||
         (a.block == b.block && a.block_step != b.block_step) || (a.warp == b.warp && a.warp_step != b.warp_step);
}

// The source line of an instruction, by binutils; the address where they are missing.
std::string line_of(const void* from) {
  char command[96], text[512] = "";
  std::snprintf(command, sizeof command, "addr2line -e /proc/%d/exe %p 2>/dev/null", process(), from);
  if (FILE* pipe = popen(command, "r")) {
    if (!std::fgets(text, sizeof text, pipe)) text[0] = '\0';
    pclose(pipe);
  }
  std::string line = text[0] ? stem(text) : "?";
  return line.substr(0, line.find_first_of(" \n"));
}

[[noreturn]] void report(const char* before, const Access& a, const char* after, const Access& b,
                         const Region& region) {
  fail("race in %s memory: thread %d of block %d %s at %s, thread %d of block %d %s at %s, no barrier between",
       region.shared ? "shared" : "global", a.moment.thread, a.moment.block, before, line_of(a.from).c_str(),
       b.moment.thread, b.moment.block, after, line_of(b.from).c_str());
}

void note(Byte& byte, const Access& now, bool writes, const Region& region) {
  if (!ordered(byte.write.moment, now.moment)) report("wrote", byte.write, writes ? "wrote" : "read", now, region);
  if (writes) {
    for (const Access& read : byte.reads)
      if (!ordered(read.moment, now.moment)) report("read", read, "wrote", now, region);
    byte.write = now;
    return;
  }
  if (region.shared && byte.write.moment.launch != now.moment.launch)
    fail("thread %d of block %d reads shared memory at %s that was never written", now.moment.thread, now.moment.block,
         line_of(now.from).c_str());
  if (byte.reads[0].moment.thread != now.moment.thread) byte.reads[1] = byte.reads[0];
  byte.reads[0] = now;
}

void access(const void* at, size_t size, bool writes, const void* from) {
  if (off || !running()) return;
  const auto address = reinterpret_cast<uintptr_t>(at);
  for (Region& region : regions) {
    if (address - region.begin >= region.end - region.begin) continue;
    const Access now{moment(), from};
    const size_t first = address - region.begin, end = std::min(first + size, region.bytes.size());
    for (size_t i = first; i < end; ++i) note(region.bytes[i], now, writes, region);
    return;
  }
}

}  // namespace

void watch(const void* at, size_t size, bool shared) {
  forget(at);
  const auto begin = reinterpret_cast<uintptr_t>(at);
  regions.push_back({begin, begin + size, shared, std::vector<Byte>(size)});
}

void forget(const void* at) {
  for (size_t i = regions.size(); i-- > 0;)
    if (regions[i].begin == reinterpret_cast<uintptr_t>(at)) regions.erase(regions.begin() + long(i));
}

Unwatched::Unwatched() { off = true; }
Unwatched::~Unwatched() { off = false; }

}  // namespace simt

#define HOOK(name, size, writes) \
  extern "C" void __tsan_##name(const void* at) { simt::access(at, size, writes, __builtin_return_address(0)); }
HOOK(read1, 1, false)
HOOK(read2, 2, false)
HOOK(read4, 4, false)
HOOK(read8, 8, false)
HOOK(read16, 16, false)
HOOK(write1, 1, true)
HOOK(write2, 2, true)
HOOK(write4, 4, true)
HOOK(write8, 8, true)
HOOK(write16, 16, true)
#undef HOOK
extern "C" void __tsan_read_range(const void* at, size_t size) {
  simt::access(at, size, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(const void* at, size_t size) {
  simt::access(at, size, true, __builtin_return_address(0));
}
extern "C" unsigned char __tsan_atomic8_load(const unsigned char* at, int) {
  return *at;
}  // guards of static variables
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(const void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(const void*, const void*) {}
extern "C" void __tsan_vptr_read(const void*) {}
#endif
