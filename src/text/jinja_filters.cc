// The table of filters, and those on single values.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_access.h"
#include "text/jinja_builtins.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

constexpr size_t kMaxJsonText = size_t{128} << 10;  // the JSON library takes quadratic time in the keys of an object

Value filter_abs(Runtime&, const Value& self, const Args& args) {
  Bound bound("abs", args, {});
  reject_undefined(self);
  if (!self.is_number()) raise("bad operand type for abs(): '{}'", type_name(self));
  if (self.is(Kind::kFloat)) return Value::real(std::fabs(self.as_float()));
  return self.as_int() < 0 ? negate(self) : positive(self);
}

Value filter_attr(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("attr", args, {"name"}, 1);
  return get_attribute_only(rt, self, need_text(bound[0], "attribute name").bytes());
}

Value filter_default(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("default", args, {"default_value", "boolean"});
  bool replace = self.is_undefined() || (bound.has(1) && truthy(rt, bound[1]) && !truthy(rt, self));
  if (!replace) return self;
  return bound.has(0) ? bound[0] : rt.string("");
}

Value filter_escape(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("escape", args, {});
  return escape_html(rt, self);
}

Value filter_forceescape(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("forceescape", args, {});
  return escape_html(rt, to_str(rt, self));
}

Value filter_safe(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("safe", args, {});
  Builder out(rt);
  append_str(rt, self, &out);
  return out.value(true);
}

Value filter_string(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("string", args, {});
  return self.is_string() ? self : to_str(rt, self);
}

Value filter_length(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("length", args, {});
  return length(rt, self);
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
char to_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
}
bool is_alnum(char c) {
  return is_digit(c) || (to_lower(c) >= 'a' && to_lower(c) <= 'z');
}

// Digits of a Python number with its underscores taken out; empty when an underscore stands wrong.
std::string plain_digits(std::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      plain.push_back(text[i]);
      continue;
    }
    if (i == 0 || i + 1 == text.size() || !is_alnum(text[i - 1]) || !is_alnum(text[i + 1])) return "";
  }
  return plain;
}

// Python's int(text, base). False: not a number.
bool parse_integer(std::string_view text, int64_t base, Int* value) {
  text = unicode::trim(text);
  bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  auto prefix = [&](char letter) { return text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == letter; };
  int64_t named = prefix('x') ? 16 : prefix('o') ? 8 : prefix('b') ? 2 : 0;
  bool zero_base = base == 0;
  if (named != 0 && (base == named || zero_base)) {
    base = named;
    text.remove_prefix(2);
    if (!text.empty() && text[0] == '_') text.remove_prefix(1);
  } else if (zero_base) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != std::string_view::npos) return false;
  }
  std::string plain = plain_digits(text);
  if (plain.empty()) return false;
  *value = 0;
  for (char c : plain) {
    int digit = is_digit(c) ? c - '0' : is_alnum(c) ? to_lower(c) - 'a' + 10 : 99;
    if (digit >= base) return false;
    if (__builtin_mul_overflow(*value, static_cast<Int>(base), value) ||
        __builtin_add_overflow(*value, static_cast<Int>(digit), value)) {
      raise("integer overflow: '{}' has more than 128 bits", text);
    }
  }
  if (negative) *value = -*value;
  return true;
}

// Python's float(text). False: not a number.
bool parse_float(std::string_view text, double* value) {
  text = unicode::trim(text);
  bool negative = !text.empty() && text[0] == '-';
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  std::string plain = plain_digits(text);
  std::transform(plain.begin(), plain.end(), plain.begin(), to_lower);
  if (plain == "inf" || plain == "infinity") {
    *value = HUGE_VAL;
  } else if (plain == "nan") {
    *value = std::nan("");
  } else {
    if (plain.empty() || plain.find_first_not_of("0123456789.e+-") != std::string::npos || plain[0] == '-')
      return false;
    auto read = std::from_chars(plain.data(), plain.data() + plain.size(), *value);
    if (read.ptr != plain.data() + plain.size() || read.ec == std::errc::invalid_argument) return false;
    if (read.ec == std::errc::result_out_of_range) *value = plain.find("e-") != std::string::npos ? 0.0 : HUGE_VAL;
  }
  if (negative) *value = -*value;
  return true;
}

