// Which instructions multiply float matrices in the training engine: chosen once for each network.
#pragma once
#include <string>

#include "../plan.h"

namespace fastgan {

// What this processor, its operating system and this build have beside fp32.
struct Bf16Products {
  bool amx, dot;           // AMX tiles; AVX512-BF16
  bool dot_is_fast;        // than fp32: AMD's are twice as fast, Intel's half
  std::string why_no_amx;  // empty where `amx`
};
const Bf16Products& bf16_products();

// Depends on the plan and the processor only, not on a measurement of the run, because the bits depend on it.
Products choose_products(const NetworkPlan& plan, bool is_float);

const char* name_of(Products products);

// For tests: the products of every network that requests bf16, the software version included. An empty name restores
// the choice.
void force_products(const std::string& name);
bool products_are_forced();

// For tests, before the first call of bf16_products(): as if CPUID announced AMX. The kernel then refuses permission
// where the processor has none.
void announce_amx();

}  // namespace fastgan
