// The entries of csrc/cuda by name, with arguments in the order of csrc/cuda/entries.h.
#pragma once
#include <string>
#include <vector>

#ifdef FASTGAN_ON_GPU
#include "gpu.h"
#else
#include "processor.h"
#endif

namespace simt {

struct Argument {
  char kind = 'i';  // integer, double, buffer, stream
  int64_t integer = 0;
  double number = 0;
  void* pointer = nullptr;
};

// Hands out the arguments one by one; what is left over or missing is the test's mistake.
class Arguments {
 public:
  explicit Arguments(const std::vector<Argument>& given) : given_(given) {}
  int64_t integer() { return next('i').integer; }
  int number() { return int(integer()); }
  double real() { return next('d').number; }
  template <class T = void>
  T* pointer() {  // a buffer, or the integer 0
    const Argument& a = given_.at(at_);
    if (a.kind == 'i' && a.integer == 0) return ++at_, nullptr;
    return static_cast<T*>(next('b').pointer);
  }
  void* stream() { return next('s'), simt::stream(); }
  void answer(int64_t number) { answer_ = number; }
  int64_t answered() const { return answer_; }
  void end() const {
    if (at_ != given_.size()) fail("%zu arguments given, %zu taken", given_.size(), at_);
  }

 private:
  const Argument& next(char kind) {
    if (at_ >= given_.size() || given_[at_].kind != kind) fail("argument %zu should be of kind %c", at_, kind);
    return given_[at_++];
  }
  const std::vector<Argument>& given_;
  size_t at_ = 0;
  int64_t answer_ = 0;
};

void call(const std::string& name, Arguments& arguments);

}  // namespace simt
