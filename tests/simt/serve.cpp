// Serves calls of the emulated kernels over a pipe: the test sends a name and arguments, each call is run under several
// schedules, which must agree to the bit, and the buffers go back. A violation ends the process with a report on
// stderr.
//
// Request:  call NAME ARGUMENTS SCHEDULES FIRST_SEED INJECT BLOCK\n, then a line an argument:
//           i INTEGER | d NUMBER | s (the stream) | b BYTES SHIFT, then those bytes | h BYTES: zeros, as many as wanted
//           | r NUMBER: buffer NUMBER again
// Reply:    ok LAUNCHES ANSWER\n and all buffers in order (of the h kind the end) | error MESSAGE\n (the kernels threw)
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"

namespace {

constexpr size_t kTail = 64;  // bytes of a huge buffer that are sent back

struct Buffer {
  std::string first, result;  // content before the call, and after it under the first schedule
  size_t shift = 0;           // bytes from an aligned address
  size_t huge = 0;            // bytes of zeros instead
  size_t size() const { return huge ? huge : first.size(); }
};

struct Request {
  std::string name;
  int schedules = 1, inject = 0, block = -1;
  uint64_t seed = 0;
  std::vector<simt::Argument> arguments;
  std::vector<Buffer> buffers;
};

bool read_line(std::string& line) {
  line.clear();
  for (int c; (c = std::getchar()) != EOF;) {
    if (c == '\n') return true;
    line.push_back(char(c));
  }
  return false;
}

// Signed, or unsigned up to 2^64 - 1.
int64_t read_integer(const char* text) {
  return *text == '-' ? std::strtoll(text, nullptr, 10) : int64_t(std::strtoull(text, nullptr, 10));
}

Buffer read_buffer(const std::string& line) {
  Buffer buffer;
  char* rest = nullptr;
  const size_t size = std::strtoull(line.c_str() + 2, &rest, 10);
  if (line[0] == 'h') {
    buffer.huge = size;
    return buffer;
  }
  buffer.shift = std::strtoull(rest, nullptr, 10);
  buffer.first.resize(size);
  if (std::fread(buffer.first.data(), 1, size, stdin) != size) simt::fail("a request broke off");
  return buffer;
}

bool read_request(Request& request) {
  std::string line;
  if (!read_line(line)) return false;
  char name[64];
  int count = 0;
  if (std::sscanf(line.c_str(), "call %63s %d %d %" SCNu64 " %d %d", name, &count, &request.schedules, &request.seed,
                  &request.inject, &request.block) != 6)
    simt::fail("not a request: %s", line.c_str());
  request.name = name;
  for (int i = 0; i < count && read_line(line); ++i) {
    simt::Argument argument;
    argument.kind = line[0];
    if (line[0] == 'i') argument.integer = read_integer(line.c_str() + 2);
    if (line[0] == 'd') argument.number = std::strtod(line.c_str() + 2, nullptr);
    if (line[0] == 'r') {
      argument.kind = 'b';
      argument.integer = read_integer(line.c_str() + 2);
    }
    if (line[0] == 'b' || line[0] == 'h') {
      argument.kind = 'b';
      argument.integer = int64_t(request.buffers.size());
      request.buffers.push_back(read_buffer(line));
    }
    request.arguments.push_back(argument);
  }
  return true;
}

// One schedule; leaves the buffers' contents in `results`, and returns what the call answered.
int64_t run_once(const Request& request, std::vector<std::string>& results) {
  std::vector<std::unique_ptr<simt::Memory>> memory;
  for (const Buffer& b : request.buffers)
    memory.push_back(std::make_unique<simt::Memory>(b.first.data(), b.size(), b.shift, b.huge > 0));
  std::vector<simt::Argument> arguments = request.arguments;
  for (simt::Argument& a : arguments)
    if (a.kind == 'b') a.pointer = memory[size_t(a.integer)]->at();
  simt::Arguments given(arguments);
  simt::call(request.name, given);
  for (size_t i = 0; i < memory.size(); ++i) {
    const Buffer& b = request.buffers[i];
    results.emplace_back(b.huge ? kTail : b.size(), '\0');
    memory[i]->read(results[i].data(), b.size() - results[i].size(), results[i].size());
  }
  return given.answered();
}

void serve(Request& request) {
  simt::prepare_call(request.inject, request.block);
  int64_t answer = 0;
  for (int schedule = 0; schedule < request.schedules; ++schedule) {
    simt::choose_schedule(request.seed + uint64_t(schedule));
    std::vector<std::string> results;
    answer = run_once(request, results);
    for (size_t i = 0; i < results.size(); ++i) {
      Buffer& buffer = request.buffers[i];
      if (schedule == 0) buffer.result = results[i];
      if (results[i] != buffer.result)
        simt::fail("%s: schedule %d leaves other bits in buffer %zu than schedule 0", request.name.c_str(), schedule,
                   i);
    }
  }
  std::printf("ok %d %" PRId64 "\n", simt::launches(), answer);
  for (const Buffer& b : request.buffers) std::fwrite(b.result.data(), 1, b.result.size(), stdout);
}

}  // namespace

int main() {
  for (;;) {
    Request request;
    if (!read_request(request)) return 0;
    try {
      serve(request);
    } catch (const std::exception& error) {
      std::printf("error %s\n", error.what());
    }
    std::fflush(stdout);
  }
}
