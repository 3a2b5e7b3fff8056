#include "text/jinja_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace tessera::jinja {

namespace {

constexpr int kMaxPrecision = 1100;  // more digits than a double has after the point

struct Spec {
  Text fill = Text(" ");
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  Int width = 0;
  char grouping = 0;  // , or _
  int precision = -1;
  char type = 0;
};

// Sign and magnitude of a number, already as text, laid out in its field.
void append_field(Runtime& rt, const Spec& spec, char default_align, const Text& prefix, const Text& body,
                  Builder* out) {
  Int missing = spec.width - unicode::length(prefix.bytes()) - unicode::length(body.bytes());
  missing = std::max<Int>(missing, 0);
  rt.charge_output(static_cast<size_t>(std::min<Int>(missing, std::numeric_limits<int64_t>::max())));
  char align = spec.align != 0 ? spec.align : default_align;
  Int before = align == '<' || align == '=' ? 0 : align == '^' ? missing / 2 : missing;
  out->append_repeated(spec.fill, before);
  out->append(prefix);
  if (align == '=') {
    out->append_repeated(spec.fill, missing);
    before = missing;
  }
  out->append(body);
  out->append_repeated(spec.fill, missing - before);
}

std::string digits_in_base(Int value, unsigned base, bool upper) {
  auto rest = value < 0 ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits;
  const char* alphabet = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  do {
    digits.push_back(alphabet[static_cast<unsigned>(rest % base)]);
    rest /= base;
  } while (rest != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string group_digits(const std::string& digits, char separator, size_t every) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % every == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

// |value| in one of printf's e, f, g styles.
std::string float_digits(double value, char type, int precision) {
  if (std::isnan(value) || std::isinf(value)) {
    std::string text = std::isnan(value) ? "nan" : "inf";
    if (type == 'E' || type == 'F' || type == 'G') std::transform(text.begin(), text.end(), text.begin(), ::toupper);
    return text;
  }
  std::chars_format style = std::chars_format::general;
  if (type == 'e' || type == 'E') style = std::chars_format::scientific;
  if (type == 'f' || type == 'F') style = std::chars_format::fixed;
  char buffer[kMaxPrecision + 400];
  char* end = std::to_chars(buffer, buffer + sizeof buffer, std::fabs(value), style, precision).ptr;
  std::string text(buffer, end);
  if (type == 'E' || type == 'G') std::transform(text.begin(), text.end(), text.begin(), ::toupper);
  return text;
}

int checked_precision(Int precision) {
  if (precision > kMaxPrecision) raise("precision {} is too large for a template", format_integer(precision));
  return static_cast<int>(precision);
}

char sign_of(bool negative, char wanted) {
  return negative ? '-' : wanted == '-' ? 0 : wanted;
}

}  // namespace

// ---- "%d" % x

namespace {

class Percent {
 public:
  Percent(Runtime& rt, const Value& format, const Value& arguments)
      : rt_(rt), format_(format), arguments_(arguments), out_(rt), bytes_(format.bytes()) {}

  Value run() {
    while (at_ < bytes_.size()) {
      size_t percent = std::min(bytes_.find('%', at_), bytes_.size());
      out_.append(format_.text(), at_, percent);
      at_ = percent;
      if (at_ < bytes_.size()) directive();
    }
    bool all_used = arguments_.is(Kind::kTuple) ? used_ >= arguments_.items().size() : used_ > 0 || is_mapping();
    if (!all_used) raise("not all arguments converted during string formatting");
    return out_.value(format_.is_markup());
  }

 private:
  bool is_mapping() const {
    return arguments_.is(Kind::kDict) || arguments_.is(Kind::kList) || arguments_.is_undefined() ||
           arguments_.is(Kind::kRange) || arguments_.is(Kind::kNamespace);
  }

  char peek() const {
    if (at_ >= bytes_.size()) raise("incomplete format");
    return bytes_[at_];
  }

  Value next_argument() {
    if (!arguments_.is(Kind::kTuple)) {
      if (used_++ > 0) raise("not enough arguments for format string");
      return arguments_;
    }
    if (used_ >= arguments_.items().size()) raise("not enough arguments for format string");
    return arguments_.items()[used_++];
  }

  Value named_argument() {
    size_t begin = ++at_;
    for (int open = 1; open > 0; ++at_) {
      if (at_ >= bytes_.size()) raise("incomplete format key");
      open += bytes_[at_] == '(' ? 1 : bytes_[at_] == ')' ? -1 : 0;
    }
    reject_undefined(arguments_);
    if (!arguments_.is(Kind::kDict)) raise("format requires a mapping");
    std::string_view key = bytes_.substr(begin, at_ - 1 - begin);
    const Value* found = arguments_.dict().find(key);
    if (found == nullptr) raise("format key '{}' is missing", key);
    used_ = 1;
    return *found;
  }

  Int number() {
    if (peek() == '*') {
      ++at_;
      return need_integer(next_argument(), "* in a format");
    }
    Int value = 0;
    while (at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9') {
      value = value * 10 + (bytes_[at_++] - '0');
      if (value > std::numeric_limits<int32_t>::max()) raise("width or precision too big");
    }
    return value;
  }

  void directive() {
    rt_.step();
    ++at_;
    if (peek() == '%') {
      out_.append(format_.text(), at_, at_ + 1);
      ++at_;
      return;
    }
    Value value;
    if (peek() == '(') value = named_argument();
    Spec spec;
    bool zero = false;
    for (;; ++at_) {
      char flag = peek();
      if (flag == '-') {
        spec.align = '<';
      } else if (flag == '+' || (flag == ' ' && spec.sign == '-')) {
        spec.sign = flag;
      } else if (flag == '#') {
        spec.alternate = true;
      } else if (flag == '0') {
        zero = true;
      } else if (flag != ' ') {
        break;
      }
    }
    spec.width = number();
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++at_;
      spec.precision = checked_precision(std::max<Int>(number(), 0));
    }
    if (peek() == 'h' || peek() == 'l' || peek() == 'L') ++at_;
    spec.type = peek();
    ++at_;
    if (spec.type == '%') return out_.append("%");
    if (value.is_missing()) value = next_argument();
    if (zero && spec.align == 0) {
      spec.align = '=';
      spec.fill = Text("0");
    }
    convert(spec, value);
  }

  void convert(Spec& spec, const Value& value) {
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a':
        return text(spec, value);
      case 'c':
        return character(spec, value);
      case 'd':
      case 'i':
      case 'u':
        return integer(spec, value);
      case 'x':
      case 'X':
      case 'o':
        reject_undefined(value);
        if (!value.is_integer()) raise("%{} format: an integer is required, not {}", spec.type, type_name(value));
        return integer(spec, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': {
        reject_undefined(value);
        if (!value.is_number()) raise("must be real number, not {}", type_name(value));
        double real = value.as_float();
        std::string digits = float_digits(real, spec.type, spec.precision < 0 ? 6 : spec.precision);
        return field(spec, std::signbit(real) && !std::isnan(real), "", digits);
      }
      default:
        raise("unsupported format character '{}'", spec.type);
    }
  }

  void text(Spec& spec, const Value& value) {
    Builder plain(rt_);
    if (spec.type == 's') {
      append_str(rt_, value, &plain);
    } else {
      spec.type == 'r' ? append_repr(rt_, value, &plain) : append_ascii(rt_, value, &plain);
    }
    Text body = plain.take();
    if (format_.is_markup() && !(spec.type == 's' && value.is_markup())) {
      body = escape_html(rt_, rt_.string(std::move(body))).text();
    }
    if (spec.precision >= 0) body.resize(unicode::offset(body.bytes(), spec.precision));
    spec.fill = Text(" ");
    if (spec.align == '=') spec.align = 0;
    append_field(rt_, spec, '>', Text(), body, &out_);
  }

  void character(Spec& spec, const Value& value) {
    Text body;
    if (value.is_string() && unicode::length(value.bytes()) == 1) {
      body = value.text();
    } else {
      reject_undefined(value);
      if (!value.is_integer()) raise("%c requires int or char");
      Int c = value.as_int();
      if (c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) raise("%c arg not in range(0x110000)");
      std::string bytes;
      utf8_append(bytes, static_cast<uint32_t>(c));
      body = Text(bytes);
    }
    spec.fill = Text(" ");
    if (spec.align == '=') spec.align = 0;
    append_field(rt_, spec, '>', Text(), body, &out_);
  }

  void integer(Spec& spec, const Value& value) {
    reject_undefined(value);
    if (!value.is_number()) raise("%{} format: a real number is required, not {}", spec.type, type_name(value));
    Int number = value.is_integer() ? value.as_int() : float_to_integer(value.as_float());
    unsigned base = spec.type == 'x' || spec.type == 'X' ? 16 : spec.type == 'o' ? 8 : 10;
    std::string digits = digits_in_base(number, base, spec.type == 'X');
    if (spec.precision > static_cast<int>(digits.size())) {
      digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
    }
    std::string prefix;
    if (spec.alternate && base != 10) prefix = std::string("0") + (base == 8 ? 'o' : spec.type);
    field(spec, number < 0, prefix, digits);
  }

  void field(const Spec& spec, bool negative, const std::string& prefix, const std::string& digits) {
    std::string front;
    if (char sign = sign_of(negative, spec.sign); sign != 0) front.push_back(sign);
    append_field(rt_, spec, '>', Text(front + prefix), Text(digits), &out_);
  }

  Runtime& rt_;
  const Value& format_;
  const Value& arguments_;
  Builder out_;
  std::string_view bytes_;
  size_t at_ = 0;
  size_t used_ = 0;
};

}  // namespace

