// Conversations of earlier /v1/responses, for previous_response_id: the newest ones, bounded in number and bytes.
// Thread-safe.
#pragma once

#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace tessera::server {

struct StoredResponse {
  std::string messages;  // JSON array: the conversation with this answer, in chat shape, without instructions
  std::string response;  // JSON object, as it was answered
};

class ResponseStore {
 public:
  ResponseStore(int64_t max_count, int64_t max_bytes) : max_count_(max_count), max_bytes_(max_bytes) {}

  void put(const std::string& id, StoredResponse response);
  std::optional<StoredResponse> get(const std::string& id);
  bool erase(const std::string& id);

 private:
  struct Entry {
    std::string id;
    StoredResponse response;
    int64_t bytes() const { return static_cast<int64_t>(response.messages.size() + response.response.size()); }
  };
  void drop(std::list<Entry>::iterator entry);

  const int64_t max_count_, max_bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest use first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  int64_t bytes_ = 0;
};

}  // namespace tessera::server
