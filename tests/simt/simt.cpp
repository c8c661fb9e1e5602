// The scheduler: threads, barriers, exchanges within a warp, shared memory between red zones, and the runtime's small
// change.
#include "simt.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "asan.h"
#include "cuda_runtime.h"
#include "fibres.h"
#include "races.h"

namespace simt {

Options options;
Index threadIdx, blockIdx;
Extent blockDim, gridDim;
Runtime runtime;

bool fault_is(int number) {
  static const char* const on = std::getenv("SIMT_FAULT");
  static const int found = on ? std::atoi(on) : 0;
  return found == number;
}

const char* stem(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("simt: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  std::fflush(stderr);
  std::_Exit(66);
}

namespace {

constexpr size_t kZone = 1024, kArena = 1 << 20;

// ---------------------------------------------------------------- threads, warps, blocks

struct Block;

struct Thread {
  Index position, block;
  Fibre fibre;
  Block* home = nullptr;
  int index = 0;  // in the block
  bool ended = false;
  const char* waits_for = nullptr;
  Place place{"", 0};
  Lanes lanes{};  // what the last exchange brought

  int lane() const { return index % 32; }
};

struct Barrier {
  int64_t expected = 0;
  int passed = 0;
  std::vector<Thread*> waiting;
};

struct Gathering {
  unsigned mask, arrived;
  const char* operation;
  Place place;
  Lanes lanes;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
  int64_t number = 0, live = 0;  // live threads
};

struct Block {
  int64_t number = 0;
  int rank = 0;
  Cluster* cluster = nullptr;
  std::vector<Thread> threads;
  std::vector<std::vector<Gathering>> warps;
  std::vector<int> warp_steps;  // __syncwarp by all lanes
  Barrier barrier;
  int64_t live = 0;
  unsigned char* arena = nullptr;
  std::set<int> unpoisoned;
};

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same(Place a, Place b) { return a.line == b.line && same(a.file, b.file); }

// ---------------------------------------------------------------- one launch

struct Slot {
  size_t offset, size;
};

class Machine {
 public:
  explicit Machine(const Launch& launch);
  ~Machine();
  void go();

  void barrier(Scope scope, Place place);
  const Lanes& exchange(unsigned mask, uint64_t value, const char* operation, Place place);
  void give_way();
  void* shared(int id, size_t size, size_t alignment);
  void* locate(Block& block, int id, const Slot& slot);
  void open_shared(Cluster& cluster);
  void* dynamic_shared() { return locate(*current_->home, -1, slots_.at(-1)); }
  void* map_shared_rank(void* object, int rank);
  Thread& current() { return *current_; }
  Moment moment() const;
  static void enter();

 private:
  void start_cluster(int64_t number);
  void start_block(Block& block, int64_t number);
  void make_ready(Thread& thread, bool gave_way = false);
  void wait(const char* what, Place place);
  void resume(Thread& thread);
  void retire(Thread& thread);
  void report_standstill();

  // (tier, key): threads that gave way come after all others, so that waiting for a flag ends.
  using Entry = std::tuple<uint64_t, uint64_t, Thread*>;

  const Launch& launch_;
  std::mt19937_64 random_;
  int policy_;
  uint64_t clock_ = 0;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<unsigned char*> arenas_, free_arenas_;
  std::map<int, Slot> slots_;
  size_t static_used_ = 0, arena_used_ = kZone;
  Barrier grid_barrier_;
  Fibre scheduler_;
  Thread* current_ = nullptr;
};

Machine* machine;
int launches;  // so far

Machine::Machine(const Launch& launch)
    : launch_(launch), random_(options.seed * 0x9E3779B97F4A7C15u + 1), policy_(int(options.seed % 4)) {
  blockDim = launch.block;
  gridDim = launch.grid;
  grid_barrier_.expected = launch.grid.count() * launch.block.count();
  if (launch.dynamic_shared) {
    slots_[-1] = {arena_used_, launch.dynamic_shared};
    arena_used_ += (launch.dynamic_shared + kZone + 255) / 256 * 256;
  }
}

Machine::~Machine() {
  for (unsigned char* arena : arenas_) {
    for (const auto& [id, slot] : slots_) forget(arena + slot.offset);
    __asan_unpoison_memory_region(arena, kArena);
    std::free(arena);
  }
}

Moment Machine::moment() const {
  const Thread& t = *current_;
  const Block& block = *t.home;
  Moment m;
  m.launch = launches;
  m.thread = int(block.number * launch_.block.count()) + t.index;
  m.warp = int(block.number * int64_t(block.warps.size())) + t.index / 32;
  m.block = int(block.number);
  m.cluster = int(block.cluster->number);
  m.warp_step = block.warp_steps[size_t(t.index / 32)];
  m.block_step = block.barrier.passed;
  m.cluster_step = block.cluster->barrier.passed;
  m.grid_step = grid_barrier_.passed;
  return m;
}

// Blocks start in random order, a few at a time; those of a cluster together, those of a cooperative launch all at
// once.
void Machine::go() {
  const int64_t size = launch_.cluster.count(), count = launch_.grid.count() / size;
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i)
    if (options.only_block < 0 || options.only_block == i) order.push_back(i);
  std::shuffle(order.begin(), order.end(), random_);
  const size_t most = launch_.cooperative ? size_t(count) : 1 + random_() % 4;
  while (!order.empty() || !clusters_.empty()) {
    for (; !order.empty() && clusters_.size() < most; order.pop_back()) start_cluster(order.back());
    if (ready_.empty()) report_standstill();
    Thread& next = *std::get<Thread*>(ready_.top());
    ready_.pop();
    resume(next);
  }
}

void Machine::start_cluster(int64_t number) {
  const int64_t size = launch_.cluster.count();
  clusters_.push_back(std::make_unique<Cluster>());
  Cluster& cluster = *clusters_.back();
  cluster.number = number;
  cluster.live = cluster.barrier.expected = size * launch_.block.count();
  for (int64_t rank = 0; rank < size; ++rank) {
    cluster.blocks.push_back(std::make_unique<Block>());
    Block& block = *cluster.blocks.back();
    block.rank = int(rank);
    block.cluster = &cluster;
    start_block(block, number * size + rank);
  }
}

void Machine::start_block(Block& block, int64_t number) {
  const Extent grid = launch_.grid, extent = launch_.block;
  if (free_arenas_.empty()) {
    arenas_.push_back(static_cast<unsigned char*>(std::aligned_alloc(256, kArena)));
    free_arenas_.push_back(arenas_.back());
  }
  block.arena = free_arenas_.back();
  free_arenas_.pop_back();
  __asan_poison_memory_region(block.arena, kArena);
  block.number = number;
  block.live = block.barrier.expected = extent.count();
  block.warps.resize(size_t(extent.count() + 31) / 32);
  block.warp_steps.resize(block.warps.size());
  block.threads.resize(size_t(extent.count()));
  for (int i = 0; i < int(extent.count()); ++i) {
    Thread& t = block.threads[size_t(i)];
    const auto n = unsigned(number), j = unsigned(i);
    t.position = {j % extent.x, j / extent.x % extent.y, j / extent.x / extent.y};
    t.block = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
    t.home = &block;
    t.index = i;
    t.fibre = make_fibre(enter);
    make_ready(t);
  }
}

// Four ways to choose the next thread: at random, warp by warp, forwards, backwards.
void Machine::make_ready(Thread& thread, bool gave_way) {
  const auto place = uint64_t(thread.home->number) << 10 | uint64_t(thread.index);
  uint64_t dropout_seed = random_();
  if (policy_ == 1)
    dropout_seed = ((place >> 5) * 0x9E3779B97F4A7C15u + options.seed) % 0xFFFFFFFBu << 32 | dropout_seed >> 32;
  if (policy_ == 2) dropout_seed = place;
  if (policy_ == 3) dropout_seed = ~place;
  ready_.emplace(gave_way ? ++clock_ : 0, dropout_seed, &thread);
}

void Machine::resume(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.position;
  blockIdx = thread.block;
  switch_fibre(scheduler_, thread.fibre);
  if (thread.ended) retire(thread);
}

void Machine::enter() {
  Fibre& scheduler = machine->scheduler_;
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.size);
  machine->launch_.body();
  Thread& thread = *machine->current_;
  thread.ended = true;
  switch_fibre(thread.fibre, scheduler, true);
}

void Machine::retire(Thread& thread) {
  free_fibre(thread.fibre);
  Block& block = *thread.home;
  Cluster* cluster = block.cluster;
  if (--block.live == 0 && cluster->blocks.size() == 1) free_arenas_.push_back(block.arena);
  if (block.live == 0) __asan_poison_memory_region(block.arena, kArena);  // others may still hold its addresses
  if (--cluster->live > 0) return;
  if (cluster->blocks.size() > 1)
    for (auto& b : cluster->blocks) free_arenas_.push_back(b->arena);
  clusters_.erase(std::find_if(clusters_.begin(), clusters_.end(), [&](auto& c) { return c.get() == cluster; }));
}

void Machine::wait(const char* what, Place place) {
  Thread& thread = *current_;
  thread.waits_for = what;
  thread.place = place;
  switch_fibre(thread.fibre, scheduler_);
  thread.waits_for = nullptr;
}

void Machine::give_way() {
  if (random_() % 2) return;
  make_ready(*current_, true);
  switch_fibre(current_->fibre, scheduler_);
}

void Machine::barrier(Scope scope, Place place) {
  Block& block = *current_->home;
  if (scope == Scope::grid && !launch_.cooperative)
    fail("grid barrier at %s:%d outside a cooperative launch", stem(place.file), place.line);
  Barrier& b = scope == Scope::block ? block.barrier : scope == Scope::cluster ? block.cluster->barrier : grid_barrier_;
  if (!b.waiting.empty() && !same(b.waiting[0]->place, place))
    fail("barrier: thread %d of block %lld arrives at %s:%d while others of its group wait at %s:%d", current_->index,
         (long long)block.number, stem(place.file), place.line, stem(b.waiting[0]->place.file),
         b.waiting[0]->place.line);
  b.waiting.push_back(current_);
  current_->place = place;
  if (int64_t(b.waiting.size()) == b.expected) {
    for (Thread* thread : b.waiting) make_ready(*thread);
    b.waiting.clear();
    if (scope == Scope::cluster && b.passed == 0) open_shared(*block.cluster);
    ++b.passed;
  }
  wait("a barrier", place);
}

const Lanes& Machine::exchange(unsigned mask, uint64_t value, const char* operation, Place place) {
  Thread& t = *current_;
  auto& gatherings = t.home->warps[size_t(t.index / 32)];
  const size_t first = size_t(t.index / 32 * 32), width = std::min<size_t>(32, t.home->threads.size() - first);
  if (!(mask >> t.lane() & 1u))
    fail("%s at %s:%d: lane %d is not in its own mask", operation, stem(place.file), place.line, t.lane());
  if (width < 32 && mask >> width)
    fail("%s at %s:%d: the mask names lanes the block has not", operation, stem(place.file), place.line);
  auto g = std::find_if(gatherings.begin(), gatherings.end(), [&](const Gathering& x) { return x.mask & mask; });
  if (g == gatherings.end()) {
    gatherings.push_back({mask, 0, operation, place, {{}, mask}});
    g = gatherings.end() - 1;
  } else if (g->mask != mask || !same(g->place, place) || !same(g->operation, operation)) {
    fail("%s at %s:%d with mask %08x while lanes of it wait for %s at %s:%d with mask %08x", operation,
         stem(place.file), place.line, mask, g->operation, stem(g->place.file), g->place.line, g->mask);
  }
  g->arrived |= 1u << t.lane();
  g->lanes.at[t.lane()] = value;
  if (g->arrived == mask) {
    for (size_t i = 0; i < width; ++i)
      if (mask >> i & 1u) {
        t.home->threads[first + i].lanes = g->lanes;
        make_ready(t.home->threads[first + i]);
      }
    if (width == size_t(__builtin_popcount(mask)) && same(operation, "__syncwarp"))
      ++t.home->warp_steps[size_t(t.index / 32)];
    gatherings.erase(g);
  }
  wait(operation, place);
  return t.lanes;
}

// ---------------------------------------------------------------- shared memory

void* Machine::locate(Block& block, int id, const Slot& slot) {
  unsigned char* at = block.arena + slot.offset;
  if (block.unpoisoned.insert(id).second) {
    __asan_unpoison_memory_region(at, slot.size);
    std::memset(at, 0xff, slot.size);  // NaN and -1: what is read before it is written shows
    watch(at, slot.size, true);
  }
  return at;
}

void* Machine::shared(int id, size_t size, size_t alignment) {
  auto found = slots_.find(id);
  if (found == slots_.end()) {
    static_used_ = (static_used_ + alignment - 1) / alignment * alignment + size;
    if (static_used_ > kStaticShared) fail("a block may have %zu bytes of static shared memory", kStaticShared);
    found = slots_.emplace(id, Slot{arena_used_, size}).first;
    arena_used_ += (size + kZone + 255) / 256 * 256;
    if (arena_used_ > kArena) fail("too many shared objects for the emulator");
  }
  return locate(*current_->home, id, found->second);
}

void* Machine::map_shared_rank(void* object, int rank) {
  Block& own = *current_->home;
  const size_t offset = size_t(static_cast<unsigned char*>(object) - own.arena);
  if (offset >= kArena || rank < 0 || size_t(rank) >= own.cluster->blocks.size())
    fail("map_shared_rank: no such block or object");
  Block& other = *own.cluster->blocks[size_t(rank)];
  if (other.live == 0) fail("map_shared_rank: block %d of the cluster has ended", rank);
  for (const auto& [id, slot] : slots_)
    if (own.cluster->barrier.passed > 0 && offset - slot.offset < slot.size) locate(other, id, slot);
  return other.arena + offset;
}

// Once all blocks of a cluster have met, all are known to run; before, what others hold may not be touched.
void Machine::open_shared(Cluster& cluster) {
  for (auto& block : cluster.blocks)
    for (const auto& [id, slot] : slots_) locate(*block, id, slot);
}

// ---------------------------------------------------------------- what never goes on

void Machine::report_standstill() {
  std::map<std::string, std::map<int64_t, int64_t>> groups;  // where -> block -> threads
  for (const auto& cluster : clusters_)
    for (const auto& block : cluster->blocks)
      for (const Thread& t : block->threads) {
        std::string where = "ended";
        if (!t.ended)
          where =
              std::string("wait for ") + t.waits_for + " at " + stem(t.place.file) + ":" + std::to_string(t.place.line);
        ++groups[where][block->number];
      }
  std::string text;
  for (const auto& [where, blocks] : groups)
    for (const auto& [number, count] : blocks) {
      if (text.size() > 600) continue;
      text += "\n  block " + std::to_string(number) + ": " + std::to_string(count) + " of " +
              std::to_string(launch_.block.count()) + " threads " + where;
    }
  fail("no thread can go on; not all threads arrive%s", text.c_str());
}

}  // namespace

