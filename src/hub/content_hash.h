// The hash that an ETag of the hub is: SHA-256 of the content for large files (64 digits), git's SHA-1 of
// "blob <size>\0<content>" for small ones (40 digits). Fed in order. Used by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tessera::hub {

enum class HashKind { kSha256, kSha512, kGitSha1 };

class ContentHash {
 public:
  // `size`: bytes of the whole content; kGitSha1 alone needs it.
  explicit ContentHash(HashKind kind, int64_t size = 0);
  // `etag` says which hash; of any other ETag nothing can be checked. `size`: bytes of the whole content.
  ContentHash(std::string_view etag, int64_t size);
  ~ContentHash();
  ContentHash(ContentHash&&) noexcept;
  ContentHash& operator=(ContentHash&&) noexcept;

  // "SHA-256", "SHA-512", "git SHA-1", or null when the ETag is no hash.
  const char* kind() const { return kind_; }
  void update(const void* data, size_t bytes);
  // Lower-case digits; empty when kind() is null. Call once.
  std::string finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
  const char* kind_ = nullptr;

  void start(HashKind kind, int64_t size);
};

}  // namespace tessera::hub
