#include "hub/content_hash.h"

#include <openssl/evp.h>

#include "core/error.h"
#include "hub/hub_id.h"

namespace tessera::hub {

struct ContentHash::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

ContentHash::ContentHash(HashKind kind, int64_t size) {
  start(kind, size);
}

ContentHash::ContentHash(std::string_view etag, int64_t size) {
  if (is_hex(etag, 64)) start(HashKind::kSha256, size);
  if (is_hex(etag, 40)) start(HashKind::kGitSha1, size);
}

void ContentHash::start(HashKind kind, int64_t size) {
  const bool git = kind == HashKind::kGitSha1, sha256 = kind == HashKind::kSha256;
  kind_ = git ? "git SHA-1" : sha256 ? "SHA-256" : "SHA-512";
  context_ = std::make_unique<Context>();
  const EVP_MD* md = git ? EVP_sha1() : sha256 ? EVP_sha256() : EVP_sha512();
  if (!context_->md || EVP_DigestInit_ex(context_->md, md, nullptr) != 1)
    fail(ErrorCode::kUnsupported, "this system's OpenSSL refuses {}, so downloads cannot be verified", kind_);
  if (git) {
    std::string header = fmt::format("blob {}", size);
    update(header.c_str(), header.size() + 1);
  }
}

ContentHash::~ContentHash() = default;
ContentHash::ContentHash(ContentHash&&) noexcept = default;
ContentHash& ContentHash::operator=(ContentHash&&) noexcept = default;

void ContentHash::update(const void* data, size_t bytes) {
  if (context_) TS_CHECK(EVP_DigestUpdate(context_->md, data, bytes) == 1);
}

std::string ContentHash::finish() {
  if (!context_) return "";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  TS_CHECK(EVP_DigestFinal_ex(context_->md, digest, &length) == 1);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

}  // namespace tessera::hub
