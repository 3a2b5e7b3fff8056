#include "loading/strict_json.h"

#include <unordered_set>
#include <vector>

#include "core/error.h"

namespace tessera {

namespace {
constexpr int kMaxDepth = 64;
constexpr size_t kMaxPrintable = 160;
}  // namespace

std::string printable(std::string_view name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    // A cut at a continuation byte would leave half a character.
    if (out.size() >= kMaxPrintable && (name[i] & 0xc0) != 0x80) return out + "...";
    auto c = static_cast<unsigned char>(name[i]);
    if (c < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", c);
    } else {
      out += name[i];
    }
  }
  return out;
}

Json parse_strict_json(std::string_view text, const std::string& where) {
  std::vector<std::unordered_set<std::string>> keys;
  auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) fail(ErrorCode::kCorrupt, "{}: JSON nested deeper than {} levels", where, kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        fail(ErrorCode::kCorrupt, "{}: key \"{}\" appears twice", where, printable(key));
    }
    return true;
  };
  // The library takes a NUL for the end of its input.
  if (text.find('\0') != text.npos) fail(ErrorCode::kCorrupt, "{}: not valid JSON: holds a NUL byte", where);
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& e) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON ({}); is the download complete?", where, printable(e.what()));
  }
}

Json read_strict_json_file(const std::string& path, int64_t max_bytes) {
  return parse_strict_json(read_text_file(path, max_bytes), path);
}

}  // namespace tessera
