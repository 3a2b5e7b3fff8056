// OpenAI's request and response bodies, to and from tessera's: chat completions and completions. Shared by whatever
// speaks that format.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "tessera/batch.h"
#include "tessera/chat.h"

namespace tessera {

struct OpenAiRequest {
  BatchRequest request;
  std::string model;  // as the client called it
  bool chat = false;
  bool logprobs = false;
  std::vector<std::string> stop;  // of a chat: ends the answer, not the reasoning
};

// Reads bodies of /v1/chat/completions and /v1/completions. Parameters that are absent keep the model's defaults;
// unknown ones are ignored. Throws kInvalidArgument naming the parameter, kUnsupported for what this program cannot do.
class OpenAiReader {
 public:
  // The Llm must outlive the reader. Not thread-safe.
  explicit OpenAiReader(Llm& llm);
  OpenAiRequest chat_completion(const OrderedJson& body);
  OpenAiRequest completion(const OrderedJson& body);

 private:
  SamplingParams sampling(const OrderedJson& body) const;
  OpenAiRequest common(const OrderedJson& body) const;

  Llm& llm_;
  std::optional<Chat> chat_;  // made at the first chat request: plain models have no template
};

// The body of a response; `outputs` are all samples of one request, none of them failed. `created`: Unix time.
OrderedJson openai_response(Llm& llm, const OpenAiRequest& request, const std::vector<BatchOutput>& outputs,
                            const std::string& id, int64_t created);
// {"error": {...}} for a refused or failed request.
OrderedJson openai_error(const std::string& message, const char* type);

}  // namespace tessera
