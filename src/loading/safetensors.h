// One safetensors file, memory-mapped read-only. The header is foreign bytes and is checked in full before anything
// points into the file: <= 100 MB, inside the file, UTF-8 JSON from the first byte, no repeated or unknown key, known
// dtypes, rank <= 4, dtype x shape == byte range (checked arithmetic), and byte ranges that cover the data without
// overlap or hole. A tensor of zero elements is accepted where its empty range lies between its neighbours; several may
// share that place.
//
// Immutable after open; reading from many threads is safe. Whoever truncates the file while it is mapped makes reads
// of the lost pages raise SIGBUS: that cannot be caught here, check_unchanged() only tells when it has happened before.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace tessera {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t begin = 0;  // bytes from the start of the data part
  int64_t end = 0;
};

constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
};

// Parses and checks the JSON part of a file whose data part has data_bytes bytes. `path` opens every message. Throws
// kCorrupt, or kUnsupported for an unknown dtype and a rank above 4.
SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t data_bytes, const std::string& path);

class SafetensorsFile {
 public:
  // Throws kNotFound, kIo, kCorrupt, kUnsupported.
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return path_; }
  std::span<const TensorInfo> tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  const TensorInfo* find(std::string_view name) const;  // nullptr when absent
  int64_t data_bytes() const { return data_bytes_; }

  // The file's own pages: valid while this object lives, never to be written, and aligned only as the file is.
  Tensor view(const TensorInfo& info) const;

  // Whether the address lies in the file's mapping; and its bytes from there on, by a read call. Throws kIo, kCorrupt.
  bool maps(const void* address) const;
  void read(const void* address, int64_t bytes, char* to) const;

  // Throws kCorrupt when the file's size or modification time is no longer that of open().
  void check_unchanged() const;

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

 private:
  SafetensorsFile() = default;

  std::string path_;
  SafetensorsHeader header_;
  std::vector<uint32_t> by_name_;  // indices of header_.tensors
  int fd_ = -1;
  char* base_ = nullptr;
  int64_t file_bytes_ = 0;
  int64_t data_bytes_ = 0;
  int64_t modified_ns_ = 0;
};

// True when a view's address fits its element type, so that it can be read in place.
bool is_aligned(const Tensor& t);

}  // namespace tessera
