// Where test data lies: small files in tests/data, larger ones in ../shared beside the checkout.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace tessera {

// The fixture's path, or empty when the checkout has none.
inline std::string fixture(const std::string& name) {
  for (std::string base : {std::string(TESSERA_TEST_DATA "/"), std::string(TESSERA_SOURCE_DIR "/../shared/fixtures/"),
                           std::string(TESSERA_SOURCE_DIR "/../shared/models/")}) {
    if (std::filesystem::exists(base + name)) return base + name;
  }
  return {};
}

}  // namespace tessera

// Skips the test, saying what is missing.
#define TS_NEED_FIXTURE(variable, name)                  \
  const std::string variable = ::tessera::fixture(name); \
  if (variable.empty()) GTEST_SKIP() << "fixture " << name << " is neither in tests/data nor in ../shared"
