#include "server/response_store.h"

namespace tessera::server {

void ResponseStore::drop(std::list<Entry>::iterator entry) {
  bytes_ -= entry->bytes();
  index_.erase(entry->id);
  entries_.erase(entry);
}

void ResponseStore::put(const std::string& id, StoredResponse response) {
  std::lock_guard lock(mutex_);
  entries_.push_front({id, std::move(response)});
  index_[id] = entries_.begin();
  bytes_ += entries_.front().bytes();
  while (!entries_.empty() && (static_cast<int64_t>(entries_.size()) > max_count_ || bytes_ > max_bytes_))
    drop(std::prev(entries_.end()));
}

std::optional<StoredResponse> ResponseStore::get(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto it = index_.find(id);
  if (it == index_.end()) return std::nullopt;
  entries_.splice(entries_.begin(), entries_, it->second);
  return it->second->response;
}

bool ResponseStore::erase(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto it = index_.find(id);
  if (it == index_.end()) return false;
  drop(it->second);
  return true;
}

}  // namespace tessera::server
