// Text: UTF-8 bytes in which every byte knows where it came from. The marks travel through every string operation of a
// template, so that a caller can tell what the template wrote from what a user wrote. Not thread-safe; cheap to move.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::jinja {

inline constexpr uint8_t kFromInput = 1;  // messages, tools, arguments: special tokens are never read from it
inline constexpr uint8_t kGenerated = 2;  // inside {% generation %}: what a model is trained to write

class Text {
 public:
  struct Run {
    size_t end;  // byte offset behind the run
    uint8_t marks;
  };

  Text() = default;
  explicit Text(std::string bytes, uint8_t marks = 0) : bytes_(std::move(bytes)), marks_(marks) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }

  void append(std::string_view bytes, uint8_t marks);
  void append(const Text& other) { append(other, 0, other.size()); }
  // Bytes [begin, end) of another text, with their marks.
  void append(const Text& other, size_t begin, size_t end);
  void add_marks(uint8_t marks);
  void resize(size_t size);  // only shorter
  Text slice(size_t begin, size_t end) const;

  uint8_t marks_at(size_t byte) const;
  // Runs of equal marks, in order, that cover all bytes. Neighbours differ.
  std::vector<Run> runs() const;

 private:
  size_t run_index(size_t byte) const;

  std::string bytes_;
  std::vector<Run> runs_;  // empty: every byte has marks_
  uint8_t marks_ = 0;
};

}  // namespace tessera::jinja
