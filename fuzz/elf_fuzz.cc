// The reader of kernels' libraries: a value or an Error for any bytes.
#include "core/error.h"
#include "kernels/hub/elf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto library = tessera::hub_kernels::read_elf({reinterpret_cast<const char*>(data), size});
    tessera::hub_kernels::above_floor(library, {});
  } catch (const tessera::Error&) {
  }
  return 0;
}
