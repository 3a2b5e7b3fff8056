// tokenizer.json from strangers, and texts: the input is the file, a zero byte, and the text.
#include <cstdio>
#include <cstdlib>

#include "text/tokenizer_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  size_t zero = input.find('\0');
  std::string_view text = zero == std::string_view::npos ? std::string_view("It's 1 tést  \n") : input.substr(zero + 1);
  const std::string problem = tessera::check_tokenizer(input.substr(0, zero), text);
  if (!problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
