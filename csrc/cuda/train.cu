// The persistent engine: one launch runs many iterations of Algorithm 1 (../iteration.h) for one GAN or for thousands.
//
// A cluster of blocks (usually one block) trains a GAN, with its weights in shared memory for the whole launch. Each
// block computes both networks on its rows of the batch. Then the threads of the cluster share the weight gradients.
// One thread (or warp) computes each sum in one order, so the bits depend neither on the size of the cluster nor on the
// other GANs of the launch. See docs/the-persistent-kernel.md.
#include <cmath>
#include <vector>

#include "../dtypes.h"
#include "../iteration.h"
#include "device.cuh"
#include "launchers.h"
#include "train_loss.cuh"

namespace fastgan {
inline namespace FASTGAN_ISA {
namespace {

template <class T>
struct Launch {
  const char* plans;  // starts with the offset of each member's plan, in bytes
  int members;
  T* scratch;         // for each cluster: a common part, then a part for each block
  MemoryNeeds needs;  // for the most demanding member
};

// The verbs of an iteration, for one thread of one block.
template <class T>
class Trainer : Losses<T> {
  using B = Batches<T>;
  using L = Losses<T>;
  using B::state_, B::plan_, B::block_, B::g_, B::d_, B::sub_batches_of_g_, L::bad_;

 public:
  // `memory`: the block's shared memory, filled by begin(). `common`: the cluster's scratch memory.
  __device__ Trainer(unsigned char* memory, const char* plan_memory, T* common)
      : Losses<T>(memory, common), plan_memory_(plan_memory), common_(common) {}

  // All iterations of a member.
  __device__ void run() {
    fetch();
    for (int64_t it = plan_.first; it < plan_.first + plan_.count; ++it) iterate(*this, it);
    write_back();
  }

  __device__ const MemberOf<T>& plan() const { return plan_; }

  __device__ void begin(int64_t it) { draw_dropout_seeds(it); }

  // ---------------------------------------------------------------- the batch and its logits

  __device__ void prepare_g(int64_t number) const {
    prepare(state_.rule_g, plan_.optimizer_g, plan_.schedule_g, number - plan_.first * plan_.generator_steps,
            plan_.updates_g - skipped_g_);
  }
  __device__ void prepare_d(int64_t draw) const {
    prepare(state_.rule_d, plan_.optimizer_d, plan_.schedule_d, draw - plan_.first * plan_.k,
            plan_.updates_d - skipped_d_);
  }

  __device__ void save() const {
    if (plan_.skip_nonfinite) each_statistic_of_both([](auto& statistic, auto& saved) { saved = statistic; });
  }

  __device__ void sample_data(int64_t draw) const { this->choose_rows(draw); }

  FASTGAN_CALLED void sample_noise(uint32_t purpose, int64_t step) {
    const SubBatch part = this->sub_batch(0, plan_.pack, take_dropout_seeds(plan_.generator));
    sub_batches_of_g_ = {{part, {}}, 1, plan_.batch, plan_.pack};
    this->draw_noise({plan_.seed, purpose, 0, uint64_t(step)});
    block_.barrier();
    if (plan_.prior == Prior::spherical) this->to_sphere();
    if (plan_.classes == 0) return;
    this->show_labels(plan_.generator, plan_.latent, 1, part);
    block_.barrier();
  }

  __device__ void forward_g() const { g_.forward(sub_batches_of_g_); }

  FASTGAN_CALLED void show(BatchOfD batch) {
    sub_batches_ = this->sub_batches_of_d(take_dropout_seeds(plan_.discriminator));
    sub_batches_.count = batch == BatchOfD::fake ? 1 : 2;
    if (sub_batches_.count == 2) take_dropout_seeds(plan_.discriminator);
    fake_ = batch == BatchOfD::real_fake ? 1 : 0;
    this->show_fakes(sub_batches_.all[fake_]);
    if (sub_batches_.count == 2) this->show_real(sub_batches_.all[1 - fake_]);
    if (plan_.classes > 0)
      for (int s = 0; s < sub_batches_.count; ++s)
        this->show_labels(plan_.discriminator, plan_.features * plan_.pack, plan_.pack, sub_batches_.all[s]);
    block_.barrier();
  }

  __device__ void forward_d() const { d_.forward(sub_batches_); }

  // ---------------------------------------------------------------- losses and gradients

  __device__ void loss_of_d(double weight) const { this->loss_and_grad_of_d(sub_batches_, weight); }
  __device__ void loss_of_g() const { this->loss_and_grad_of_g(sub_batches_, fake_); }

  __device__ void backward_d() const {
    d_.backward(sub_batches_, false);
    block_.barrier_of_all();
  }

  __device__ void backward_through_d() const {
    d_.backward(sub_batches_, true);
    this->return_gradients(sub_batches_.all[fake_]);
  }

  __device__ void backward_g() const {
    g_.backward(sub_batches_of_g_, false);
    block_.barrier_of_all();
  }

  __device__ void penalty(int64_t) const {}  // plans with a penalty are for the other engines

  // ---------------------------------------------------------------- metrics and updates

  __device__ void record_d(int64_t it, double weight) const { L::record_d(it, sub_batches_, weight); }

  __device__ void record_g(int64_t it) const {
    L::record_g(it, sub_batches_, fake_);
    if (plan_.simultaneous) block_.barrier_of_all();  // D's loss overwrites the values of G's
  }

  __device__ void update_d() const { update_parameters(updating(state_.rule_d, plan_.optimizer_d), d_, sub_batches_); }
  __device__ void update_g() const {
    update_parameters(updating(state_.rule_g, plan_.optimizer_g), g_, sub_batches_of_g_);
  }

  // Bounds the norms first, so that a roll-back includes that.
  FASTGAN_CALLED void commit_or_roll_back(Updated updated) {
    if (plan_.skip_nonfinite)
      each_statistic_of_both([&](auto& statistic, auto& saved) {
        if (ceased(saved, statistic)) atomicExch(bad_, 1);
      });
    block_.barrier_of_all();
    if (updated.d && plan_.optimizer_d.clip_weights > 0) {
      hold_parameters(d_, T(plan_.optimizer_d.clip_weights));
      block_.barrier_of_all();
    }
    if (updated.g && plan_.optimizer_g.max_col_norm > 0) bound_norms(g_, plan_.optimizer_g.max_col_norm);
    if (updated.d && plan_.optimizer_d.max_col_norm > 0) bound_norms(d_, plan_.optimizer_d.max_col_norm);
    if (plan_.optimizer_g.max_col_norm > 0 || plan_.optimizer_d.max_col_norm > 0) block_.barrier_of_all();
    if (!plan_.skip_nonfinite) return;
    const bool bad = *bad_;
    if (bad && updated.g) restore(g_, common_), ++skipped_g_;
    if (bad && updated.d) restore(d_, common_), ++skipped_d_;
    if (bad) each_statistic_of_both([](auto& statistic, auto& saved) { statistic = saved; });
    block_.barrier_of_all();
    if (bad && block_.rank == 0 && threadIdx.x == 0) *bad_ = 0;
    block_.barrier_of_all();
  }

  __device__ void update_ema() const { follow_with_ema(g_, Ema<T>(plan_.ema_decay)); }

 private:
  __device__ double scheduled(int64_t bytes, bool changes, int64_t update) const {
    return reinterpret_cast<const double*>(plan_memory_ + bytes)[changes ? update : 0];
  }

  // One thread computes the constants of a step's rule; many barriers follow before another thread reads them.
  FASTGAN_CALLED void prepare(DeviceRule<T>& rule, const OptimizerPlan& optimizer, const ScheduleOf& schedule,
                              int64_t update, int64_t before) const {
    if (int(threadIdx.x) != kThreads - 1) return;
    const double rate = scheduled(schedule.rate, schedule.rate_changes, update);
    const double momentum = scheduled(schedule.momentum, schedule.momentum_changes, update);
    rule = DeviceRule<T>(optimizer, rate, momentum, before + update + 1);
  }

  __device__ Updating<T> updating(const DeviceRule<T>& rule, const OptimizerPlan& plan) const {
    return {block_, rule, plan_.skip_nonfinite ? common_ : nullptr, bad_, plan, common_};
  }

  // Both networks' statistics change in a step of either.
  template <class Function>
  __device__ void each_statistic_of_both(Function&& f) const {
    for (const Passes<T>* passes : {&g_, &d_}) each_statistic(*passes, common_, f);
  }

  // ---------------------------------------------------------------- dropout seeds

  // Draws the dropout seeds of kSeedsAhead iterations at a time, so that the barrier costs little.
  __device__ void draw_dropout_seeds(int64_t it) {
    const int count = plan_.dropout_seeds_per_iteration;
    if (count == 0) return;
    uint64_t* dropout_seeds = reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(common_) + plan_.dropout_seeds);
    const int slot = int((it - plan_.first) % kSeedsAhead);
    if (slot == 0) {
      if (block_.rank == 0)
        for (int i = int(threadIdx.x); i < kSeedsAhead * count; i += kThreads)
          dropout_seeds[i] = dropout_seed(plan_.seed, it + i / count, i % count);
      block_.barrier_of_all();
    }
    dropout_seeds_ = dropout_seeds + slot * count;
  }

  template <class Network>
  __device__ const uint64_t* take_dropout_seeds(const Network& network) {
    const uint64_t* taken = dropout_seeds_;
    dropout_seeds_ += network.dropout_seeds;
    return taken;
  }

  // ---------------------------------------------------------------- start and end of a launch

  __device__ void fetch() const {
    if (block_.rank == 0 && threadIdx.x == 0) *bad_ = 0;
    for (const Passes<T>* passes : {&g_, &d_})
      each_parameter(*passes, block_.alone(),
                     [&](const ParameterOf<T>& p, int64_t e, int64_t here) { block_.at(p.here)[here] = p.value[e]; });
    block_.barrier_of_all();
  }

  __device__ void write_back() const {
    for (const Passes<T>* passes : {&g_, &d_})
      each_parameter(*passes, block_.together(),
                     [&](const ParameterOf<T>& p, int64_t e, int64_t here) { p.value[e] = block_.at(p.here)[here]; });
    if (block_.rank == 0 && threadIdx.x == 0) {
      double* updates = plan_.metrics + plan_.count * kMetrics;
      updates[0] = double(plan_.updates_g + plan_.count * plan_.generator_steps - skipped_g_);
      updates[1] = double(plan_.updates_d + plan_.count * plan_.k - skipped_d_);
    }
    block_.barrier_of_all();  // no block exits, or starts another member, while another block may read its memory
  }

  const char* plan_memory_;
  T* common_;
  SubBatches sub_batches_{};                 // of D's batch; sub_batches_of_g_: of G's
  int fake_ = 0;                             // index of the fakes in it
  const uint64_t* dropout_seeds_ = nullptr;  // the next ones
  int64_t skipped_g_ = 0, skipped_d_ = 0;
};

// Copies a member's plan to shared memory and clears the rest: padding is read, though not used, so it must be
// initialised.
template <class T>
__device__ void begin(const Launch<T>& launch, const char* plan, T* common, unsigned char* memory) {
  BlockState<T>& state = *reinterpret_cast<BlockState<T>*>(memory);
  int64_t* copy = reinterpret_cast<int64_t*>(memory + sizeof state);
  T* shared = reinterpret_cast<T*>(memory + sizeof state + launch.needs.plan_bytes);
  T *first = common + launch.needs.cluster, *scratch = first + cluster_rank() * launch.needs.block;
  const int64_t words = reinterpret_cast<const MemberOf<T>*>(plan)->bytes / 8;
  for (int64_t i = threadIdx.x; i < words; i += kThreads) copy[i] = reinterpret_cast<const int64_t*>(plan)[i];
  for (int64_t i = threadIdx.x; i < launch.needs.shared; i += kThreads) shared[i] = T(0);
  for (int64_t i = threadIdx.x; i < launch.needs.block; i += kThreads) scratch[i] = T(0);
  __syncthreads();
  if (threadIdx.x == 0) {
    const auto& member = *reinterpret_cast<const MemberOf<T>*>(copy);
    state.block = {shared, scratch, first, launch.needs.block, cluster_rank(), cluster_size(), member.precision};
    state.g = {&state.block, &member.generator, member.layers() + member.generator.first};
    state.d = {&state.block, &member.discriminator, member.layers() + member.discriminator.first};
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) train_persistent(const __grid_constant__ Launch<T> launch) {
  FASTGAN_DYNAMIC_SHARED(memory);
  const int size = cluster_size(), cluster = int(blockIdx.x) / size, clusters = int(gridDim.x) / size;
  T* common = launch.scratch + cluster * (launch.needs.cluster + size * launch.needs.block);
  for (int member = cluster; member < launch.members; member += clusters) {
    const char* plan = launch.plans + reinterpret_cast<const int64_t*>(launch.plans)[member];
    begin(launch, plan, common, memory);
    Trainer<T>(memory, plan, common).run();
  }
}

// ---------------------------------------------------------------- the launch

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

template <class T>
size_t shared_bytes(const MemoryNeeds& needs) {
  return sizeof(BlockState<T>) + needs.plan_bytes + size_t(needs.shared) * sizeof(T);
}

// A block's shared memory less its state and the longest plan.
template <class T>
int64_t elements_for(const std::vector<CudaMember>& members, const CudaLimits& device) {
  size_t layers = 0;
  for (const CudaMember& m : members)
    layers = std::max(layers, m.plan->generator.network.layers.size() + m.plan->discriminator.network.layers.size());
  const size_t taken = sizeof(BlockState<T>) + sizeof(MemberOf<T>) + layers * sizeof(LayerOf<T>) + 16;
  return device.shared_bytes > taken ? int64_t((device.shared_bytes - taken) / sizeof(T)) : 0;
}

void need_more(MemoryNeeds& needs, const MemoryNeeds& other) {
  needs.shared = std::max(needs.shared, other.shared), needs.block = std::max(needs.block, other.block);
  needs.cluster = std::max(needs.cluster, other.cluster),
  needs.plan_bytes = std::max(needs.plan_bytes, other.plan_bytes);
}

// The number of clusters that can run at once. All blocks of a cluster run in one GPC (a group of multiprocessors),
// whose remaining multiprocessors stay idle. A cluster beyond this number would start after others have ended.
template <class T>
int most_clusters(const cudaLaunchConfig_t& config, const CudaLimits& device) {
  const int size = device.cluster, most = std::max(1, device.multiprocessors / size);
  if (size == 1) return most;
  int together = 0;
  check(cudaOccupancyMaxActiveClusters(&together, train_persistent<T>, &config), "train");
  if (together == 0)
    throw std::runtime_error("train: the device must have room for a cluster of " + std::to_string(size) +
                             " blocks with " + std::to_string(config.dynamicSmemBytes) +
                             " bytes of shared memory each, got none");
  return std::min(most, together);
}

template <class T>
void train_all(const std::vector<CudaMember>& members, const CudaLimits& device, const Allocate& allocate,
               void* stream) {
  const int size = device.cluster;
  const int64_t elements = elements_for<T>(members, device);
  Launch<T> work{};
  work.members = int(members.size());
  std::vector<int64_t> where;
  std::vector<char> plans;
  for (const CudaMember& member : members) {
    const Builder<T> built(*member.plan, *member.call, size, elements);
    where.push_back(int64_t(plans.size() + rounded(members.size() * sizeof(int64_t))));
    plans.insert(plans.end(), built.bytes().begin(), built.bytes().end());
    need_more(work.needs, built.needs());
  }
  std::vector<char> head(rounded(members.size() * sizeof(int64_t)));
  std::memcpy(head.data(), where.data(), where.size() * sizeof(int64_t));
  plans.insert(plans.begin(), head.begin(), head.end());

  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(size), cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(size));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = shared_bytes<T>(work.needs);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster, config.numAttrs = size > 1;
  check(cudaFuncSetAttribute(train_persistent<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             int(config.dynamicSmemBytes)),
        "train");
  const int clusters = std::min(work.members, most_clusters<T>(config, device));
  config.gridDim = dim3(unsigned(clusters * size));

  const size_t scratch = size_t(work.needs.cluster + size * work.needs.block) * sizeof(T);
  char* memory = static_cast<char*>(allocate(rounded(plans.size()) + size_t(clusters) * scratch));
  check(cudaMemcpyAsync(memory, plans.data(), plans.size(), cudaMemcpyHostToDevice, config.stream), "train");
  work.plans = memory;
  work.scratch = reinterpret_cast<T*>(memory + rounded(plans.size()));
  check(cudaLaunchKernelEx(&config, train_persistent<T>, work), "train");
}

}  // namespace
}  // namespace FASTGAN_ISA

void cuda_train(int dtype, const std::vector<CudaMember>& members, const CudaLimits& device, const Allocate& allocate,
                void* stream) {
  with_dtype(dtype, [&](auto type) { train_all<Compute<decltype(type)>>(members, device, allocate, stream); });
}

CudaLimits cuda_train_needs(int dtype, const TrainPlan& plan, const CudaLimits& device) {
  CudaLimits needs{0, device.cluster, 0};
  with_dtype(dtype, [&](auto type) {
    using T = Compute<decltype(type)>;
    const Builder<T> built(plan, TrainCall{}, device.cluster, elements_for<T>({{&plan, nullptr}}, device));
    needs.shared_bytes = shared_bytes<T>(built.needs());
    needs.scratch_bytes = size_t(built.needs().block) * sizeof(T);
  });
  return needs;
}

}  // namespace fastgan
