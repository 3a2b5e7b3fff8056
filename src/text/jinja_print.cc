#include "text/jinja_print.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_interpreter.h"
#include "text/jinja_operators.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

std::string format_integer(Int value) {
  if (value == 0) return "0";
  bool negative = value < 0;
  auto rest = negative ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits;
  for (; rest != 0; rest /= 10) digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
  if (negative) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

// Python writes an exponent below 1e-4 and from 1e16 on.
std::string format_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out = "-";
    text.remove_prefix(1);
  }
  size_t e = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + e + 1 + (text[e + 1] == '+');
  std::from_chars(digits_of_exponent, end, exponent);
  std::string digits(1, text.front());
  if (e > 2) digits += text.substr(2, e - 2);
  int n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (n > 1) out.append(".").append(digits, 1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (n <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - n), '0') + ".0";
  return out + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

std::string format_code_point(uint32_t c) {
  if (c < 0x100) return fmt::format("\\x{:02x}", c);
  return c < 0x10000 ? fmt::format("\\u{:04x}", c) : fmt::format("\\U{:08x}", c);
}

namespace {

void append_quoted(Runtime& rt, const Text& text, bool ascii_only, Builder* out) {
  const std::string& bytes = text.bytes();
  rt.step(static_cast<int64_t>(bytes.size() / 4));
  char quote = bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos ? '"' : '\'';
  out->append(std::string_view(&quote, 1));
  size_t copied = 0;
  for (size_t i = 0; i < bytes.size();) {
    uint32_t c = 0;
    size_t size = unicode::decode(bytes, i, &c);
    std::string escape;
    if (c == static_cast<uint8_t>(quote) || c == '\\') {
      escape = {'\\', static_cast<char>(c)};
    } else if (c == '\n') {
      escape = "\\n";
    } else if (c == '\r') {
      escape = "\\r";
    } else if (c == '\t') {
      escape = "\\t";
    } else if (!unicode::is_printable(c) || (ascii_only && c >= 0x80)) {
      escape = format_code_point(c);
    }
    if (!escape.empty()) {
      out->append(text, copied, i);
      out->append(escape, text.marks_at(i));
      copied = i + size;
    }
    i += size;
  }
  out->append(text, copied, bytes.size());
  out->append(std::string_view(&quote, 1));
}

class Reprs {
 public:
  Reprs(Runtime& rt, bool ascii_only, Builder* out) : rt_(rt), ascii_only_(ascii_only), out_(*out) {}

  void append(const Value& value) {
    Runtime::Depth depth(rt_);
    rt_.step();
    switch (value.kind()) {
      case Kind::kString:
        if (value.is_markup()) out_.append("Markup(");
        append_quoted(rt_, value.text(), ascii_only_, &out_);
        if (value.is_markup()) out_.append(")");
        return;
      case Kind::kList:
        return sequence(value.items(), "[", "]");
      case Kind::kTuple:
        return sequence(value.items(), "(", value.items().size() == 1 ? ",)" : ")");
      case Kind::kDict:
        return dict(value.dict());
      case Kind::kDictView: {
        out_.append(type_name(value) + "(");
        sequence(to_vector(rt_, value), "[", "])");
        return;
      }
      case Kind::kNamespace:
        out_.append("<Namespace ");
        dict(value.as<NamespaceObject>().attributes);
        return out_.append(">");
      default:
        out_.append(scalar(value));
    }
  }

 private:
  std::string scalar(const Value& value) {
    switch (value.kind()) {
      case Kind::kMissing:
      case Kind::kUndefined:
        return "Undefined";
      case Kind::kNone:
        return "None";
      case Kind::kBool:
        return value.as_bool() ? "True" : "False";
      case Kind::kInt:
        return format_integer(value.as_int());
      case Kind::kFloat:
        return format_float(value.as_float());
      case Kind::kRange: {
        auto& range = value.as<RangeObject>();
        std::string text = "range(" + format_integer(range.start) + ", " + format_integer(range.stop);
        return text + (range.step == 1 ? "" : ", " + format_integer(range.step)) + ")";
      }
      case Kind::kMacro:
        return describe_macro(value);
      case Kind::kLoop:
        return fmt::format("<LoopContext {}/{}>", format_integer(rt_.loop_attribute(value, "index").as_int()),
                           format_integer(rt_.loop_attribute(value, "length").as_int()));
      case Kind::kFunction:
        return fmt::format("<built-in {}>", value.as<FunctionObject>().name);
      default:
        return fmt::format("<{} object>", type_name(value));
    }
  }

  void sequence(const std::vector<Value>& items, std::string_view open, std::string_view close) {
    out_.append(open);
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.append(", ");
      append(items[i]);
    }
    out_.append(close);
  }

