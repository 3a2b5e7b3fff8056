#include "text/chat_template.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "text/jinja_unicode.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 400;
constexpr int64_t kMaxTemplateBytes = int64_t{1} << 20;
constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

// Roles decide what a template writes and some templates spell them inside a special token ("<|" + role + "|>"), so
// these few words count as the template's own text. Any other role stays input.
constexpr const char* kRoles[] = {"system", "developer", "user", "assistant", "tool", "function", "model", "ipython"};

// transformers appends this to the last message and cuts the prompt where it comes out.
constexpr std::string_view kContinueMark = "CONTINUE_FINAL_MESSAGE_TAG ";

OrderedJson read_ordered_json(const std::string& path) {
  OrderedJson json = OrderedJson::parse(read_text_file(path), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object; is the download complete?", path);
  return json;
}

// A token is a string or {"content": string, ...}; anything else is not set.
OrderedJson token_text(const OrderedJson& token) {
  if (token.is_string()) return token;
  if (token.is_object() && token.contains("content") && token["content"].is_string()) return token["content"];
  return OrderedJson();
}

void take_special_tokens(const OrderedJson& config, OrderedJson* tokens) {
  for (const char* name : kSpecialTokens) {
    if (tokens->contains(name) || !config.contains(name)) continue;
    if (OrderedJson text = token_text(config[name]); !text.is_null()) (*tokens)[name] = std::move(text);
  }
  const char* additional = "additional_special_tokens";
  if (tokens->contains(additional) || !config.contains(additional) || !config[additional].is_array()) return;
  OrderedJson list = OrderedJson::array();
  for (const OrderedJson& token : config[additional]) {
    if (OrderedJson text = token_text(token); !text.is_null()) list.push_back(std::move(text));
  }
  (*tokens)[additional] = std::move(list);
}

// Copying JSON recurses as deep as it nests.
void check_depth(const OrderedJson& json, int levels) {
  if (levels == 0) fail(ErrorCode::kInvalidArgument, "the messages nest more than {} levels deep", kMaxDepth);
  if (!json.is_structured()) return;
  for (const OrderedJson& item : json) check_depth(item, levels - 1);
}

// The text that continue_final_message goes on with: the content, or its last text block.
OrderedJson& final_text(OrderedJson* messages) {
  OrderedJson& last = messages->back();
  if (!last.is_object() || !last.contains("content") || last["content"].is_null()) {
    fail(ErrorCode::kInvalidArgument, "continue_final_message: the final message has no \"content\" to continue");
  }
  OrderedJson& content = last["content"];
  if (content.is_string()) return content;
  if (content.is_array()) {
    for (auto block = content.rbegin(); block != content.rend(); ++block) {
      if (block->is_object() && block->contains("text") && (*block)["text"].is_string()) return (*block)["text"];
    }
  }
  fail(ErrorCode::kInvalidArgument, "continue_final_message: the final message has no text to continue");
}

// Cuts a prompt at the mark; spaces before it go too when the template trimmed the message.
void cut_at_mark(std::string_view final_message, jinja::Text* prompt) {
  std::string_view mark = kContinueMark.substr(0, kContinueMark.size() - 1);
  const std::string& bytes = prompt->bytes();
  size_t at = bytes.rfind(mark);
  if (at == std::string::npos || bytes.find(jinja::unicode::trim(final_message)) == std::string::npos) {
    fail(ErrorCode::kInvalidArgument,
         "continue_final_message: the final message does not appear in the prompt; the chat template changes or drops "
         "it");
  }
  bool kept_spacing = bytes.compare(at, kContinueMark.size(), kContinueMark) == 0;
  prompt->resize(at);
  if (kept_spacing) return;
  std::string_view text = prompt->bytes();
  while (!text.empty()) {
    uint32_t c = 0;
    size_t last = jinja::unicode::previous(text, text.size());
    jinja::unicode::decode(text, last, &c);
    if (!jinja::unicode::is_space(c)) break;
    text = text.substr(0, last);
  }
  prompt->resize(text.size());
}

}  // namespace

void ChatTemplate::add(const std::string& name, std::string source, const std::string& file) {
  jinja::Template program = jinja::Template::parse(source, file);
  templates_.insert_or_assign(name, Named{std::move(source), std::move(program)});
}

ChatTemplate ChatTemplate::from_source(std::string_view source, const std::string& name,
                                       const OrderedJson& special_tokens) {
  ChatTemplate chat;
  chat.add("default", std::string(source), name);
  take_special_tokens(special_tokens, &chat.special_tokens_);
  return chat;
}

