// The filters, tests and global functions of a chat template, by name.
#pragma once

#include "text/jinja_runtime.h"

namespace tessera::jinja {

// `self` is the filtered or tested value; nullptr: no such name.
NativeFunction find_filter(std::string_view name);
NativeFunction find_test(std::string_view name);
// kMissing: no such global.
Value make_global(Runtime& rt, std::string_view name);

struct NamedFunction {
  const char* name;
  NativeFunction function;
};
// The tables that find_filter joins, one per file.
const std::vector<NamedFunction>& text_filters();
const std::vector<NamedFunction>& sequence_filters();

bool run_test(Runtime& rt, std::string_view name, const Value& value, const Args& args);
Value run_filter(Runtime& rt, std::string_view name, const Value& value, const Args& args);

}  // namespace tessera::jinja
