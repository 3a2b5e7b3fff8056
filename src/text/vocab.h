// Token strings and their ids: one arena of bytes, an array by id and an open-addressing hash table. Built once, then
// only read: const members are thread-safe. The hash is seeded at random for each table, so a file cannot aim for
// collisions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class Vocab {
 public:
  // Limits for what a file may hold. The largest published vocabularies have 262,144 tokens of at most about 1,000
  // bytes.
  static constexpr int64_t kMaxId = (1 << 21) - 1;
  static constexpr size_t kMaxTokenBytes = 65535;

  // kBytes: the string was written in the byte-level alphabet and is stored as the raw bytes. kText: it is stored as it
  // was written. The same characters in the two forms are different keys.
  enum class Form : uint8_t { kText, kBytes };
  enum class AddResult { kOk, kDuplicateToken, kDuplicateId };

  explicit Vocab(size_t expected_tokens);

  // REQUIRES 0 <= id <= kMaxId and at most kMaxTokenBytes bytes.
  AddResult add(std::string_view bytes, Form form, int32_t id);

  // The id, or -1.
  int32_t find(std::string_view bytes, Form form) const;

  bool has(int32_t id) const { return id >= 0 && id < id_limit() && tokens_[static_cast<size_t>(id)].used; }
  // REQUIRES has(id).
  std::string_view bytes(int32_t id) const {
    const Token& token = tokens_[static_cast<size_t>(id)];
    return {arena_.data() + token.offset, token.length};
  }
  Form form(int32_t id) const { return tokens_[static_cast<size_t>(id)].form; }

  int32_t id_limit() const { return static_cast<int32_t>(tokens_.size()); }  // one past the highest id
  int64_t size() const { return count_; }
  size_t longest() const { return longest_; }  // bytes

 private:
  struct Token {
    uint32_t offset = 0;
    uint16_t length = 0;
    Form form = Form::kText;
    bool used = false;
  };
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;
  };

  uint64_t hash(std::string_view bytes, Form form) const;
  void grow();

  std::string arena_;
  std::vector<Token> tokens_;
  std::vector<Slot> slots_;
  uint64_t seed_;
  int64_t count_ = 0;
  size_t longest_ = 0;
};

}  // namespace tessera
