// Runs a file of requests through a tokenizer and writes the answers: the tested side of tools/compare_tokenizers.py.
//   tokenize_batch TOKENIZER.json REQUESTS ANSWERS
// A request is an operation byte, a 32-bit little-endian length, and as many bytes; an answer is a 32-bit length and
// bytes:
//   e  encode, special tokens parsed      d  decode                       (ids are 32-bit numbers)
//   E  encode, special tokens as text     D  decode without special ones
//   p  encode, post-processed             s  decode as a stream
//   l  load the file as often as the payload has bytes; answers with the seconds of each load (64-bit floats)
//   b  encode the payload's documents (separated by NUL) ten times; answers with the seconds of each round
// Exit 0; 1 with a line on stderr when anything throws.
#include <chrono>
#include <cstdio>
#include <cstring>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "text/tokenizer.h"

namespace tessera {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string text;
  StreamDecoder decoder(tokenizer);
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

std::string time_loads(const std::string& path, size_t rounds) {
  std::vector<double> seconds;
  for (size_t i = 0; i < rounds; ++i) {
    double begin = now();
    Tokenizer tokenizer = Tokenizer::from_file(path);
    seconds.push_back(now() - begin);
  }
  return bytes_of(seconds);
}

std::string time_encodes(const Tokenizer& tokenizer, std::string_view documents) {
  std::vector<double> seconds;
  for (int round = 0; round < 10; ++round) {
    double begin = now();
    for (size_t at = 0; at < documents.size();) {
      size_t end = std::min(documents.find('\0', at), documents.size());
      tokenizer.encode(documents.substr(at, end - at), {.parse_special = true});
      at = end + 1;
    }
    seconds.push_back(now() - begin);
  }
  return bytes_of(seconds);
}

std::string answer(const Tokenizer& tokenizer, const std::string& path, char operation, std::string_view payload) {
  std::vector<int32_t> ids(payload.size() / sizeof(int32_t));
  if (operation == 'd' || operation == 'D' || operation == 's') {
    std::memcpy(ids.data(), payload.data(), ids.size() * sizeof(int32_t));
  }
  switch (operation) {
    case 'e':
      return bytes_of(tokenizer.encode(payload));
    case 'E':
      return bytes_of(tokenizer.encode(payload, {.parse_special = false}));
    case 'p':
      return bytes_of(tokenizer.encode(payload, {.add_special_tokens = true}));
    case 'd':
      return tokenizer.decode(ids);
    case 'D':
      return tokenizer.decode(ids, /*skip_special=*/true);
    case 's':
      return stream(tokenizer, ids);
    case 'l':
      return time_loads(path, payload.size());
    case 'b':
      return time_encodes(tokenizer, payload);
    default:
      fail(ErrorCode::kInvalidArgument, "no operation '{}'", operation);
  }
}

void run(const std::string& path, const std::string& requests_path, const std::string& answers_path) {
  Tokenizer tokenizer = Tokenizer::from_file(path);
  std::string requests = read_text_file(requests_path, int64_t{4} << 30);
  std::string answers;
  for (size_t at = 0; at + 5 <= requests.size();) {
    uint32_t length = 0;
    std::memcpy(&length, requests.data() + at + 1, sizeof(length));
    std::string result = answer(tokenizer, path, requests[at], std::string_view(requests).substr(at + 5, length));
    auto size = static_cast<uint32_t>(result.size());
    answers.append(reinterpret_cast<const char*>(&size), sizeof(size));
    answers += result;
    at += 5 + static_cast<size_t>(length);
  }
  write_text_file(answers_path, answers);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: tokenize_batch TOKENIZER.json REQUESTS ANSWERS\n");
    return 2;
  }
  tessera::init_logging();
  try {
    tessera::run(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tokenize_batch: %s\n", e.what());
    return 1;
  }
}
