// Constrained decoding against a real vocabulary: how long a schema takes to compile, and a mask to compute.
//
//   bench_grammar TOKENIZER.json SCHEMA.json...
//   bench_grammar --texts TOKENIZER.json SCHEMA.json... | tools/check_schema_texts.py
//
// Each schema is compiled once, cold; the vocabulary is ready, as in a server. Then texts are
// drawn under its masks, with many kinds of tokens, and encoded again as the tokenizer would; the masks along both are
// timed, each once, the first ones included.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <vector>

#include "core/json.h"
#include "tessera/error.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace tessera {
namespace {

// Of this thread's own time on a core, so that a busy machine does not show.
double now_us() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) / 1e3;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())))];
}

struct Walks {
  const Tokenizer& tokenizer;
  std::vector<double> times;
  std::vector<uint32_t> mask;
  std::mt19937_64 random{1};

  void timed_mask(GrammarMatcher& matcher) {
    const double begin = now_us();
    matcher.fill_mask(mask);
    times.push_back(now_us() - begin);
  }

  // Draws a text; its strings end about where people's do.
  std::pair<std::string, bool> draw(const CompiledGrammar& grammar, int32_t end_id, int most) {
    GrammarMatcher matcher(grammar);
    std::string text;
    for (int step = 0; step < most && !matcher.ended(); ++step) {
      timed_mask(matcher);
      std::vector<int32_t> allowed;
      for (size_t word = 0; word < mask.size(); ++word)
        for (uint32_t bits = mask[word]; bits != 0; bits &= bits - 1)
          allowed.push_back(static_cast<int32_t>(word * 32 + static_cast<size_t>(__builtin_ctz(bits))));
      if (allowed.empty()) {
        fmt::print(stderr, "no token is allowed after {}\n", text);
        break;
      }
      int32_t id = allowed[random() % allowed.size()];
      if (allowed.size() > 1000 && random() % 5 == 0) {  // in a string: close it now and then
        const std::vector<int32_t> quote = tokenizer.encode("\"");
        if (mask[static_cast<size_t>(quote[0]) / 32] >> (quote[0] % 32) & 1) id = quote[0];
      }
      if (!matcher.accept(id)) fmt::print(stderr, "an allowed token is refused after {}\n", text);
      if (id != end_id) text += tokenizer.token_bytes(id);
    }
    return {text, matcher.ended()};
  }

  // As the tokenizer writes the text.
  void follow(const CompiledGrammar& grammar, const std::string& text) {
    GrammarMatcher matcher(grammar);
    for (int32_t id : tokenizer.encode(text, {.parse_special = false})) {
      timed_mask(matcher);
      if (!matcher.accept(id)) break;
    }
  }
};

// Twenty texts of each schema, one JSON object a line.
void print_texts(const std::string& path, const CompiledGrammar& grammar, Walks walks, int32_t end_id) {
  for (int round = 0; round < 20; ++round) {
    const auto [text, ended] = walks.draw(grammar, end_id, 400);
    if (ended) fmt::print("{}\n", Json{{"schema", path}, {"text", text}}.dump());
  }
}

int run(int argc, char** argv) {
  const bool texts = argc > 1 && std::string_view(argv[1]) == "--texts";
  if (texts) ++argv, --argc;
  if (argc < 3) {
    fmt::print(stderr, "usage: bench_grammar [--texts] TOKENIZER.json SCHEMA.json...\n");
    return 2;
  }
  const Tokenizer tokenizer = Tokenizer::from_file(argv[1]);
  int64_t vocab_size = tokenizer.vocab_size();
  int32_t end_id = tokenizer.token_to_id("<|return|>").value_or(static_cast<int32_t>(vocab_size) - 1);
  vocab_size = std::max<int64_t>(vocab_size, vocab_size > 200000 ? 201088 : 0);  // as gpt-oss pads it
  double begin = now_us();
  const GrammarVocabulary vocabulary(tokenizer, vocab_size);
  if (!texts) fmt::print("vocabulary of {}: {:.0f} ms, once\n", vocab_size, (now_us() - begin) / 1000);
  if (!texts) fmt::print("| schema | compile ms | masks | p50 us | p99 us | max us |\n|---|---|---|---|---|---|\n");
  std::vector<double> all, compiles;
  for (int i = 2; i < argc; ++i) {
    const OrderedJson schema = OrderedJson::parse(read_text_file(argv[i]));
    const int32_t ends[] = {end_id};
    begin = now_us();
    const CompiledGrammar grammar = CompiledGrammar::json_schema(schema, vocabulary, ends);
    const double compile_ms = (now_us() - begin) / 1000;
    compiles.push_back(compile_ms);
    Walks walks{tokenizer, {}, std::vector<uint32_t>(static_cast<size_t>((vocab_size + 31) / 32))};
    if (texts) {
      print_texts(argv[i], grammar, std::move(walks), end_id);
      continue;
    }
    for (int round = 0; round < 10; ++round) walks.follow(grammar, walks.draw(grammar, end_id, 300).first);
    all.insert(all.end(), walks.times.begin(), walks.times.end());
    fmt::print("| {} | {:.2f} | {} | {:.1f} | {:.1f} | {:.1f} |\n", std::filesystem::path(argv[i]).stem().string(),
               compile_ms, walks.times.size(), quantile(walks.times, 0.5), quantile(walks.times, 0.99),
               quantile(walks.times, 1));
  }
  if (!texts)
    fmt::print("| all {} | median {:.2f}, max {:.2f} | {} | {:.1f} | {:.1f} | {:.1f} |\n", compiles.size(),
               quantile(compiles, 0.5), quantile(compiles, 1), all.size(), quantile(all, 0.5), quantile(all, 0.99),
               quantile(all, 1));
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  try {
    return tessera::run(argc, argv);
  } catch (const tessera::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