ChatTemplate ChatTemplate::from_folder(const std::string& folder) {
  ChatTemplate chat;
  std::string config_path = folder + "/tokenizer_config.json";
  OrderedJson config = fs::exists(config_path) ? read_ordered_json(config_path) : OrderedJson::object();
  std::string own_file = folder + "/chat_template.jinja";
  std::string json_file = folder + "/chat_template.json";
  if (fs::exists(own_file)) {
    chat.add("default", read_text_file(own_file, kMaxTemplateBytes), own_file);
  } else {
    if (fs::exists(json_file)) {
      OrderedJson wrapped = read_ordered_json(json_file);
      if (wrapped.contains("chat_template")) config["chat_template"] = wrapped["chat_template"];
      config_path = json_file;
    }
    OrderedJson found = config.contains("chat_template") ? config["chat_template"] : OrderedJson();
    if (found.is_string()) {
      chat.add("default", found.get<std::string>(), config_path);
    } else if (found.is_array()) {
      for (const OrderedJson& entry : found) {
        bool valid = entry.is_object() && entry.contains("name") && entry["name"].is_string() &&
                     entry.contains("template") && entry["template"].is_string();
        if (!valid)
          fail(ErrorCode::kCorrupt, "{}: \"chat_template\" must be a list of {{name, template}}", config_path);
        chat.add(entry["name"].get<std::string>(), entry["template"].get<std::string>(), config_path);
      }
    } else if (!found.is_null()) {
      fail(ErrorCode::kCorrupt, "{}: \"chat_template\" must be a string or a list of {{name, template}}", config_path);
    }
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder + "/additional_chat_templates", ignored)) {
    if (entry.path().extension() != ".jinja") continue;
    chat.add(entry.path().stem().string(), read_text_file(entry.path().string(), kMaxTemplateBytes),
             entry.path().string());
  }
  if (chat.templates_.empty()) {
    fail(ErrorCode::kNotFound,
         "{}: no chat template (chat_template.jinja, or \"chat_template\" in tokenizer_config.json); "
         "is this a base model? Use plain generation for it",
         folder);
  }
  take_special_tokens(config, &chat.special_tokens_);
  std::string map_path = folder + "/special_tokens_map.json";
  if (fs::exists(map_path)) take_special_tokens(read_ordered_json(map_path), &chat.special_tokens_);
  return chat;
}

const std::string& ChatTemplate::source() const {
  auto at = templates_.find("default");
  return (at != templates_.end() ? at : templates_.begin())->second.source;
}

const ChatTemplate::Named& ChatTemplate::choose(const ChatTemplateOptions& options) const {
  auto at = options.tools.is_null() ? templates_.end() : templates_.find("tool_use");
  if (at == templates_.end()) at = templates_.find("default");
  if (at == templates_.end()) {
    fail(ErrorCode::kCorrupt, "the model has {} chat templates but none is named \"default\"", templates_.size());
  }
  return at->second;
}

jinja::Text ChatTemplate::render(const OrderedJson& messages, const ChatTemplateOptions& options) const {
  if (!messages.is_array()) fail(ErrorCode::kInvalidArgument, "messages must be an array");
  if (options.continue_final_message && options.add_generation_prompt) {
    fail(ErrorCode::kInvalidArgument,
         "continue_final_message and add_generation_prompt contradict each other; set one");
  }
  const Named& chosen = choose(options);
  OrderedJson add_generation_prompt = options.add_generation_prompt;
  OrderedJson continued;  // the messages, with a mark at the end of the last
  std::string final_message;
  if (options.continue_final_message) {
    if (messages.empty()) fail(ErrorCode::kInvalidArgument, "continue_final_message: there is no message");
    check_depth(messages, kMaxDepth);
    continued = messages;
    OrderedJson& text = final_text(&continued);
    final_message = text.get<std::string>();
    text = final_message + std::string(kContinueMark);
  }
  std::vector<jinja::Variable> variables;
  for (const auto& item : special_tokens_.items()) variables.push_back({item.key(), &item.value(), /*own=*/true});
  const size_t first_given = variables.size();
  variables.push_back({"messages", options.continue_final_message ? &continued : &messages});
  variables.push_back({"tools", &options.tools});
  variables.push_back({"documents", &options.documents});
  variables.push_back({"add_generation_prompt", &add_generation_prompt});
  const size_t first_kwarg = variables.size();
  if (!options.kwargs.is_null() && !options.kwargs.is_object())
    fail(ErrorCode::kInvalidArgument, "kwargs must be an object");
  for (const auto& item : options.kwargs.items()) {
    for (size_t i = first_given; i < first_kwarg; ++i) {
      if (variables[i].name == item.key()) fail(ErrorCode::kInvalidArgument, "kwargs must not hold \"{}\"", item.key());
    }
    variables.push_back({item.key(), &item.value()});
  }
  jinja::RenderOptions render_options;
  if (options.now.has_value()) {
    std::tm local{};
    localtime_r(&*options.now, &local);
    render_options.now = local;
  }
  for (const char* role : kRoles) render_options.trusted_values.emplace_back("role", role);
  jinja::Text prompt = chosen.program.render(variables, render_options);
  if (options.continue_final_message) cut_at_mark(final_message, &prompt);
  return prompt;
}

std::string ChatTemplate::apply(const OrderedJson& messages, const ChatTemplateOptions& options) const {
  return render(messages, options).bytes();
}

std::vector<ChatSegment> ChatTemplate::apply_segments(const OrderedJson& messages,
                                                      const ChatTemplateOptions& options) const {
  jinja::Text prompt = render(messages, options);
  std::vector<ChatSegment> segments;
  size_t begin = 0;
  for (const jinja::Text::Run& run : prompt.runs()) {
    ChatSegment segment;
    segment.text = prompt.bytes().substr(begin, run.end - begin);
    segment.from_template = (run.marks & jinja::kFromInput) == 0;
    segment.generated = (run.marks & jinja::kGenerated) != 0;
    segments.push_back(std::move(segment));
    begin = run.end;
  }
  return segments;
}

}  // namespace tessera
