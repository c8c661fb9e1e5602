// The machine the emulated kernels run on: every thread of a block is a fibre, and a seed decides which one runs next.
// A fibre runs until it waits (barrier, shuffle, vote) or gives way (atomics); what waits for ever is reported with its
// place.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace simt {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Extent {
  unsigned x, y, z;
  constexpr Extent(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr int64_t count() const { return int64_t(x) * y * z; }
};

// Where in the kernel's source something was called: the last parameters of such functions, which the compiler fills
// in.
struct Place {
  const char* file;
  int line;
};
#define SIMT_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

const char* stem(const char* path);

struct Launch {
  Extent grid, block, cluster;
  size_t dynamic_shared = 0;
  bool cooperative = false;
  std::function<void()> body;
};

// What the test wants of the next launches.
struct Options {
  uint64_t seed = 0;
  int64_t only_block = -1;  // run this one alone, where a launch has it; -1: all
};
extern Options options;

constexpr size_t kStaticShared = 48 << 10, kShared = 227 << 10;  // bytes a block may have, as on Hopper

// The position of the running thread; set whenever another one takes over.
extern Index threadIdx, blockIdx;
extern Extent blockDim, gridDim;

void run(const Launch& launch);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void give_way();  // perhaps another thread goes first

bool fault_is(int number);  // whether this one of several planted faults is on (SIMT_FAULT)

enum class Scope { block, cluster, grid };
void barrier(Scope scope, Place place);

// All lanes of `mask` hand in a value; each gets what all handed in. Eight bytes a lane.
struct Lanes {
  uint64_t at[32];
  unsigned mask;
};
const Lanes& exchange(unsigned mask, uint64_t value, const char* operation, Place place);
int lane();

// Shared memory of the running block: `id` names an object, the same in every block, between red zones.
void* shared(int id, size_t size, size_t alignment);
void* dynamic_shared();
int next_shared_id();
int cluster_rank();
int cluster_size();
void* map_shared_rank(void* object, int rank);

template <class T, class Tag>
T& shared_object(Tag) {
  static const int id = next_shared_id();
  return *static_cast<T*>(shared(id, sizeof(T), alignof(T)));
}

}  // namespace simt
