// Where the hub is, where its cache lies and how patient a download is: the variables that Python's tools read too.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::hub {

struct HubSettings {
  std::string cache;                                // folder with models--ORG--NAME/
  std::string endpoint = "https://huggingface.co";  // no slash at the end
  std::string token;                                // empty: none
  std::string token_source;                         // for messages: "HF_TOKEN" or the token file
  bool offline = false;                             // use nothing but the cache
  std::string certificates;                         // file of those to trust; empty: the system's
  int timeout_s = 10;                               // without a byte, before a connection is given up

  int attempts = 6;              // in a row without a byte gained
  double first_backoff_s = 0.5;  // doubles, up to 30
  int files_at_once = 4;
  int connections_per_file = 4;
  int64_t piece_bytes = int64_t{8} << 20;  // a request's range
};

// HF_HUB_CACHE, or $HF_HOME/hub (HF_HOME: ~/.cache/huggingface); HF_ENDPOINT, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT;
// the token of HF_TOKEN, or of the file that logging in leaves. Throws kInvalidArgument, naming the variable.
HubSettings settings_from_env();

}  // namespace tessera::hub
