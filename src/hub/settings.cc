#include "hub/settings.h"

#include <algorithm>
#include <filesystem>

#include "core/env.h"
#include "core/error.h"
#include "core/json.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

std::string expand_home(const std::string& path) {
  return path.starts_with("~/") ? env_string(Env::kHome) + path.substr(1) : path;
}

std::string hf_home() {
  std::string home = env_string(Env::kHfHome);
  if (!home.empty()) return expand_home(home);
  std::string cache = env_string(Env::kCacheHome);
  if (cache.empty()) cache = env_string(Env::kHome) + "/.cache";
  return expand_home(cache) + "/huggingface";
}

bool is_true(std::string value) {
  std::ranges::transform(value, value.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string trimmed(const std::string& text) {
  size_t begin = text.find_first_not_of(" \t\r\n"), end = text.find_last_not_of(" \t\r\n");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

void read_token(HubSettings& settings) {
  settings.token = trimmed(env_string(Env::kHfToken));
  settings.token_source = "HF_TOKEN";
  if (settings.token.empty()) {
    std::string path = expand_home(env_string(Env::kHfTokenPath));
    if (path.empty()) path = hf_home() + "/token";
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) settings.token = trimmed(read_text_file(path, 1 << 16));
    settings.token_source = path;
  }
  // It goes into a header, where a line break would start another one.
  if (std::ranges::any_of(settings.token, [](unsigned char c) { return c <= 0x20 || c >= 0x7f; }))
    fail(ErrorCode::kInvalidArgument,
         "{}: the token holds spaces or control characters; expected something like hf_...", settings.token_source);
}

}  // namespace

HubSettings settings_from_env() {
  HubSettings settings;
  settings.cache = expand_home(env_string(Env::kHfHubCache));
  if (settings.cache.empty()) settings.cache = hf_home() + "/hub";
  settings.cache = fs::absolute(settings.cache).lexically_normal().string();
  settings.endpoint = env_string(Env::kHfEndpoint);
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  if (!settings.endpoint.starts_with("https://") && !settings.endpoint.starts_with("http://"))
    fail(ErrorCode::kInvalidArgument, "HF_ENDPOINT={}: expected an address that begins with https:// or http://",
         settings.endpoint);
  settings.offline = is_true(env_string(Env::kHfOffline));
  settings.timeout_s = static_cast<int>(std::clamp(env_long(Env::kHfTimeout), 1L, 3600L));
  settings.certificates = env_string(Env::kCertificates);
  read_token(settings);
  return settings;
}

}  // namespace tessera::hub
