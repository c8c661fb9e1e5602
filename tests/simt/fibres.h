// Stacks of their own for the threads of a kernel, and going from one to another.
#pragma once
#include <cstddef>

namespace simt {

struct Fibre {
  void* top = nullptr;   // the stack pointer, registers saved above it
  void* fake = nullptr;  // ASan's
  const void* bottom = nullptr;
  size_t size = 0;
};

// A fibre that begins with `entry`, which must not return: its last switch says that it ends.
Fibre make_fibre(void (*entry)());
void free_fibre(const Fibre& fibre);

// `ends`: no fibre comes back to `from`.
void switch_fibre(Fibre& from, Fibre& to, bool ends = false);

}  // namespace simt
