// Filters on text.
#include <algorithm>

#include "text/jinja_access.h"
#include "text/jinja_builtins.h"
#include "text/jinja_format.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace tessera::jinja {

namespace {

// MarkupSafe's soft_str: a string stays what it is, anything else becomes one.
Value soft_string(Runtime& rt, const Value& value) {
  return value.is_string() ? value : to_str(rt, value);
}

Value call_method(Runtime& rt, const Value& self, const char* name, std::vector<Value> args = {}) {
  return find_string_method(name)(rt, self, Args{std::move(args), {}});
}

Value filter_capitalize(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("capitalize", args, {});
  return call_method(rt, soft_string(rt, self), "capitalize");
}

Value filter_lower(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("lower", args, {});
  return call_method(rt, soft_string(rt, self), "lower");
}

Value filter_upper(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("upper", args, {});
  return call_method(rt, soft_string(rt, self), "upper");
}

Value filter_center(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("center", args, {"width"});
  return call_method(rt, soft_string(rt, self), "center", {bound.get(0, Value::integer(80))});
}

Value filter_trim(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("trim", args, {"chars"});
  return call_method(rt, soft_string(rt, self), "strip", {bound.get(0, Value::none())});
}

Value filter_replace(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("replace", args, {"old", "new", "count"}, 2);
  Value count = bound.get(2, Value::none());
  if (count.is_none()) count = Value::integer(-1);
  return call_method(rt, to_str(rt, self), "replace", {to_str(rt, bound[0]), to_str(rt, bound[1]), count});
}

Value filter_format(Runtime& rt, const Value& self, const Args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    raise("can't handle positional and keyword arguments at the same time");
  }
  if (args.named.empty()) return format_percent(rt, soft_string(rt, self), rt.tuple(args.positional));
  auto* dict = rt.make<DictObject>();
  for (const auto& [name, value] : args.named) dict->set(rt, rt.string(name), value);
  return format_percent(rt, soft_string(rt, self), Value::object(Kind::kDict, dict));
}

// Words begin behind spaces, hyphens and opening brackets.
Value filter_title(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("title", args, {});
  Value value = soft_string(rt, self);
  const Text& text = value.text();
  rt.step(static_cast<int64_t>(text.size()));
  auto separates = [](uint32_t c) {
    return unicode::is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  Builder out(rt);
  uint32_t c = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + unicode::decode(text.bytes(), begin, &c);
    std::string mapped;
    unicode::append_upper(c, &mapped);
    out.append(mapped, text.marks_at(begin));
    size_t rest = end;
    if (!separates(c)) {
      while (end < text.size()) {
        size_t size = unicode::decode(text.bytes(), end, &c);
        if (separates(c)) break;
        end += size;
      }
    }
    std::string_view tail = std::string_view(text.bytes()).substr(rest, end - rest);
    for (size_t i = 0; i < tail.size();) {
      size_t size = unicode::decode(tail, i, &c);
      mapped.clear();
      unicode::append_lower(tail, i, c, &mapped);
      out.append(mapped, text.marks_at(rest + i));
      i += size;
    }
    begin = end;
  }
  return out.value();
}

Value filter_indent(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("indent", args, {"width", "first", "blank"});
  const Text& text = need_text(self, "indent's input");
  Builder space(rt);
  if (bound.has(0) && bound[0].is_string()) {
    space.append(bound[0].text());
  } else {
    space.append_repeated(Text(" "), bound.has(0) ? need_integer(bound[0], "width") : 4);
  }
  bool blank = bound.has(2) && truthy(rt, bound[2]);
  // Lines of text + "\n", so that a trailing newline makes no further line but an inner one does.
  Builder with_end(rt);
  with_end.append(text);
  with_end.append("\n");
  std::vector<Value> lines = call_method(rt, rt.string(with_end.take()), "splitlines").items();
  Builder out(rt);
  bool first = bound.has(1) && truthy(rt, bound[1]);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n");
    bool indent = i == 0 ? first : blank || !lines[i].text().empty();
    if (indent) out.append(space.text());
    out.append(lines[i].text());
  }
  return out.value(self.is_markup());
}