Value filter_int(Runtime&, const Value& self, const Args& args) {
  Bound bound("int", args, {"default", "base"});
  Int value = 0;
  double real = 0;
  reject_undefined(self);
  if (self.is_integer()) return Value::integer(self.as_int());
  if (self.is(Kind::kFloat)) {
    real = self.as_float();
    if (std::isinf(real)) raise("cannot convert float infinity to integer");
  } else if (self.is_string()) {
    int64_t base = bound.has(1) ? need_size(bound[1], "base") : 10;
    bool valid_base = base == 0 || (base >= 2 && base <= 36);
    if (valid_base && parse_integer(self.bytes(), base, &value)) return Value::integer(value);
    if (!parse_float(self.bytes(), &real) || std::isinf(real)) return bound.get(0, Value::integer(0));
  } else {
    return bound.get(0, Value::integer(0));
  }
  if (std::isnan(real)) return bound.get(0, Value::integer(0));
  return Value::integer(float_to_integer(real));
}

Value filter_float(Runtime&, const Value& self, const Args& args) {
  Bound bound("float", args, {"default"});
  double value = 0;
  reject_undefined(self);
  if (self.is_number()) return Value::real(self.as_float());
  if (self.is_string() && parse_float(self.bytes(), &value)) return Value::real(value);
  return bound.get(0, Value::real(0));
}

// Half to even of an integer at 10^digits.
Value round_integer(Int value, Int digits) {
  if (digits > 38) return Value::integer(0);
  Int unit = 1;
  for (Int i = 0; i < digits; ++i) unit *= 10;
  Int rest = value % unit;
  Int down = value - rest;
  Int magnitude = rest < 0 ? -rest : rest;
  bool away = magnitude > unit - magnitude || (magnitude == unit - magnitude && (down / unit) % 2 != 0);
  return Value::integer(!away ? down : rest < 0 ? down - unit : down + unit);
}

// Correctly rounded, through the decimal expansion.
double round_float(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -310) return std::copysign(0.0, value);
  if (digits >= 0) {
    char buffer[1500];
    auto end =
        std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, static_cast<int>(digits)).ptr;
    double rounded = value;
    std::from_chars(buffer, end, rounded);
    return rounded;
  }
  double unit = std::pow(10.0, static_cast<double>(-digits));
  double scaled = value / unit;
  double rounded = std::nearbyint(scaled) * unit;
  if (!std::isfinite(rounded)) raise("rounded value too large to represent");
  return rounded;
}

