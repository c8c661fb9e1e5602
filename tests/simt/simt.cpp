// The scheduler of a launch: which thread runs next, barriers, exchanges within a warp.
#include "simt.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "asan.h"
#include "emulated_gpu.h"

namespace simt {

Options options;
Index threadIdx, blockIdx;
Extent blockDim, gridDim;

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

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same(Place a, Place b) { return a.line == b.line && same(a.file, b.file); }

int launches;  // so far

}  // namespace

EmulatedGpu* gpu;

EmulatedGpu::EmulatedGpu(const Launch& launch)
    : launch_(launch), random_(options.seed * 0x9E3779B97F4A7C15u + 1), policy_(int(options.seed % 4)) {
  blockDim = launch.block;
  gridDim = launch.grid;
  grid_barrier_.expected = launch.grid.count() * launch.block.count();
  if (launch.dynamic_shared) {
    slots_[-1] = {arena_used_, launch.dynamic_shared};
    arena_used_ += (launch.dynamic_shared + kZone + 255) / 256 * 256;
  }
}

EmulatedGpu::~EmulatedGpu() {
  for (unsigned char* arena : arenas_) {
    for (const auto& [id, slot] : slots_) forget(arena + slot.offset);
    __asan_unpoison_memory_region(arena, kArena);
    std::free(arena);
  }
}

Moment EmulatedGpu::moment() const {
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
void EmulatedGpu::go() {
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

void EmulatedGpu::start_cluster(int64_t number) {
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

void EmulatedGpu::start_block(Block& block, int64_t number) {
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
void EmulatedGpu::make_ready(Thread& thread, bool gave_way) {
  const auto place = uint64_t(thread.home->number) << 10 | uint64_t(thread.index);
  uint64_t key = random_();
  if (policy_ == 1) key = ((place >> 5) * 0x9E3779B97F4A7C15u + options.seed) % 0xFFFFFFFBu << 32 | key >> 32;
  if (policy_ == 2) key = place;
  if (policy_ == 3) key = ~place;
  ready_.emplace(gave_way ? ++gave_way_ : 0, key, &thread);
}

void EmulatedGpu::resume(Thread& thread) {
  current_ = &thread;
  threadIdx = thread.position;
  blockIdx = thread.block;
  switch_fibre(scheduler_, thread.fibre);
  if (thread.ended) retire(thread);
}

void EmulatedGpu::enter() {
  Fibre& scheduler = gpu->scheduler_;
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.bottom, &scheduler.size);
  gpu->launch_.body();
  Thread& thread = *gpu->current_;
  thread.ended = true;
  switch_fibre(thread.fibre, scheduler, true);
}

void EmulatedGpu::retire(Thread& thread) {
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

void EmulatedGpu::wait(const char* what, Place place) {
  Thread& thread = *current_;
  thread.waits_for = what;
  thread.place = place;
  switch_fibre(thread.fibre, scheduler_);
  thread.waits_for = nullptr;
}

void EmulatedGpu::give_way() {
  if (random_() % 2) return;
  make_ready(*current_, true);
  switch_fibre(current_->fibre, scheduler_);
}

void EmulatedGpu::barrier(Scope scope, Place place) {
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

const Lanes& EmulatedGpu::exchange(unsigned mask, uint64_t value, const char* operation, Place place) {
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

// ---------------------------------------------------------------- a standstill

void EmulatedGpu::report_standstill() {
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

// ---------------------------------------------------------------- what simt.h declares

void run(const Launch& launch) {
  EmulatedGpu here(launch);
  gpu = &here;
  ++launches;
  here.go();
  gpu = nullptr;
}

void give_way() { gpu->give_way(); }
void barrier(Scope scope, Place place) { gpu->barrier(scope, place); }
const Lanes& exchange(unsigned mask, uint64_t value, const char* operation, Place place) {
  return gpu->exchange(mask, value, operation, place);
}
bool running() { return gpu != nullptr; }
Moment moment() { return gpu->moment(); }
int lane() { return gpu->current().lane(); }
void* shared(int id, size_t size, size_t alignment) { return gpu->shared(id, size, alignment); }
void* dynamic_shared() { return gpu->dynamic_shared(); }
int next_shared_id() {
  static int next = 0;
  return next++;
}
int cluster_rank() { return gpu->current().home->rank; }
int cluster_size() { return int(gpu->current().home->cluster->blocks.size()); }
void* map_shared_rank(void* object, int rank) { return gpu->map_shared_rank(object, rank); }

}  // namespace simt
