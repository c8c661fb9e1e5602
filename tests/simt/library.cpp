// The emulated kernels for ctypes, on the caller's own memory: for tests of what calls them.
#include <exception>
#include <string>

#include "calls.h"

// The message where the kernels threw, else null.
extern "C" const char* simt_library_call(const char* name, const simt::Argument* arguments, int count,
                                         int64_t* answer) {
  static std::string message;
  simt::prepare_call(0, -1);
  const std::vector<simt::Argument> given(arguments, arguments + count);
  simt::Arguments taken(given);
  try {
    simt::call(name, taken);
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
  *answer = taken.answered();
  return nullptr;
}
