// Which instructions multiply float matrices in the training engine: chosen once a network, by what the processor has.
#pragma once
#include <string>

#include "../plan.h"

namespace fastgan {

// What this processor, its kernel and this build offer beside fp32.
struct Bf16Products {
  bool amx, dot;           // AMX tiles; AVX512-BF16
  bool dot_is_fast;        // than fp32: AMD's are twice as fast, Intel's half
  std::string why_no_amx;  // empty where `amx`
};
const Bf16Products& bf16_products();

// Of a network of this type. The choice depends on the plan and the processor alone, never on a measurement of the run:
// the bits depend on it.
Products choose_products(const NetworkPlan& plan, bool is_float);

const char* name_of(Products products);

// For tests: every network that asks for bf16 uses these, the software stand-in among them. An empty name: the usual
// choice.
void force_products(const std::string& name);
bool products_are_forced();

}  // namespace fastgan
