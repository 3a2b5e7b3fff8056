// Methods of str that take text apart and put it together; those on single characters are in jinja_string_case.cc.
#include <algorithm>
#include <cstring>

#include "text/jinja_access.h"
#include "text/jinja_format.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_string_methods.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

constexpr auto kPositional = Bound::kPositionalOnly;

// A slice of `self` with its kind of string.
Value part(Runtime& rt, const Value& self, size_t begin, size_t end) {
  return rt.string(self.text().slice(begin, end), self.is_markup());
}

// `value` as an argument of a method of `self`: Markup escapes what it takes in.
Value taken_in(Runtime& rt, const Value& self, const Value& value, const char* what) {
  need_text(value, what);
  return self.is_markup() ? escape_html(rt, value) : value;
}

struct Window {  // bytes [begin, end) that optional start and stop arguments select; begin > end when start is too far
  size_t begin, end;
};

Window window(Runtime& rt, const Value& self, const Value& start, const Value& stop) {
  std::string_view bytes = self.bytes();
  auto absent = [](const Value& v) { return v.is_missing() || v.is_none(); };
  if (absent(start) && absent(stop)) return {0, bytes.size()};
  auto count = static_cast<int64_t>(length(rt, self).as_int());
  auto clip = [&](const Value& value, int64_t otherwise) {
    if (absent(value)) return otherwise;
    int64_t at = need_size(value, "slice index");
    return at < 0 ? std::max<int64_t>(at + count, 0) : at;
  };
  int64_t first = clip(start, 0);
  int64_t last = std::min(clip(stop, count), count);
  if (first > last) return {1, 0};
  return {unicode::offset(bytes, first), unicode::offset(bytes, last)};
}

// The last `wanted` that ends at byte `end` or before, or npos. Quadratic at worst, and charged so.
size_t search_back(Runtime& rt, std::string_view within, std::string_view wanted, size_t end) {
  if (wanted.size() > end) return std::string_view::npos;
  size_t at = within.rfind(wanted, end - wanted.size());
  auto seen = static_cast<int64_t>(at == std::string_view::npos ? end : end - at);
  rt.step(seen / 8 + seen / 64 * static_cast<int64_t>(wanted.size() / 8) + 1);
  return at;
}

int64_t find(Runtime& rt, const Value& self, const Bound& bound, bool from_right) {
  const Text& wanted = need_text(bound[0], "substring");
  Window at = window(rt, self, bound[1], bound[2]);
  if (at.begin > at.end) return -1;
  std::string_view within = self.bytes().substr(at.begin, at.end - at.begin);
  size_t found =
      from_right ? search_back(rt, within, wanted.bytes(), within.size()) : search(rt, within, wanted.bytes());
  if (found == std::string_view::npos) return -1;
  return unicode::length(self.bytes().substr(0, at.begin + found));
}

Value str_find(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("find", args, {"sub", "start", "end"}, 1, kPositional);
  return Value::integer(find(rt, self, bound, false));
}

Value str_rfind(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("rfind", args, {"sub", "start", "end"}, 1, kPositional);
  return Value::integer(find(rt, self, bound, true));
}

Value str_index(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("index", args, {"sub", "start", "end"}, 1, kPositional);
  int64_t at = find(rt, self, bound, false);
  if (at < 0) raise("substring not found");
  return Value::integer(at);
}

Value str_rindex(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("rindex", args, {"sub", "start", "end"}, 1, kPositional);
  int64_t at = find(rt, self, bound, true);
  if (at < 0) raise("substring not found");
  return Value::integer(at);
}

Value str_count(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("count", args, {"sub", "start", "end"}, 1, kPositional);
  const std::string& wanted = need_text(bound[0], "substring").bytes();
  Window at = window(rt, self, bound[1], bound[2]);
  if (at.begin > at.end) return Value::integer(0);
  std::string_view within = self.bytes().substr(at.begin, at.end - at.begin);
  if (wanted.empty()) return Value::integer(unicode::length(within) + 1);
  Int count = 0;
  for (size_t i = search(rt, within, wanted); i != std::string_view::npos;
       i = search(rt, within, wanted, i + wanted.size()))
    ++count;
  return Value::integer(count);
}

