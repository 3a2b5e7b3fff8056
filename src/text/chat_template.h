// The chat template of a model folder: messages in, prompt text out, as transformers' apply_chat_template renders it.
// Immutable and thread-safe.
#pragma once

#include <ctime>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/jinja.h"

namespace tessera {

struct ChatTemplateOptions {
  OrderedJson tools;      // array of {type: function, function: {...}}; null: none
  OrderedJson documents;  // array of {title, text}; null: none
  bool add_generation_prompt = false;
  bool continue_final_message = false;  // ends the prompt inside the last message, for the model to go on
  OrderedJson kwargs =
      OrderedJson::object();       // further variables: reasoning_effort, builtin_tools, enable_thinking ...
  std::optional<std::time_t> now;  // what strftime_now sees, in local time; default: the clock
};

// A piece of the prompt. Special tokens may be parsed only in text that the template wrote; the rest came from
// messages, tools or kwargs and is plain text to a tokenizer, whatever it spells.
struct ChatSegment {
  std::string text;
  bool from_template = false;
  bool generated = false;  // inside {% generation %}: what a model is trained to write
};

class ChatTemplate {
 public:
  // chat_template.jinja, else chat_template.json, else "chat_template" of tokenizer_config.json: a string or a list of
  // {name, template}, of which "tool_use" is taken when there are tools. additional_chat_templates/NAME.jinja add to
  // it. Special tokens (bos_token, eos_token ...) come from tokenizer_config.json, else special_tokens_map.json. Throws
  // kNotFound when the folder has no template; kCorrupt for a broken file or template, with file and line.
  static ChatTemplate from_folder(const std::string& folder);
  // special_tokens: {"bos_token": "<s>", ...}; null or missing ones stay undefined in the template.
  static ChatTemplate from_source(std::string_view source, const std::string& name,
                                  const OrderedJson& special_tokens = OrderedJson::object());

  // messages: array of objects with a role. Throws kInvalidArgument when the template refuses them (its own message is
  // in the error), when kwargs or options contradict, or when rendering passes jinja's limits.
  std::string apply(const OrderedJson& messages, const ChatTemplateOptions& options = {}) const;
  std::vector<ChatSegment> apply_segments(const OrderedJson& messages, const ChatTemplateOptions& options = {}) const;

  // The default template as written.
  const std::string& source() const;

 private:
  struct Named {
    std::string source;
    jinja::Template program;
  };

  ChatTemplate() = default;
  void add(const std::string& name, std::string source, const std::string& file);
  const Named& choose(const ChatTemplateOptions& options) const;
  jinja::Text render(const OrderedJson& messages, const ChatTemplateOptions& options) const;

  std::map<std::string, Named> templates_;  // "default", "tool_use", ...
  OrderedJson special_tokens_ = OrderedJson::object();
};

}  // namespace tessera
