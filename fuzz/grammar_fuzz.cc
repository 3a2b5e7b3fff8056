// Schemas, patterns and grammars of strangers: each compiles or is refused, and what compiles keeps its promises. The
// first byte says which of the three the rest is.
#include <cstdio>
#include <cstdlib>

#include "text/grammar_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  const std::string problem = tessera::check_grammar_text({reinterpret_cast<const char*>(data), size});
  if (!problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
