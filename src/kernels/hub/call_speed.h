// What a call through tvm-ffi's C ABI costs, whatever the kernel does.
#pragma once

#include "kernels/hub/runtime.h"
#include "kernels/table.h"

namespace tessera::hub_kernels {

// Nanoseconds of one call with the arguments of rms_norm of a function that does nothing: views of three tensors, the
// environment (on a GPU its stream too), the call, and the environment as it was. The best of many. One thread.
double call_nanoseconds(const Runtime& runtime, Device device, void* native_stream);

}  // namespace tessera::hub_kernels