Value format_percent(Runtime& rt, const Value& format, const Value& arguments) {
  return Percent(rt, format, arguments).run();
}

// ---- format(value, spec)

namespace {

Spec parse_spec(const Text& text) {
  Spec spec;
  const std::string& bytes = text.bytes();
  size_t at = 0;
  auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!bytes.empty()) {
    uint32_t c = 0;
    size_t first = unicode::decode(bytes, 0, &c);
    if (first < bytes.size() && is_align(bytes[first])) {
      spec.fill = text.slice(0, first);
      spec.align = bytes[first];
      at = first + 1;
    } else if (is_align(bytes[0])) {
      spec.align = bytes[0];
      at = 1;
    }
  }
  auto take = [&](std::string_view any) -> char {
    return at < bytes.size() && any.find(bytes[at]) != std::string_view::npos ? bytes[at++] : 0;
  };
  auto number = [&](Int* value) {
    size_t begin = at;
    for (*value = 0; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9'; ++at) {
      *value = *value * 10 + (bytes[at] - '0');
      if (*value > std::numeric_limits<int32_t>::max()) raise("Too many decimal digits in format string");
    }
    return at > begin;
  };
  if (char sign = take("+- "); sign != 0) spec.sign = sign;
  spec.alternate = take("#") != 0;
  if (take("0") != 0 && spec.align == 0) {
    spec.align = '=';
    spec.fill = Text("0");
  }
  number(&spec.width);
  spec.grouping = take(",_");
  if (take(".") != 0) {
    Int precision = 0;
    if (!number(&precision)) raise("Format specifier missing precision");
    spec.precision = checked_precision(precision);
  }
  if (at < bytes.size()) spec.type = bytes[at++];
  if (at < bytes.size()) raise("Invalid format specifier '{}'", bytes);
  return spec;
}

