// Python's three ways to format: "%d" % x, "{:d}".format(x), and strftime.
#pragma once

#include <ctime>

#include "text/jinja_runtime.h"

namespace tessera::jinja {

Value format_percent(Runtime& rt, const Value& format, const Value& arguments);
Value format_braces(Runtime& rt, const Value& format, const Args& args);
// format(value, spec) of the mini language [[fill]align][sign][#][0][width][,_][.precision][type].
void append_formatted(Runtime& rt, const Value& value, const Text& spec, Builder* out);
// In the C locale, for a local time without a zone (%z and %Z are empty).
std::string format_time(std::string_view format, const std::tm& time);

}  // namespace tessera::jinja
