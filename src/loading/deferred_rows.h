// An address space that nothing is mapped to: every stretch of it stands for a weight that is made when it is read, so
// that tensors can be planned, cut and sent on before their bytes exist anywhere. add() by one thread; then const.
#pragma once

#include <cstdint>
#include <vector>

#include "loading/row_form.h"

namespace tessera {

class DeferredRows {
 public:
  DeferredRows() = default;
  ~DeferredRows();
  DeferredRows(const DeferredRows&) = delete;
  DeferredRows& operator=(const DeferredRows&) = delete;

  // Bytes of all that will be added, each rounded up to kAlign. Throws kOutOfMemory. Call once.
  void reserve(int64_t bytes);
  // The address that stands for the form's first byte; a multiple of kAlign, and must not be touched.
  void* add(RowForm form);
  bool holds(const void* address) const;
  // What was added at an address. REQUIRES: holds(address).
  const RowForm& form_at(const void* address) const { return forms_[index_of(address)]; }
  // Makes the bytes. REQUIRES: holds(address), and all of them are of one form.
  void read(const void* address, int64_t bytes, char* to) const;

  static constexpr int64_t kAlign = 64;

 private:
  size_t index_of(const void* address) const;

  char* base_ = nullptr;
  int64_t bytes_ = 0, used_ = 0;
  std::vector<int64_t> starts_;
  std::vector<RowForm> forms_;
};

}  // namespace tessera