// ---------------------------------------------------------------- the face

void run(const Launch& launch) {
  Machine here(launch);
  machine = &here;
  ++launches;
  here.go();
  machine = nullptr;
}

void give_way() { machine->give_way(); }
void barrier(Scope scope, Place place) { machine->barrier(scope, place); }
const Lanes& exchange(unsigned mask, uint64_t value, const char* operation, Place place) {
  return machine->exchange(mask, value, operation, place);
}
bool running() { return machine != nullptr; }
Moment moment() { return machine->moment(); }
int lane() { return machine->current().lane(); }
void* shared(int id, size_t size, size_t alignment) { return machine->shared(id, size, alignment); }
void* dynamic_shared() { return machine->dynamic_shared(); }
int next_shared_id() {
  static int next = 0;
  return next++;
}
int cluster_rank() { return machine->current().home->rank; }
int cluster_size() { return int(machine->current().home->cluster->blocks.size()); }
void* map_shared_rank(void* object, int rank) { return machine->map_shared_rank(object, rank); }

cudaError_t report(cudaError_t status) {
  if (status != cudaSuccess) runtime.last = status;
  return status;
}

static std::map<const void*, int> allowed_dynamic;
void allow_dynamic_shared(const void* kernel, int bytes) { allowed_dynamic[kernel] = bytes; }

