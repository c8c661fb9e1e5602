#include "fibres.h"

#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "asan.h"
#include "simt.h"

// simt_switch(&from, to): puts the callee-saved registers and the stack pointer away, and takes up another fibre's. Not
// swapcontext: ASan's version of that unpoisons the whole stack at every switch, and each costs two system calls.
extern "C" void simt_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.type simt_switch, %function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "write simt_switch for this processor"
#endif

namespace simt {
namespace {

constexpr size_t kStack = 128 << 10, kLastFrames = 4096, kGuard = 4096;

std::vector<char*> free_stacks;

char* take_stack() {
  if (free_stacks.empty()) {
    void* at =
        mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, kGuard, PROT_NONE) != 0) fail("no memory for the stack of a thread");
    return static_cast<char*>(at) + kGuard;
  }
  char* stack = free_stacks.back();
  free_stacks.pop_back();
  __asan_unpoison_memory_region(stack + kStack - kLastFrames, kLastFrames);  // which never returned
  return stack;
}

}  // namespace

// The first switch to a fibre "returns" to `entry`.
Fibre make_fibre(void (*entry)()) {
  char* stack = take_stack();
  auto** top = reinterpret_cast<void**>(stack + kStack);
#if defined(__x86_64__)
  top -= 8;  // six registers, the entry, and the return address that entry must not use
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(entry);
#else
  top -= 20;
  std::fill(top, top + 20, nullptr);
  top[11] = reinterpret_cast<void*>(entry);
#endif
  return {top, nullptr, stack, kStack};
}

void free_fibre(const Fibre& fibre) { free_stacks.push_back(static_cast<char*>(const_cast<void*>(fibre.bottom))); }

void switch_fibre(Fibre& from, Fibre& to, bool ends) {
  (void)ends;
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake, to.bottom, to.size);
  simt_switch(&from.top, to.top);
  __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
}

}  // namespace simt
