// The shared memory of a block: an arena whose objects lie between red zones.
#include <cstring>

#include "asan.h"
#include "emulated_gpu.h"

namespace simt {

void* EmulatedGpu::locate(Block& block, int id, const Slot& slot) {
  unsigned char* at = block.arena + slot.offset;
  if (block.unpoisoned.insert(id).second) {
    __asan_unpoison_memory_region(at, slot.size);
    std::memset(at, 0xff, slot.size);  // NaN and -1: what is read before it is written shows
    watch(at, slot.size, true);
  }
  return at;
}

void* EmulatedGpu::shared(int id, size_t size, size_t alignment) {
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

void* EmulatedGpu::map_shared_rank(void* object, int rank) {
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
void EmulatedGpu::open_shared(Cluster& cluster) {
  for (auto& block : cluster.blocks)
    for (const auto& [id, slot] : slots_) locate(*block, id, slot);
}

}  // namespace simt
