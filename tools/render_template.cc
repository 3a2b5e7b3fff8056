// Renders templates that come as JSON lines on stdin and answers with JSON lines: the tested side of
// tools/compare_jinja.py. A request is one of
//   {"template": SOURCE, "variables": {...}, "now": [year, month, day, hour, minute, second]}
//   {"folder": PATH, "messages": [...], "tools": ..., "documents": ..., "add_generation_prompt": bool,
//    "continue_final_message": bool, "kwargs": {...}}
// and an answer {"text": ...} or {"error": ..., "code": N}, one for each request.
#include <cstdio>
#include <iostream>
#include <map>
#include <string>

#include "core/error.h"
#include "text/chat_template.h"

namespace tessera {
namespace {

std::tm time_of(const OrderedJson& fields) {
  std::tm time{};
  time.tm_year = fields.at(0).get<int>() - 1900;
  time.tm_mon = fields.at(1).get<int>() - 1;
  time.tm_mday = fields.at(2).get<int>();
  time.tm_hour = fields.at(3).get<int>();
  time.tm_min = fields.at(4).get<int>();
  time.tm_sec = fields.at(5).get<int>();
  return time;
}

std::string render(const OrderedJson& request, std::map<std::string, ChatTemplate>* folders) {
  if (request.contains("template")) {
    jinja::RenderOptions options;
    if (request.contains("now")) options.now = time_of(request["now"]);
    return jinja::Template::parse(request["template"].get<std::string>(), "template")
        .render(request["variables"], options);
  }
  std::string folder = request.at("folder");
  auto at = folders->find(folder);
  if (at == folders->end()) at = folders->emplace(folder, ChatTemplate::from_folder(folder)).first;
  ChatTemplateOptions options;
  options.tools = request.value("tools", OrderedJson());
  options.documents = request.value("documents", OrderedJson());
  options.add_generation_prompt = request.value("add_generation_prompt", false);
  options.continue_final_message = request.value("continue_final_message", false);
  options.kwargs = request.value("kwargs", OrderedJson::object());
  if (request.contains("now")) {
    std::tm time = time_of(request["now"]);
    time.tm_isdst = -1;
    options.now = std::mktime(&time);
  }
  return at->second.apply(request.at("messages"), options);
}

}  // namespace
}  // namespace tessera

int main() {
  std::string line;
  std::map<std::string, tessera::ChatTemplate> folders;
  while (std::getline(std::cin, line)) {
    tessera::OrderedJson answer;
    try {
      answer["text"] = tessera::render(tessera::OrderedJson::parse(line), &folders);
    } catch (const tessera::Error& e) {
      answer["error"] = e.what();
      answer["code"] = static_cast<int>(e.code());
    } catch (const std::exception& e) {
      std::fprintf(stderr, "render_template: bad request: %s\n", e.what());
      return 1;
    }
    std::cout << answer.dump(-1, ' ', false, tessera::OrderedJson::error_handler_t::replace) << '\n' << std::flush;
  }
  return 0;
}
