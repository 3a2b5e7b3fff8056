// Stands in for libtvm_ffi.so when tessera_kernels.so is linked, so that it names that library among those it needs
// without one being installed. Never loaded: whoever loads a kernel has the real one.
#include <cstdint>

extern "C" {
void TVMFFIErrorSetRaisedFromCStr(const char*, const char*) {}
void* TVMFFIEnvGetStream(int32_t, int32_t) {
  return nullptr;
}
int TVMFFIEnvTensorAlloc(void*, void**) {
  return -1;
}
int TVMFFIObjectDecRef(void*) {
  return -1;
}
}
