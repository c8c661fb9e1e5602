// Launchers of primitives.cu.
#pragma once

namespace fastgan {

void primitive(int number, int blocks, int n, const int* in, int* out, int* more, void* stream);
void planted_fault(int number, int* x, int n, void* stream);

}  // namespace fastgan