Value filter_round(Runtime&, const Value& self, const Args& args) {
  Bound bound("round", args, {"precision", "method"});
  std::string_view method = bound.has(1) ? std::string_view(need_text(bound[1], "method").bytes()) : "common";
  if (method != "common" && method != "ceil" && method != "floor") raise("method must be common, ceil or floor");
  reject_undefined(self);
  if (!self.is_number()) raise("type {} doesn't define __round__ method", type_name(self));
  if (method == "common") {
    if (bound.has(0) && bound[0].is_none()) {
      return self.is_integer() ? positive(self) : Value::integer(float_to_integer(std::nearbyint(self.as_float())));
    }
    int64_t digits = bound.has(0) ? need_size(bound[0], "precision") : 0;
    if (self.is(Kind::kFloat)) return Value::real(round_float(self.as_float(), digits));
    return digits >= 0 ? positive(self) : round_integer(self.as_int(), digits < -1000 ? 1000 : -digits);
  }
  Int digits = bound.has(0) ? need_integer(bound[0], "precision") : 0;
  if (digits < -400 || digits > 400) raise("precision {} is out of range", format_integer(digits));
  double unit = std::pow(10.0, static_cast<double>(digits));
  double scaled = self.as_float() * unit;
  if (!std::isfinite(scaled)) raise("cannot convert float infinity or NaN to integer");
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Value filter_tojson(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.has(0) && truthy(rt, bound[0]);
  style.sort_keys = bound.has(3) && truthy(rt, bound[3]);
  if (bound.has(1) && !bound[1].is_none()) {
    style.indented = true;
    style.item_separator = Text(",");
    if (bound[1].is_string()) {
      style.indent = bound[1].text();
    } else {
      Int width = need_integer(bound[1], "indent");
      rt.charge_output(static_cast<size_t>(std::clamp<Int>(width, 0, rt.options().max_output_bytes)));
      if (width > 10000) raise("indent {} is too large", format_integer(width));
      style.indent = Text(std::string(static_cast<size_t>(std::max<Int>(width, 0)), ' '));
    }
  }
  if (bound.has(2) && !bound[2].is_none()) {
    std::vector<Value> pair = to_vector(rt, bound[2]);
    if (pair.size() != 2) raise("separators must be a pair, not {} items", pair.size());
    style.item_separator = need_text(pair[0], "item separator");
    style.key_separator = need_text(pair[1], "key separator");
  }
  Builder out(rt);
  append_json(rt, self, style, &out);
  return out.value();
}

// Not in jinja2, but templates that need it are published.
Value filter_from_json(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("from_json", args, {});
  const Text& text = need_text(self, "from_json's input");
  if (text.size() > kMaxJsonText) raise("from_json: a text of more than {} bytes", kMaxJsonText);
  rt.step(static_cast<int64_t>(text.size()));
  OrderedJson json = OrderedJson::parse(text.bytes(), nullptr, false);
  if (json.is_discarded()) raise("from_json: the text is not valid JSON");
  return rt.from_json(json, text.empty() ? 0 : text.marks_at(0));
}

Value filter_format_size(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("filesizeformat", args, {"binary"});
  double bytes = 0;
  reject_undefined(self);
  if (self.is_number()) {
    bytes = self.as_float();
  } else if (!self.is_string() || !parse_float(self.bytes(), &bytes)) {
    raise("could not convert to float: {}", type_name(self));
  }
  bool binary = bound.has(0) && truthy(rt, bound[0]);
  double base = binary ? 1024 : 1000;
  if (bytes == 1) return rt.string("1 Byte");
  if (bytes < base) return rt.string(format_integer(float_to_integer(bytes)) + " Bytes");
  static constexpr const char* kDecimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
  static constexpr const char* kBinary[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
  double unit = base * base;
  int i = 0;
  for (; i < 7 && !(bytes < unit); ++i) unit *= base;
  double value = base * bytes / unit;
  char buffer[400];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, 1).ptr;
  return rt.string(std::string(buffer, end) + " " + (binary ? kBinary : kDecimal)[i]);
}

Value filter_refused(Runtime&, const Value&, const Args&) {
  fail(ErrorCode::kUnsupported, "the filters pprint, random, urlize and wordwrap are not supported");
}

const std::vector<NamedFunction>& value_filters() {
  static const std::vector<NamedFunction> kTable = {
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"count", filter_length},
      {"d", filter_default},
      {"default", filter_default},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"filesizeformat", filter_format_size},
      {"float", filter_float},
      {"forceescape", filter_forceescape},
      {"from_json", filter_from_json},
      {"int", filter_int},
      {"length", filter_length},
      {"pprint", filter_refused},
      {"random", filter_refused},
      {"round", filter_round},
      {"safe", filter_safe},
      {"string", filter_string},
      {"tojson", filter_tojson},
      {"urlize", filter_refused},
      {"wordwrap", filter_refused},
  };
  return kTable;
}

}  // namespace

NativeFunction find_filter(std::string_view name) {
  for (const auto* table : {&value_filters(), &text_filters(), &sequence_filters()}) {
    for (const NamedFunction& entry : *table) {
      if (name == entry.name) return entry.function;
    }
  }
  return nullptr;
}

Value run_filter(Runtime& rt, std::string_view name, const Value& value, const Args& args) {
  NativeFunction filter = find_filter(name);
  if (filter == nullptr) raise("No filter named '{}'.", name);
  return filter(rt, value, args);
}

}  // namespace tessera::jinja
