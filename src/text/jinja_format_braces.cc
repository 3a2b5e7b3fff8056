#include <locale.h>

#include <algorithm>

#include "text/jinja_access.h"
#include "text/jinja_format.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"

namespace tessera::jinja {

// ---- "{}".format(x)

namespace {

class Braces {
 public:
  Braces(Runtime& rt, const Value& format, const Args& args) : rt_(rt), format_(format), args_(args) {}

  Value run() {
    Builder out(rt_);
    append(format_.text(), 2, &out);
    return out.value(format_.is_markup());
  }

 private:
  // Fields may hold fields in their spec: `levels` is how deep that may still go.
  void append(const Text& format, int levels, Builder* out) {
    if (levels < 0) raise("Max string recursion exceeded");
    const std::string& bytes = format.bytes();
    for (size_t at = 0; at < bytes.size();) {
      size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
      out->append(format, at, brace);
      if (brace == bytes.size()) return;
      if (brace + 1 < bytes.size() && bytes[brace + 1] == bytes[brace]) {
        out->append(format, brace, brace + 1);
        at = brace + 2;
        continue;
      }
      if (bytes[brace] == '}') raise("Single '}}' encountered in format string");
      size_t end = brace + 1;
      for (int open = 1; open > 0; ++end) {
        if (end >= bytes.size()) raise("expected '}}' before end of string");
        open += bytes[end] == '{' ? 1 : bytes[end] == '}' ? -1 : 0;
      }
      field(format, brace + 1, end - 1, levels, out);
      at = end;
    }
  }

  void field(const Text& format, size_t begin, size_t end, int levels, Builder* out) {
    rt_.step();
    const std::string& bytes = format.bytes();
    size_t name_end = begin;
    for (bool bracket = false; name_end < end; ++name_end) {
      char c = bytes[name_end];
      if (c == '[') bracket = true;
      if (c == ']') bracket = false;
      if (c == '{') raise("unexpected '{{' in field name");
      if (!bracket && (c == '!' || c == ':')) break;
    }
    Value value = lookup(std::string_view(bytes).substr(begin, name_end - begin));
    size_t at = name_end;
    char conversion = 0;
    if (at < end && bytes[at] == '!') {
      if (at + 1 >= end) raise("end of string while looking for conversion specifier");
      conversion = bytes[at + 1];
      at += 2;
      if (at < end && bytes[at] != ':') raise("expected ':' after conversion specifier");
    }
    Builder spec(rt_);
    if (at < end) append(format.slice(at + 1, end), levels - 1, &spec);
    Builder text(rt_);
    bool escape = format_.is_markup() && !value.is_markup();
    append_formatted(rt_, convert(value, conversion), spec.text(), &text);
    if (escape) {
      out->append(escape_html(rt_, text.value()).text());
    } else {
      out->append(text.text());
    }
  }

  Value convert(const Value& value, char conversion) {
    Builder out(rt_);
    switch (conversion) {
      case 0:
        return value;
      case 's':
        append_str(rt_, value, &out);
        break;
      case 'r':
        append_repr(rt_, value, &out);
        break;
      case 'a':
        append_ascii(rt_, value, &out);
        break;
      default:
        raise("Unknown conversion specifier {}", conversion);
    }
    return out.value();
  }

  Value lookup(std::string_view name) {
    size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = argument(name.substr(0, first_end));
    for (size_t at = first_end; at < name.size();) {
      if (name[at] == '.') {
        size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        if (end == at + 1) raise("Empty attribute in format string");
        value = get_attribute(rt_, value, name.substr(at + 1, end - at - 1));
        at = end;
      } else if (name[at] == '[') {
        size_t end = name.find(']', at);
        if (end == std::string_view::npos) raise("Missing ']' in format string");
        if (end == at + 1) raise("Empty attribute in format string");
        value = get_item(rt_, value, key(name.substr(at + 1, end - at - 1)));
        at = end + 1;
      } else {
        raise("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  // Digits are an index, anything else a name.
  Value key(std::string_view name) {
    Int index = 0;
    if (name.empty() || name.size() > 18) return rt_.string(name);
    for (char c : name) {
      if (c < '0' || c > '9') return rt_.string(name);
      index = index * 10 + (c - '0');
    }
    return Value::integer(index);
  }

  Value argument(std::string_view name) {
    Value which = name.empty() ? Value::integer(next_++) : key(name);
    if (which.is_integer()) {
      bool automatic = name.empty();
      if (numbering_ != kNone && numbering_ != (automatic ? kAutomatic : kManual)) {
        raise("cannot switch between manual field specification and automatic field numbering");
      }
      numbering_ = automatic ? kAutomatic : kManual;
      if (which.as_int() >= static_cast<Int>(args_.positional.size())) {
        raise("Replacement index {} out of range for positional args tuple", format_integer(which.as_int()));
      }
      return args_.positional[static_cast<size_t>(which.as_int())];
    }
    for (const auto& [key, value] : args_.named) {
      if (key == name) return value;
    }
    raise("format key '{}' is missing", name);
  }

  enum Numbering { kNone, kAutomatic, kManual };
  Runtime& rt_;
  const Value& format_;
  const Args& args_;
  Int next_ = 0;
  Numbering numbering_ = kNone;
};

}  // namespace

Value format_braces(Runtime& rt, const Value& format, const Args& args) {
  return Braces(rt, format, args).run();
}

// ---- strftime

std::string format_time(std::string_view format, const std::tm& time) {
  if (format.find('\0') != std::string_view::npos) raise("embedded null character");
  static const locale_t kCLocale = newlocale(LC_ALL_MASK, "C", nullptr);
  std::string out;
  for (size_t i = 0; i < format.size();) {
    if (format[i] != '%') {
      out.push_back(format[i++]);
      continue;
    }
    size_t begin = i++;
    while (i < format.size() && std::string_view("_-0^#").find(format[i]) != std::string_view::npos) ++i;
    Int width = 0;
    for (; i < format.size() && format[i] >= '0' && format[i] <= '9'; ++i) {
      width = width * 10 + (format[i] - '0');
      if (width > 200) raise("strftime: a field width of more than 200 is too large");
    }
    if (i < format.size() && (format[i] == 'E' || format[i] == 'O')) ++i;
    if (i >= format.size()) {  // glibc copies an unfinished directive
      out.append(format.substr(begin));
      break;
    }
    char conversion = format[i++];
    if (conversion == 'f') {
      out.append("000000");
    } else if (conversion == 'z' || conversion == 'Z') {
      continue;
    } else {
      char buffer[512];
      std::string directive(format.substr(begin, i - begin));
      out.append(buffer, strftime_l(buffer, sizeof buffer, directive.c_str(), &time, kCLocale));
    }
  }
  return out;
}

}  // namespace tessera::jinja