  void dict(const DictObject& dict) {
    out_.append("{");
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out_.append(", ");
      append(dict.entries[i].first);
      out_.append(": ");
      append(dict.entries[i].second);
    }
    out_.append("}");
  }

  Runtime& rt_;
  bool ascii_only_;
  Builder& out_;
};

class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonStyle& style, Builder* out) : rt_(rt), style_(style), out_(*out) {}

  void append(const Value& value, int level) {
    Runtime::Depth depth(rt_);
    rt_.step();
    switch (value.kind()) {
      case Kind::kNone:
        return out_.append("null");
      case Kind::kBool:
        return out_.append(value.as_bool() ? "true" : "false");
      case Kind::kInt:
        return out_.append(format_integer(value.as_int()));
      case Kind::kFloat:
        return out_.append(number(value.as_float()));
      case Kind::kString:
        return string(value.text());
      case Kind::kList:
      case Kind::kTuple:
        return array(value.items(), level);
      case Kind::kDict:
        return object(value.dict(), level);
      default:
        raise("Object of type {} is not JSON serializable", type_name(value));
    }
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return format_float(value);
  }

  void string(const Text& text) {
    out_.append("\"");
    const std::string& bytes = text.bytes();
    rt_.step(static_cast<int64_t>(bytes.size() / 16));
    size_t copied = 0;
    for (size_t i = 0; i < bytes.size();) {
      uint32_t c = static_cast<uint8_t>(bytes[i]);
      size_t size = c < 0x80 ? 1 : unicode::decode(bytes, i, &c);
      if (c < 0x20 || c == '"' || c == '\\' || (c >= 0x7f && style_.ensure_ascii)) {
        out_.append(text, copied, i);
        out_.append(escape(c), text.marks_at(i));
        copied = i + size;
      }
      i += size;
    }
    out_.append(text, copied, bytes.size());
    out_.append("\"");
  }

  static std::string escape(uint32_t c) {
    switch (c) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\f':
        return "\\f";
      case '\b':
        return "\\b";
      default:
        break;
    }
    if (c < 0x10000) return fmt::format("\\u{:04x}", c);
    c -= 0x10000;
    return fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
  }

  void line(int level) {
    if (!style_.indented) return;
    out_.append("\n");
    out_.append_repeated(style_.indent, level);
  }

  void array(const std::vector<Value>& items, int level) {
    if (items.empty()) return out_.append("[]");
    out_.append("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.append(style_.item_separator);
      line(level + 1);
      append(items[i], level + 1);
    }
    line(level);
    out_.append("]");
  }

  void object(const DictObject& dict, int level) {
    if (dict.entries.empty()) return out_.append("{}");
    auto entries = dict.entries;
    rt_.step(static_cast<int64_t>(entries.size()));
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto& a, const auto& b) { return less(rt_, a.first, b.first); });
    }
    out_.append("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_.append(style_.item_separator);
      line(level + 1);
      key(entries[i].first);
      out_.append(style_.key_separator);
      append(entries[i].second, level + 1);
    }
    line(level);
    out_.append("}");
  }

  void key(const Value& value) {
    switch (value.kind()) {
      case Kind::kString:
        return string(value.text());
      case Kind::kNone:
        return out_.append("\"null\"");
      case Kind::kBool:
        return out_.append(value.as_bool() ? "\"true\"" : "\"false\"");
      case Kind::kInt:
        return out_.append(fmt::format("\"{}\"", format_integer(value.as_int())));
      case Kind::kFloat:
        return out_.append(fmt::format("\"{}\"", number(value.as_float())));
      default:
        raise("keys must be str, int, float, bool or None, not {}", type_name(value));
    }
  }

  Runtime& rt_;
  const JsonStyle& style_;
  Builder& out_;
};

}  // namespace

void append_str(Runtime& rt, const Value& value, Builder* out) {
  if (value.is_string()) return out->append(value.text());
  if (value.is_undefined()) return;
  append_repr(rt, value, out);
}

void append_repr(Runtime& rt, const Value& value, Builder* out) {
  Reprs(rt, false, out).append(value);
}

void append_ascii(Runtime& rt, const Value& value, Builder* out) {
  Reprs(rt, true, out).append(value);
}

Value to_str(Runtime& rt, const Value& value) {
  if (value.is_string() && !value.is_markup()) return value;
  Builder out(rt);
  append_str(rt, value, &out);
  return out.value();
}

void append_json(Runtime& rt, const Value& value, const JsonStyle& style, Builder* out) {
  JsonWriter(rt, style, out).append(value, 0);
}

}  // namespace tessera::jinja
