# tessera_module(<name> SOURCES a.cc ... [TESTS a_test.cc ...])
# Adds a folder's sources to the one library and builds its unit tests as <name>_test.
function(tessera_module name)
  cmake_parse_arguments(M "" "" "SOURCES;TESTS" ${ARGN})
  foreach(source ${M_SOURCES})
    target_sources(tessera PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/${source})
  endforeach()
  if(TESSERA_TESTS AND M_TESTS)
    tessera_test(${name}_test ${M_TESTS})
  endif()
endfunction()

# A test program that sees the internal headers.
function(tessera_test name)
  add_executable(${name} ${ARGN})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_compile_definitions(${name} PRIVATE
    TESSERA_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data" TESSERA_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    TESSERA_BINARY_DIR="${CMAKE_BINARY_DIR}")
  target_link_libraries(${name} PRIVATE tessera GTest::gmock GTest::gtest_main nlohmann_json::nlohmann_json
    simdjson::simdjson spdlog::spdlog PkgConfig::HWY PkgConfig::PCRE2 PkgConfig::UTF8PROC)
  # Tests that wait for a terminal, or use every core, run alone (TESSERA_ALONE set by the caller). The others share the
  # cores, and models take one thread each there: threads that wait for each other in turns would spin the cores away.
  if(TESSERA_ALONE)
    set(share RUN_SERIAL TRUE)
  else()
    set(share ENVIRONMENT TESSERA_THREADS=1)
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 900 LABELS ${name} ${share})
endfunction()

function(tessera_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wno-missing-field-initializers $<$<BOOL:${TESSERA_WERROR}>:-Werror>)
endfunction()