[[noreturn]] void unknown_type(const Spec& spec, const Value& value) {
  raise("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
}

// Pads with zeros inside the grouping, as Python does for '0' with '='.
std::string zero_grouped(std::string digits, const Spec& spec, size_t every, size_t front, Runtime& rt) {
  if (spec.grouping == 0) return digits;
  std::string grouped = group_digits(digits, spec.grouping, every);
  if (spec.align != '=' || spec.fill.bytes() != "0") return grouped;
  rt.charge_output(static_cast<size_t>(spec.width));
  while (static_cast<Int>(grouped.size() + front) < spec.width) {
    size_t missing = static_cast<size_t>(spec.width) - grouped.size() - front;
    digits.insert(0, std::max<size_t>(1, missing * every / (every + 1)), '0');
    grouped = group_digits(digits, spec.grouping, every);
  }
  return grouped;
}

void append_integer(Runtime& rt, const Value& value, const Spec& spec, Builder* out) {
  Int number = value.as_int();
  if (spec.precision >= 0) raise("Precision not allowed in integer format specifier");
  if (spec.type == 'c') {
    if (number < 0 || number > 0x10ffff || (number >= 0xd800 && number < 0xe000))
      raise("%c arg not in range(0x110000)");
    std::string bytes;
    utf8_append(bytes, static_cast<uint32_t>(number));
    return append_field(rt, spec, '>', Text(), Text(bytes), out);
  }
  unsigned base = spec.type == 'x' || spec.type == 'X' ? 16 : spec.type == 'o' ? 8 : spec.type == 'b' ? 2 : 10;
  if (spec.grouping == ',' && base != 10) raise("Cannot specify ',' with '{}'.", spec.type);
  std::string front;
  if (char sign = sign_of(number < 0, spec.sign); sign != 0) front.push_back(sign);
  if (spec.alternate && base != 10) front += std::string("0") + spec.type;
  std::string digits =
      zero_grouped(digits_in_base(number, base, spec.type == 'X'), spec, base == 10 ? 3 : 4, front.size(), rt);
  append_field(rt, spec, '>', Text(front), Text(digits), out);
}

void append_real(Runtime& rt, const Value& value, const Spec& spec, Builder* out) {
  double number = value.as_float();
  char type = spec.type == 'n' ? 'g' : spec.type;
  std::string digits;
  if (type == '%') {
    digits = float_digits(number * 100, 'f', spec.precision < 0 ? 6 : spec.precision);
  } else if (type == 0 && spec.precision < 0) {
    digits = format_float(std::fabs(number));
  } else if (type == 0) {
    // Like g, but a number in fixed notation keeps one digit behind the point.
    int precision = std::max(spec.precision, 1);
    digits = float_digits(number, 'g', precision);
    double magnitude = std::fabs(number);
    if (std::isfinite(number) && digits.find('.') == std::string::npos) {
      if (digits.find('e') == std::string::npos && magnitude < std::pow(10.0, precision - 1)) {
        digits += ".0";
      } else if (digits.find('e') == std::string::npos && precision > 0) {
        digits = float_digits(number, 'e', precision - 1);
        size_t e = digits.find('e');
        std::string mantissa = digits.substr(0, e);
        while (mantissa.find('.') != std::string::npos && (mantissa.back() == '0' || mantissa.back() == '.')) {
          bool point = mantissa.back() == '.';
          mantissa.pop_back();
          if (point) break;
        }
        digits = mantissa + digits.substr(e);
      }
    }
  } else {
    digits = float_digits(number, type, spec.precision < 0 ? 6 : spec.precision);
  }
  std::string front;
  if (char sign = sign_of(std::signbit(number) && !std::isnan(number), spec.sign); sign != 0) front.push_back(sign);
  size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string tail = digits.substr(whole) + (type == '%' ? "%" : "");
  std::string body = zero_grouped(digits.substr(0, whole), spec, 3, front.size() + tail.size(), rt) + tail;
  append_field(rt, spec, '>', Text(front), Text(body), out);
}

void append_string(Runtime& rt, const Value& value, const Spec& spec, Builder* out) {
  if (spec.type != 0 && spec.type != 's') unknown_type(spec, value);
  if (spec.sign != '-') raise("Sign not allowed in string format specifier");
  if (spec.alternate) raise("Alternate form (#) not allowed in string format specifier");
  if (spec.align == '=' && spec.fill.bytes() != "0") raise("'=' alignment not allowed in string format specifier");
  if (spec.grouping != 0) raise("Cannot specify '{}' with 's'.", spec.grouping);
  Text body = value.text();
  if (spec.precision >= 0) body.resize(unicode::offset(body.bytes(), spec.precision));
  Spec plain = spec;
  if (plain.align == '=') plain.align = '<';
  append_field(rt, plain, '<', Text(), body, out);
}

}  // namespace

void append_formatted(Runtime& rt, const Value& value, const Text& text, Builder* out) {
  if (text.empty()) return append_str(rt, value, out);
  if (!value.is_string() && !value.is_number()) {
    raise("unsupported format string passed to {}.__format__", type_name(value));
  }
  Spec spec = parse_spec(text);
  if (value.is_string()) return append_string(rt, value, spec, out);
  static constexpr std::string_view kFloatTypes = "eEfFgG%n";
  if (value.is_integer() &&
      (spec.type == 0 || spec.type == 'n' || std::string_view("bcdoxX").find(spec.type) != std::string_view::npos)) {
    return append_integer(rt, value, spec, out);
  }
  if (spec.type != 0 && kFloatTypes.find(spec.type) == std::string_view::npos) unknown_type(spec, value);
  append_real(rt, value, spec, out);
}

}  // namespace tessera::jinja