Value has_affix(Runtime& rt, const Value& self, const Bound& bound, bool prefix) {
  Window at = window(rt, self, bound[1], bound[2]);
  auto matches = [&](const Value& affix) {
    const std::string& wanted = need_text(affix, prefix ? "startswith first arg" : "endswith first arg").bytes();
    if (at.begin > at.end || wanted.size() > at.end - at.begin) return false;
    size_t begin = prefix ? at.begin : at.end - wanted.size();
    return self.bytes().compare(begin, wanted.size(), wanted) == 0;
  };
  if (!bound[0].is(Kind::kTuple)) return Value::boolean(matches(bound[0]));
  for (const Value& affix : bound[0].items()) {
    if (matches(affix)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value str_startswith(Runtime& rt, const Value& self, const Args& args) {
  return has_affix(rt, self, Bound("startswith", args, {"prefix", "start", "end"}, 1, kPositional), true);
}

Value str_endswith(Runtime& rt, const Value& self, const Args& args) {
  return has_affix(rt, self, Bound("endswith", args, {"suffix", "start", "end"}, 1, kPositional), false);
}

Value str_removeprefix(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("removeprefix", args, {"prefix"}, 1, kPositional);
  const std::string& prefix = need_text(bound[0], "removeprefix() argument").bytes();
  bool has = self.bytes().substr(0, prefix.size()) == prefix;
  return part(rt, self, has ? prefix.size() : 0, self.bytes().size());
}

Value str_removesuffix(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("removesuffix", args, {"suffix"}, 1, kPositional);
  const std::string& suffix = need_text(bound[0], "removesuffix() argument").bytes();
  size_t size = self.bytes().size();
  bool has = suffix.size() <= size && self.bytes().substr(size - suffix.size()) == suffix;
  return part(rt, self, 0, has ? size - suffix.size() : size);
}

Value strip_ends(Runtime& rt, const char* name, const Value& self, const Args& args, Ends ends) {
  Bound bound(name, args, {"chars"}, 0, kPositional);
  bool whitespace = !bound.has(0) || bound[0].is_none();
  Text stripped = strip(rt, self.text(), whitespace ? nullptr : &need_text(bound[0], "strip arg"), ends);
  return rt.string(std::move(stripped), self.is_markup());
}

Value str_strip(Runtime& rt, const Value& self, const Args& args) {
  return strip_ends(rt, "strip", self, args, Ends::kBoth);
}
Value str_lstrip(Runtime& rt, const Value& self, const Args& args) {
  return strip_ends(rt, "lstrip", self, args, Ends::kLeft);
}
Value str_rstrip(Runtime& rt, const Value& self, const Args& args) {
  return strip_ends(rt, "rstrip", self, args, Ends::kRight);
}

// ---- split

using Cuts = std::vector<std::pair<size_t, size_t>>;  // the pieces, as bytes [first, second)

Cuts split_at(Runtime& rt, std::string_view text, std::string_view separator, int64_t limit) {
  Cuts cuts;
  size_t begin = 0;
  while (limit != 0) {
    size_t at = search(rt, text, separator, begin);
    if (at == std::string_view::npos) break;
    cuts.emplace_back(begin, at);
    begin = at + separator.size();
    if (limit > 0) --limit;
  }
  cuts.emplace_back(begin, text.size());
  return cuts;
}

Cuts split_at_right(Runtime& rt, std::string_view text, std::string_view separator, int64_t limit) {
  Cuts cuts;
  size_t end = text.size();
  while (limit != 0 && end >= separator.size()) {
    size_t at = search_back(rt, text, separator, end);
    if (at == std::string_view::npos) break;
    cuts.emplace_back(at + separator.size(), end);
    end = at;
    if (limit > 0) --limit;
  }
  cuts.emplace_back(0, end);
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

size_t skip(std::string_view text, size_t at, bool space) {
  uint32_t c = 0;
  while (at < text.size()) {
    size_t size = unicode::decode(text, at, &c);
    if (unicode::is_space(c) != space) break;
    at += size;
  }
  return at;
}

size_t skip_back(std::string_view text, size_t end, bool space) {
  uint32_t c = 0;
  while (end > 0) {
    size_t before = unicode::previous(text, end);
    unicode::decode(text, before, &c);
    if (unicode::is_space(c) != space) break;
    end = before;
  }
  return end;
}

Cuts split_words(std::string_view text, int64_t limit) {
  Cuts cuts;
  for (size_t at = skip(text, 0, true); at < text.size();) {
    if (limit == 0) {
      cuts.emplace_back(at, text.size());
      break;
    }
    size_t end = skip(text, at, false);
    cuts.emplace_back(at, end);
    at = skip(text, end, true);
    if (limit > 0) --limit;
  }
  return cuts;
}

Cuts split_words_right(std::string_view text, int64_t limit) {
  Cuts cuts;
  for (size_t end = skip_back(text, text.size(), true); end > 0;) {
    if (limit == 0) {
      cuts.emplace_back(0, end);
      break;
    }
    size_t begin = skip_back(text, end, false);
    cuts.emplace_back(begin, end);
    end = skip_back(text, begin, true);
    if (limit > 0) --limit;
  }
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

Value split(Runtime& rt, const char* name, const Value& self, const Args& args, bool from_right) {
  Bound bound(name, args, {"sep", "maxsplit"});
  int64_t limit = bound.has(1) ? need_size(bound[1], "maxsplit") : -1;
  Cuts cuts;
  if (!bound.has(0) || bound[0].is_none()) {
    rt.step(static_cast<int64_t>(self.bytes().size() / 4));
    cuts = from_right ? split_words_right(self.bytes(), limit) : split_words(self.bytes(), limit);
  } else {
    const std::string& separator = need_text(bound[0], "separator").bytes();
    if (separator.empty()) raise("empty separator");
    cuts =
        from_right ? split_at_right(rt, self.bytes(), separator, limit) : split_at(rt, self.bytes(), separator, limit);
  }
  std::vector<Value> parts;
  for (const auto& [begin, end] : cuts) parts.push_back(part(rt, self, begin, end));
  return rt.list(std::move(parts));
}

Value str_split(Runtime& rt, const Value& self, const Args& args) {
  return split(rt, "split", self, args, false);
}
Value str_rsplit(Runtime& rt, const Value& self, const Args& args) {
  return split(rt, "rsplit", self, args, true);
}

Value str_splitlines(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("splitlines", args, {"keepends"});
  bool keep = bound.has(0) && truthy(rt, bound[0]);
  std::string_view bytes = self.bytes();
  rt.step(static_cast<int64_t>(bytes.size() / 4));
  std::vector<Value> lines;
  uint32_t c = 0;
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    size_t size = unicode::decode(bytes, at, &c);
    if (!unicode::is_line_break(c)) {
      at += size;
      continue;
    }
    size_t end = at + size;
    if (c == '\r' && end < bytes.size() && bytes[end] == '\n') ++end;
    lines.push_back(part(rt, self, begin, keep ? end : at));
    begin = at = end;
  }
  if (begin < bytes.size()) lines.push_back(part(rt, self, begin, bytes.size()));
  return rt.list(std::move(lines));
}

Value partition(Runtime& rt, const char* name, const Value& self, const Args& args, bool from_right) {
  Bound bound(name, args, {"sep"}, 1, kPositional);
  const std::string& separator = need_text(bound[0], "separator").bytes();
  if (separator.empty()) raise("empty separator");
  size_t size = self.bytes().size();
  size_t at = from_right ? search_back(rt, self.bytes(), separator, size) : search(rt, self.bytes(), separator);
  Value nothing = rt.string(Text(), self.is_markup());
  if (at == std::string_view::npos)
    return from_right ? rt.tuple({nothing, nothing, self}) : rt.tuple({self, nothing, nothing});
  return rt.tuple(
      {part(rt, self, 0, at), part(rt, self, at, at + separator.size()), part(rt, self, at + separator.size(), size)});
}

Value str_partition(Runtime& rt, const Value& self, const Args& args) {
  return partition(rt, "partition", self, args, false);
}
Value str_rpartition(Runtime& rt, const Value& self, const Args& args) {
  return partition(rt, "rpartition", self, args, true);
}

// ---- put together

Value str_join(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("join", args, {"iterable"}, 1, kPositional);
  Builder out(rt);
  Value item;
  Int count = 0;
  for (Iteration it(rt, bound[0]); it.next(&item); ++count) {
    if (count > 0) out.append(self.text());
    if (self.is_markup()) item = escape_html(rt, item);
    if (!item.is_string())
      raise("sequence item {}: expected str instance, {} found", format_integer(count), type_name(item));
    out.append(item.text());
  }
  return out.value(self.is_markup());
}

Value str_replace(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("replace", args, {"old", "new", "count"}, 2, kPositional);
  const std::string& old = need_text(bound[0], "replace() argument 1").bytes();
  Value with = taken_in(rt, self, bound[1], "replace() argument 2");
  int64_t limit = bound.has(2) ? need_size(bound[2], "count") : -1;
  const Text& text = self.text();
  Builder out(rt);
  size_t copied = 0;
  if (old.empty()) {
    for (size_t at = 0; at <= text.size() && limit != 0; --limit) {
      rt.step();
      out.append(text, copied, at);
      out.append(with.text());
      copied = at;
      uint32_t c = 0;
      at += at < text.size() ? unicode::decode(text.bytes(), at, &c) : 1;
    }
  } else {
    while (limit != 0) {
      size_t at = search(rt, text.bytes(), old, copied);
      if (at == std::string::npos) break;
      out.append(text, copied, at);
      out.append(with.text());
      copied = at + old.size();
      --limit;
    }
  }
  out.append(text, copied, text.size());
  return out.value(self.is_markup());
}

Value pad(Runtime& rt, const char* name, const Value& self, const Args& args, Ends side) {
  Bound bound(name, args, {"width", "fillchar"}, 1, kPositional);
  Int width = need_integer(bound[0], "width");
  Value fill = bound.has(1) ? taken_in(rt, self, bound[1], "fillchar") : rt.string(" ");
  if (length(rt, fill).as_int() != 1) raise("The fill character must be exactly one character long");
  Int missing = std::max<Int>(width - length(rt, self).as_int(), 0);
  Int left = side == Ends::kLeft ? 0 : side == Ends::kRight ? missing : missing / 2 + (missing & width & 1);
  Builder out(rt);
  out.append_repeated(fill.text(), left);
  out.append(self.text());
  out.append_repeated(fill.text(), missing - left);
  return out.value(self.is_markup());
}

Value str_center(Runtime& rt, const Value& self, const Args& args) {
  return pad(rt, "center", self, args, Ends::kBoth);
}
Value str_ljust(Runtime& rt, const Value& self, const Args& args) {
  return pad(rt, "ljust", self, args, Ends::kLeft);
}
Value str_rjust(Runtime& rt, const Value& self, const Args& args) {
  return pad(rt, "rjust", self, args, Ends::kRight);
}

Value str_zfill(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("zfill", args, {"width"}, 1, kPositional);
  Int missing = need_integer(bound[0], "width") - length(rt, self).as_int();
  size_t sign = !self.bytes().empty() && (self.bytes()[0] == '-' || self.bytes()[0] == '+');
  Builder out(rt);
  out.append(self.text(), 0, sign);
  out.append_repeated(Text("0"), missing);
  out.append(self.text(), sign, self.text().size());
  return out.value(self.is_markup());
}

Value str_expandtabs(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("expandtabs", args, {"tabsize"});
  Int size = bound.has(0) ? need_integer(bound[0], "tabsize") : 8;
  const Text& text = self.text();
  rt.step(static_cast<int64_t>(text.size()));
  Builder out(rt);
  Int column = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text.bytes()[i];
    if (c == '\t') {
      if (size > 0) {
        Int spaces = size - column % size;
        out.append_repeated(Text(" ", text.marks_at(i)), spaces);
        column += spaces;
      }
      continue;
    }
    out.append(text, i, i + 1);
    if (c == '\n' || c == '\r') {
      column = 0;
    } else if ((static_cast<uint8_t>(c) & 0xc0) != 0x80) {
      ++column;
    }
  }
  return out.value(self.is_markup());
}

Value str_format(Runtime& rt, const Value& self, const Args& args) {
  return format_braces(rt, self, args);
}

Value str_format_map(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("format_map", args, {"mapping"}, 1, kPositional);
  if (!bound[0].is(Kind::kDict)) raise("format_map() needs a mapping, not {}", type_name(bound[0]));
  Args named;
  for (const auto& [key, value] : bound[0].dict().entries) {
    if (key.is_string()) named.named.emplace_back(std::string(key.bytes()), value);
  }
  return format_braces(rt, self, named);
}

Value str_refused(Runtime&, const Value&, const Args&) {
  fail(ErrorCode::kUnsupported, "the methods encode, maketrans and translate of str are not supported");
}

constexpr Method kMethods[] = {
    {"split", str_split},
    {"strip", str_strip},
    {"startswith", str_startswith},
    {"endswith", str_endswith},
    {"lstrip", str_lstrip},
    {"rstrip", str_rstrip},
    {"replace", str_replace},
    {"join", str_join},
    {"find", str_find},
    {"rfind", str_rfind},
    {"index", str_index},
    {"rindex", str_rindex},
    {"count", str_count},
    {"rsplit", str_rsplit},
    {"splitlines", str_splitlines},
    {"partition", str_partition},
    {"rpartition", str_rpartition},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"center", str_center},
    {"ljust", str_ljust},
    {"rjust", str_rjust},
    {"zfill", str_zfill},
    {"expandtabs", str_expandtabs},
    {"format", str_format},
    {"format_map", str_format_map},
    {"encode", str_refused},
    {"maketrans", str_refused},
    {"translate", str_refused},
};

}  // namespace

size_t search(Runtime& rt, std::string_view within, std::string_view wanted, size_t begin) {
  if (begin > within.size()) return std::string_view::npos;
  // memmem, unlike std::string_view::find, takes linear time also on "aaa...ab".
  const char* from = within.data() + begin;
  const void* found = wanted.empty() ? from : memmem(from, within.size() - begin, wanted.data(), wanted.size());
  size_t at =
      found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - within.data());
  rt.step(static_cast<int64_t>((std::min(at, within.size()) - begin + wanted.size()) / 4 + 1));
  return at;
}

Text strip(Runtime& rt, const Text& text, const Text* chars, Ends ends) {
  auto drops = [&](uint32_t c) {
    rt.step(1 + (chars == nullptr ? 0 : static_cast<int64_t>(chars->size() / 8)));
    if (chars == nullptr) return unicode::is_space(c);
    uint32_t other = 0;
    for (size_t i = 0; i < chars->size();) {
      i += unicode::decode(chars->bytes(), i, &other);
      if (other == c) return true;
    }
    return false;
  };
  uint32_t c = 0;
  size_t begin = 0;
  size_t end = text.size();
  while (ends != Ends::kRight && begin < end) {
    size_t size = unicode::decode(text.bytes(), begin, &c);
    if (!drops(c)) break;
    begin += size;
  }
  while (ends != Ends::kLeft && end > begin) {
    size_t before = unicode::previous(text.bytes(), end);
    unicode::decode(text.bytes(), before, &c);
    if (!drops(c)) break;
    end = before;
  }
  return text.slice(begin, end);
}

NativeFunction find_string_method(std::string_view name) {
  for (const Method& method : kMethods) {
    if (name == method.name) return method.function;
  }
  return find_case_method(name);
}

}  // namespace tessera::jinja