Value filter_truncate(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("truncate", args, {"length", "killwords", "end", "leeway"});
  Int wanted = bound.has(0) ? need_integer(bound[0], "length") : 255;
  Value end = bound.has(2) ? bound[2] : rt.string("...");
  Int leeway = bound.has(3) && !bound[3].is_none() ? need_integer(bound[3], "leeway") : 5;
  Int end_length = length(rt, end).as_int();
  if (wanted < end_length) raise("expected length >= {}, got {}", format_integer(end_length), format_integer(wanted));
  if (leeway < 0) raise("expected leeway >= 0, got {}", format_integer(leeway));
  if (length(rt, self).as_int() <= wanted + leeway) return self;
  if (!self.is_string()) raise("truncate's input must be str, not {}", type_name(self));
  Value head = get_slice(rt, self, Value::none(), Value::integer(wanted - end_length), Value::none());
  if (!(bound.has(1) && truthy(rt, bound[1]))) {
    head = call_method(rt, head, "rsplit", {rt.string(" "), Value::integer(1)}).items()[0];
  }
  return binary(rt, BinaryOperator::kAdd, head, end);
}

Value filter_wordcount(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("wordcount", args, {});
  Value value = soft_string(rt, self);
  rt.step(static_cast<int64_t>(value.bytes().size() / 2));
  Int words = 0;
  bool inside = false;
  for (size_t i = 0; i < value.bytes().size();) {
    uint32_t c = 0;
    i += unicode::decode(value.bytes(), i, &c);
    bool word = c == '_' || unicode::is_alnum(c);
    words += word && !inside;
    inside = word;
  }
  return Value::integer(words);
}

void append_quoted_url(Runtime& rt, const Text& text, bool query, Builder* out) {
  rt.step(static_cast<int64_t>(text.size()));
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text.bytes()[i];
    bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                 std::string_view("_.-~").find(c) != std::string_view::npos || (c == '/' && !query);
    if (plain) {
      out->append(std::string_view(&c, 1), text.marks_at(i));
    } else if (c == ' ' && query) {
      out->append("+", text.marks_at(i));
    } else {
      out->append(fmt::format("%{:02X}", static_cast<uint8_t>(c)), text.marks_at(i));
    }
  }
}

Value filter_urlencode(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("urlencode", args, {});
  Builder out(rt);
  if (self.is_string() || !is_iterable(self)) {
    append_quoted_url(rt, to_str(rt, self).text(), false, &out);
    return out.value();
  }
  std::vector<Value> pairs;
  if (self.is(Kind::kDict)) {
    for (const auto& [key, value] : self.dict().entries) pairs.push_back(rt.tuple({key, value}));
  } else {
    pairs = to_vector(rt, self);
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    std::vector<Value> pair = to_vector(rt, pairs[i]);
    if (pair.size() != 2) raise("urlencode needs pairs, not {} items", pair.size());
    if (i > 0) out.append("&");
    append_quoted_url(rt, to_str(rt, pair[0]).text(), true, &out);
    out.append("=");
    append_quoted_url(rt, to_str(rt, pair[1]).text(), true, &out);
  }
  return out.value();
}

Value filter_xmlattr(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("xmlattr", args, {"autospace"});
  reject_undefined(self);
  if (!self.is(Kind::kDict)) raise("'{}' object has no attribute 'items'", type_name(self));
  Builder out(rt);
  bool space = !bound.has(0) || truthy(rt, bound[0]);
  for (const auto& [key, value] : self.dict().entries) {
    if (value.is_none() || value.is_undefined()) continue;
    const Text& name = need_text(key, "an attribute name");
    if (name.bytes().find_first_of(" \t\n\r\f\v/>=") != std::string::npos)
      raise("Invalid character in attribute name: '{}'", name.bytes());
    if (space || !out.text().empty()) out.append(" ");
    space = false;
    out.append(escape_html(rt, key).text());
    out.append("=\"");
    out.append(escape_html(rt, value).text());
    out.append("\"");
  }
  return out.value();
}

