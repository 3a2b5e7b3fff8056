#include "text/json_text.h"

#include <charconv>
#include <cmath>
#include <string_view>

#include "core/error.h"
#include "text/utf8_lossy.h"

namespace tessera {
namespace {

bool deeper_than(const OrderedJson& value, int levels) {
  if (!value.is_structured()) return false;
  if (levels == 0) return true;
  for (const OrderedJson& child : value) {
    if (deeper_than(child, levels - 1)) return true;
  }
  return false;
}

void write_string(std::string_view raw, std::string& out) {
  out += '"';
  for (char c : utf8_lossy(raw)) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// The shortest digits that read back as `value`, laid out as either writer lays them out.
void write_double(double value, JsonStyle style, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  if (std::signbit(value)) out += '-';
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), std::fabs(value), std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  std::string digits(text.substr(0, 1));
  if (e > 2) digits += text.substr(2, e - 2);
  int exponent = 0;
  const size_t sign = text[e + 1] == '+' ? 2 : 1;
  std::from_chars(text.data() + e + sign, text.data() + text.size(), exponent);
  const int point = exponent + 1;  // digits before the decimal point
  const int least = style == JsonStyle::kPython ? -3 : -4;
  if (value == 0) {
    out += "0.0";
  } else if (point > 16 || point < least) {
    out += digits[0];
    if (digits.size() > 1) out += '.';
    out.append(digits, 1);
    out += style == JsonStyle::kPython ? fmt::format("e{:+03d}", exponent) : fmt::format("e{}", exponent);
  } else if (point <= 0) {
    out += "0.";
    out.append(static_cast<size_t>(-point), '0');
    out += digits;
  } else if (static_cast<size_t>(point) >= digits.size()) {
    out += digits;
    out.append(static_cast<size_t>(point) - digits.size(), '0');
    out += ".0";
  } else {
    out.append(digits, 0, static_cast<size_t>(point));
    out += '.';
    out.append(digits, static_cast<size_t>(point));
  }
}

void write(const OrderedJson& value, JsonStyle style, std::string& out) {
  const std::string_view comma = style == JsonStyle::kPython ? ", " : ",";
  const std::string_view colon = style == JsonStyle::kPython ? ": " : ":";
  if (value.is_object()) {
    out += '{';
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (it != value.begin()) out += comma;
      write_string(it.key(), out);
      out += colon;
      write(it.value(), style, out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) out += comma;
      write(value[i], style, out);
    }
    out += ']';
  } else if (value.is_string()) {
    write_string(value.get_ref<const std::string&>(), out);
  } else if (value.is_number_float()) {
    write_double(value.get<double>(), style, out);
  } else {
    out += value.is_discarded() || value.is_binary() ? "null" : value.dump();
  }
}

}  // namespace

void check_json_depth(const OrderedJson& value, const std::string& what) {
  if (deeper_than(value, kMaxJsonDepth)) {
    fail(ErrorCode::kInvalidArgument, "{} nests deeper than {} levels; flatten it", what, kMaxJsonDepth);
  }
}

std::string json_text(const OrderedJson& value, JsonStyle style) {
  check_json_depth(value, "a JSON value");
  std::string out;
  write(value, style, out);
  return out;
}

}  // namespace tessera
