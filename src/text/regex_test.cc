// The translation of Oniguruma's patterns, and iteration over matches.
#include "text/regex.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/error.h"

namespace tessera {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  Regex regex(pattern, "test");
  Regex::Scratch scratch;
  scratch.begin_text(text.size());
  RegexMatches all(regex, text, scratch);
  std::vector<std::string> found;
  for (Regex::Match match; all.next(match);) found.emplace_back(text.substr(match.begin, match.end - match.begin));
  return found;
}

using Strings = std::vector<std::string>;

TEST(Regex, WhiteSpaceIsUnicodes) {
  EXPECT_EQ(matches("\\s+", "a\t\u0085\u00A0\u3000b\u180E\u200Bc"), (Strings{"\t\u0085\u00A0\u3000"}));
  EXPECT_EQ(matches("\\S+", "a \u180Eb"), (Strings{"a", "\u180Eb"}));
  EXPECT_EQ(matches("[^\\S\\n]+", " \n\t\n"), (Strings{" ", "\t"}));
  EXPECT_EQ(matches("[^\\s\\p{L}]+", "a1 \u180E2\u3000"), (Strings{"1", "\u180E2"}));
}

TEST(Regex, WordsAndDigits) {
  EXPECT_EQ(matches("\\w+", "a_\u0301\u203F9 \u24B6 \u00B2"), (Strings{"a_\u0301\u203F9", "\u24B6"}));
  EXPECT_EQ(matches("\\d", "1\u0663\u00B2\u2167"), (Strings{"1", "\u0663"}));
  EXPECT_EQ(matches("\\D", "1\u00B2"), (Strings{"\u00B2"}));
  EXPECT_EQ(matches("\\W", "a-"), (Strings{"-"}));
}

TEST(Regex, EscapesAndProperties) {
  EXPECT_EQ(matches("\\u4e2d|\\x{e9}|\\x41", "中éA"), (Strings{"中", "é", "A"}));
  EXPECT_EQ(matches("[\\v]", "\n\v\f"), (Strings{"\v"})) << "vertical tab, not PCRE2's class of vertical space";
  // As Script, not Script_Extensions, which has the middle dot and the ideographic comma too.
  EXPECT_EQ(matches("\\p{Han}+", "中、\u00B7"), (Strings{"中"}));
  EXPECT_EQ(matches("\\p{^L}\\P{Lu}", "1a"), (Strings{"1a"}));
}

TEST(Regex, AnchorsAreThoseOfLines) {
  EXPECT_EQ(matches("^.", "a\nb\n"), (Strings{"a", "b"}));
  EXPECT_EQ(matches("b$", "b\nab"), (Strings{"b", "b"}));
  EXPECT_EQ(matches("\\s+$", "a  \nb \n"), (Strings{"  ", " "}));
}

TEST(Regex, EmptyMatchesAdvance) {
  EXPECT_EQ(matches("x*", "axxé"), (Strings{"", "xx", ""})) << "none right after a match, none inside a character";
  EXPECT_EQ(matches("(?=b)", "abb"), (Strings{"", ""}));
}

TEST(Regex, WhatWouldMeanSomethingElseIsRefused) {
  for (const char* pattern :
       {"\\h",     "\\R",     "\\X",           "\\K",     "\\b",         "\\1",         "\\Q",
        "\\G",     "\\Z",     "\\0",           "\\",      "(?i)a",       "(?<name>a)",  "(?m:a)",
        "(?x: a)", "(?#c)",   "(*UCP)a",       "[a[bc]]", "[[:alpha:]]", "[a&&b]",      "[a",
        "[]a]",    "a{2}+",   "a{2}?",         "a{,2}",   "a{",          "a{x}",        "\\p{}",
        "\\pL",    "\\p{L1}", "\\p{Nonsense}", "\\p{L",   "\\xff",       "\\x{110000}", "\\x{d800}",
        "\\u12",   "[\\W]",   "[\\s-z]",       "[a-\\s]", "(a",          "a)",          "*a"}) {
    try {
      Regex regex(pattern, "test");
      ADD_FAILURE() << pattern << " was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUnsupported) << pattern;
      EXPECT_EQ(std::string(e.what()).rfind("test: ", 0), 0u) << e.what();
    }
  }
  EXPECT_THROW(Regex(std::string(20000, 'a'), "test"), Error);
  EXPECT_THROW(Regex(std::string(5000, '('), "test"), Error);
}

// Each character of the run fails only after passing the rest of it: that is paid for, and ends.
TEST(Regex, ManyExpensiveFailuresEnd) {
  EXPECT_EQ(matches("\\s+$|x", std::string(5000, ' ') + "x"), (Strings{"x"})) << "found behind what needed more steps";
  EXPECT_THROW(matches("\\s+$", std::string(1000000, ' ') + "x"), Error);
}

TEST(Regex, LongRunsAreNoHostilePattern) {
  const char* pattern =
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{M}]*[\\p{Ll}\\p{M}]+|\\p{Lu}+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  for (std::string_view unit : {"A", "a", " ", "\u0301", "\n "}) {
    std::string text;
    while (text.size() < 500000) text += unit;
    EXPECT_FALSE(matches(pattern, text + "x").empty());
  }
}

}  // namespace
}  // namespace tessera
