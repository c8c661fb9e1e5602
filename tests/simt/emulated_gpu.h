// One launch on the emulated GPU: its threads, warps, blocks and clusters, their barriers and their shared memory.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "fibres.h"
#include "races.h"
#include "simt.h"

namespace simt {

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

// ---------------------------------------------------------------- one launch

struct Slot {
  size_t offset, size;
};

class EmulatedGpu {
 public:
  explicit EmulatedGpu(const Launch& launch);
  ~EmulatedGpu();
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
  uint64_t gave_way_ = 0;  // how often a thread did
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<unsigned char*> arenas_, free_arenas_;
  std::map<int, Slot> slots_;
  size_t static_used_ = 0, arena_used_ = kZone;
  Barrier grid_barrier_;
  Fibre scheduler_;
  Thread* current_ = nullptr;
};

extern EmulatedGpu* gpu;  // of the launch that is running

}  // namespace simt
