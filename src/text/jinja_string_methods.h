// The half of str's methods that look at single characters: upper, title, isdigit ... Internal to jinja_string_*.cc.
#pragma once

#include "text/jinja_runtime.h"

namespace tessera::jinja {

NativeFunction find_case_method(std::string_view name);  // nullptr: none of that name

}  // namespace tessera::jinja