// Named entities that HTML text commonly holds; numbers are read in full.
std::string unescape_entity(std::string_view entity) {
  static constexpr std::pair<std::string_view, std::string_view> kNamed[] = {
      {"amp", "&"}, {"lt", "<"}, {"gt", ">"}, {"quot", "\""}, {"apos", "'"}, {"nbsp", "\xc2\xa0"}};
  for (const auto& [name, text] : kNamed) {
    if (entity == name) return std::string(text);
  }
  if (entity.size() < 2 || entity[0] != '#') return "";
  bool hex = entity[1] == 'x' || entity[1] == 'X';
  uint32_t c = 0;
  std::string_view digits = entity.substr(hex ? 2 : 1);
  if (digits.empty() || digits.size() > 7) return "";
  for (char d : digits) {
    if (std::string_view(hex ? "0123456789abcdefABCDEF" : "0123456789").find(d) == std::string_view::npos) return "";
    c = c * (hex ? 16 : 10) + static_cast<uint32_t>(d <= '9' ? d - '0' : (d | 0x20) - 'a' + 10);
  }
  std::string out;
  utf8_append(out, c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? 0xfffd : c);
  return out;
}

Value filter_striptags(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("striptags", args, {});
  Value plain = to_str(rt, self);
  const Text& text = plain.text();
  rt.step(static_cast<int64_t>(text.size() / 4));
  Builder kept(rt);
  size_t at = 0;
  for (size_t open = text.bytes().find('<'); open != std::string::npos; open = text.bytes().find('<', at)) {
    bool comment = text.bytes().compare(open, 4, "<!--") == 0;
    size_t close = comment ? text.bytes().find("-->", open + 4) : text.bytes().find('>', open);
    if (close == std::string::npos) break;
    kept.append(text, at, open);
    at = close + (comment ? 3 : 1);
  }
  kept.append(text, at, text.size());
  Value words = call_method(rt, kept.value(), "split");
  Builder joined(rt);
  for (size_t i = 0; i < words.items().size(); ++i) {
    if (i > 0) joined.append(" ");
    joined.append(words.items()[i].text());
  }
  Builder out(rt);
  const Text& flat = joined.text();
  for (size_t i = 0; i < flat.size();) {
    size_t amp = std::min(flat.bytes().find('&', i), flat.size());
    out.append(flat, i, amp);
    i = amp;
    if (amp == flat.size()) break;
    std::string_view candidate = std::string_view(flat.bytes()).substr(amp + 1, 10);
    size_t semicolon = candidate.find(';');
    std::string entity = semicolon == std::string_view::npos ? "" : unescape_entity(candidate.substr(0, semicolon));
    if (entity.empty()) {
      out.append(flat, amp, amp + 1);
      i = amp + 1;
    } else {
      out.append(entity, flat.marks_at(amp));
      i = amp + semicolon + 2;
    }
  }
  return out.value();
}

}  // namespace

const std::vector<NamedFunction>& text_filters() {
  static const std::vector<NamedFunction> kTable = {
      {"capitalize", filter_capitalize}, {"center", filter_center},   {"format", filter_format},
      {"indent", filter_indent},         {"lower", filter_lower},     {"replace", filter_replace},
      {"striptags", filter_striptags},   {"title", filter_title},     {"trim", filter_trim},
      {"truncate", filter_truncate},     {"upper", filter_upper},     {"urlencode", filter_urlencode},
      {"wordcount", filter_wordcount},   {"xmlattr", filter_xmlattr},
  };
  return kTable;
}

}  // namespace tessera::jinja