static cudaError_t examine(const cudaLaunchConfig_t& config, const void* kernel, Launch& launch) {
  if (runtime.inject != cudaSuccess) return runtime.inject;
  if (config.stream != runtime.stream) fail("a launch on a stream that is not the caller's");
  launch.grid = config.gridDim;
  launch.block = config.blockDim;
  launch.dynamic_shared = config.dynamicSmemBytes;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& a = config.attrs[i];
    if (a.id == cudaLaunchAttributeCooperative) launch.cooperative = a.val.cooperative != 0;
    if (a.id == cudaLaunchAttributeClusterDimension)
      launch.cluster = {a.val.clusterDim.x, a.val.clusterDim.y, a.val.clusterDim.z};
  }
  const Extent &g = launch.grid, &b = launch.block, &c = launch.cluster;
  const bool grid = g.x >= 1 && g.y >= 1 && g.z >= 1 && g.x <= 2147483647u && g.y <= 65535 && g.z <= 65535;
  const bool block = b.count() >= 1 && b.count() <= 1024 && b.z <= 64;
  const bool cluster = c.count() >= 1 && c.count() <= 8 && c.y == 1 && c.z == 1 && g.x % std::max(1u, c.x) == 0;
  // All blocks of a cooperative launch must be on the device at once: of Hopper's 132 multiprocessors.
  const int64_t resident = std::min(int64_t(2048) / std::max<int64_t>(b.count(), 1),
                                    int64_t(kShared + 1024) / int64_t(launch.dynamic_shared + 1024));
  const auto found = allowed_dynamic.find(kernel);
  const size_t most = found == allowed_dynamic.end() ? kStaticShared : size_t(found->second);
  if (!grid || !block || !cluster || launch.dynamic_shared > most || most > kShared)
    return cudaErrorInvalidConfiguration;
  if (launch.cooperative && g.count() > 132 * resident) return cudaErrorCooperativeLaunchTooLarge;
  return cudaSuccess;
}

cudaError_t prepare(const cudaLaunchConfig_t& config, const void* kernel, Launch& launch) {
  const cudaError_t status = examine(config, kernel, launch);
  if (status != cudaSuccess) return status;
  const int64_t size = launch.cluster.count(), clusters = launch.grid.count() / size;
  if (size > 1 && clusters > runtime.clusters)
    fail("a launch of %d clusters, of which %d can run at once", int(clusters), runtime.clusters);
  ++runtime.launches;
  return cudaSuccess;
}

// As CUDA does, only for a launch that could be made, and of clusters.
cudaError_t clusters_at_once(int* clusters, const cudaLaunchConfig_t& config, const void* kernel) {
  Launch launch;
  const cudaError_t status = examine(config, kernel, launch);
  if (status != cudaSuccess) return status;
  *clusters = runtime.clusters;
  return launch.cluster.count() > 1 ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace simt

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorCooperativeLaunchTooLarge: return "too many blocks in cooperative launch";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() {
  const cudaError_t last = simt::runtime.last;
  simt::runtime.last = cudaSuccess;
  return last;
}
