#include "text/jinja_access.h"
#include "text/jinja_string_methods.h"
#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace tessera::jinja {

namespace {

// Each character through `map`, marks kept.
template <class F>
Value map_characters(Runtime& rt, const char* name, const Value& self, const Args& args, F map) {
  Bound bound(name, args, {});
  const Text& text = self.text();
  rt.step(static_cast<int64_t>(text.size()));
  Builder out(rt);
  std::string mapped;
  for (size_t i = 0; i < text.size();) {
    uint32_t c = 0;
    size_t size = unicode::decode(text.bytes(), i, &c);
    mapped.clear();
    map(i, c, &mapped);
    out.append(mapped, text.marks_at(i));
    i += size;
  }
  return out.value(self.is_markup());
}

Value str_upper(Runtime& rt, const Value& self, const Args& args) {
  return map_characters(rt, "upper", self, args,
                        [](size_t, uint32_t c, std::string* out) { unicode::append_upper(c, out); });
}

Value str_lower(Runtime& rt, const Value& self, const Args& args) {
  return map_characters(rt, "lower", self, args, [&](size_t at, uint32_t c, std::string* out) {
    unicode::append_lower(self.bytes(), at, c, out);
  });
}

Value str_casefold(Runtime& rt, const Value& self, const Args& args) {
  return map_characters(rt, "casefold", self, args,
                        [](size_t, uint32_t c, std::string* out) { unicode::append_folded(c, out); });
}

Value str_swapcase(Runtime& rt, const Value& self, const Args& args) {
  return map_characters(rt, "swapcase", self, args, [&](size_t at, uint32_t c, std::string* out) {
    if (unicode::is_upper(c)) {
      unicode::append_lower(self.bytes(), at, c, out);
    } else if (unicode::is_lower(c)) {
      unicode::append_upper(c, out);
    } else {
      utf8_append(*out, c);
    }
  });
}

Value str_capitalize(Runtime& rt, const Value& self, const Args& args) {
  return map_characters(rt, "capitalize", self, args, [&](size_t at, uint32_t c, std::string* out) {
    at == 0 ? unicode::append_title(c, out) : unicode::append_lower(self.bytes(), at, c, out);
  });
}

Value str_title(Runtime& rt, const Value& self, const Args& args) {
  bool inside = false;
  return map_characters(rt, "title", self, args, [&](size_t at, uint32_t c, std::string* out) {
    inside ? unicode::append_lower(self.bytes(), at, c, out) : unicode::append_title(c, out);
    inside = unicode::is_cased(c);
  });
}

// True when every character passes and there is at least one.
template <bool (*kTest)(uint32_t), bool kEmpty = false>
Value all_characters(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("is...", args, {});
  rt.step(static_cast<int64_t>(self.bytes().size() / 2));
  for (size_t i = 0; i < self.bytes().size();) {
    uint32_t c = 0;
    i += unicode::decode(self.bytes(), i, &c);
    if (!kTest(c)) return Value::boolean(false);
  }
  return Value::boolean(kEmpty || !self.bytes().empty());
}

bool is_ascii(uint32_t c) {
  return c < 0x80;
}

template <bool (*kWanted)(uint32_t), bool (*kOther)(uint32_t)>
Value all_cased(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("is...", args, {});
  rt.step(static_cast<int64_t>(self.bytes().size() / 2));
  bool any = false;
  for (size_t i = 0; i < self.bytes().size();) {
    uint32_t c = 0;
    i += unicode::decode(self.bytes(), i, &c);
    if (kOther(c) || unicode::is_title(c)) return Value::boolean(false);
    any |= kWanted(c);
  }
  return Value::boolean(any);
}

Value str_istitle(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("istitle", args, {});
  rt.step(static_cast<int64_t>(self.bytes().size() / 2));
  bool any = false;
  bool inside = false;
  for (size_t i = 0; i < self.bytes().size();) {
    uint32_t c = 0;
    i += unicode::decode(self.bytes(), i, &c);
    bool begins = unicode::is_upper(c) || unicode::is_title(c);
    bool follows = unicode::is_lower(c);
    if ((begins && inside) || (follows && !inside)) return Value::boolean(false);
    inside = begins || follows;
    any |= inside;
  }
  return Value::boolean(any);
}

Value str_isidentifier(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("isidentifier", args, {});
  rt.step(static_cast<int64_t>(self.bytes().size() / 2));
  for (size_t i = 0; i < self.bytes().size();) {
    uint32_t c = 0;
    size_t size = unicode::decode(self.bytes(), i, &c);
    bool valid = c == '_' || unicode::is_alpha(c) || (i > 0 && unicode::is_decimal(c));
    if (!valid) return Value::boolean(false);
    i += size;
  }
  return Value::boolean(!self.bytes().empty());
}

constexpr Method kMethods[] = {
    {"lower", str_lower},
    {"upper", str_upper},
    {"title", str_title},
    {"capitalize", str_capitalize},
    {"casefold", str_casefold},
    {"swapcase", str_swapcase},
    {"isalnum", all_characters<unicode::is_alnum>},
    {"isalpha", all_characters<unicode::is_alpha>},
    {"isascii", all_characters<is_ascii, true>},
    {"isdecimal", all_characters<unicode::is_decimal>},
    {"isdigit", all_characters<unicode::is_digit>},
    {"isnumeric", all_characters<unicode::is_numeric>},
    {"isprintable", all_characters<unicode::is_printable, true>},
    {"isspace", all_characters<unicode::is_space>},
    {"islower", all_cased<unicode::is_lower, unicode::is_upper>},
    {"isupper", all_cased<unicode::is_upper, unicode::is_lower>},
    {"istitle", str_istitle},
    {"isidentifier", str_isidentifier},
};

}  // namespace

NativeFunction find_case_method(std::string_view name) {
  for (const Method& method : kMethods) {
    if (name == method.name) return method.function;
  }
  return nullptr;
}

}  // namespace tessera::jinja
