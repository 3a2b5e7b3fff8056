// Stands in for libcuda.so.1: a driver that knows CUDA 12.4 only.
#include <stddef.h>
#include <string.h>

int cuDriverGetVersion(int* version) {
  *version = 12040;
  return 0;
}
int cuInit(unsigned flags) {
  (void)flags;
  return 0;
}
int cuGetProcAddress_v2(const char* name, void** function, int version, unsigned long flags, int* status) {
  (void)version, (void)flags;
  *function = strcmp(name, "cuDriverGetVersion") == 0   ? (void*)cuDriverGetVersion
              : strcmp(name, "cuInit") == 0             ? (void*)cuInit
              : strcmp(name, "cuGetProcAddress") == 0   ? (void*)cuGetProcAddress_v2
                                                        : NULL;
  if (status) *status = *function == NULL;
  return *function ? 0 : 500;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
