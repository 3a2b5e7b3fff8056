#include "engine/rank_links.h"

#include <algorithm>
#include <cstring>

namespace tessera {

namespace {

CacheSizes parse_sizes(const std::string& message) {
  CacheSizes sizes;
  TS_CHECK(message.size() == sizeof sizes, "a rank answers with {} bytes", message.size());
  std::memcpy(&sizes, message.data(), sizeof sizes);
  return sizes;
}

CacheSizes hear(Channel& channel, int from) {
  std::string message;
  if (!channel.receive(from, message)) fail(ErrorCode::kIo, "rank {} of {} has left", from, channel.size());
  return parse_sizes(message);
}

}  // namespace

CacheSizes agree_on(const RankLinks& links, const CacheSizes& mine) {
  Channel& channel = *links.channel;
  CacheSizes least = mine;
  std::string message;
  if (!links.leads()) {
    append_bytes(message, mine);
    channel.send(message);
    const CacheSizes agreed = hear(channel, 0);
    if (agreed.pages < 0) throw NoRunner{};
    return agreed;
  }
  for (int r = 1; r < channel.size(); ++r) {
    const CacheSizes theirs = hear(channel, r);
    least.pages = std::min(least.pages, theirs.pages);
    least.host_pages = std::min(least.host_pages, theirs.host_pages);
    least.max_context = std::min(least.max_context, theirs.max_context);
  }
  append_bytes(message, least);
  channel.send(message);
  return least;
}

void refuse(const RankLinks& links) {
  for (int r = 1; r < links.channel->size(); ++r) hear(*links.channel, r);
  std::string message;
  append_bytes(message, CacheSizes{.pages = -1});
  links.channel->send(message);
}

void say_end(const RankLinks& links) noexcept {
  try {
    std::string message;
    append_bytes(message, Order{.kind = OrderKind::kEnd});
    links.channel->send(message);
  } catch (const Error&) {  // they have
  }
}

CacheSpec own_cache(CacheSpec spec, const StepRanks* ranks) {
  if (ranks == nullptr) return spec;
  const int64_t parts = ranks->mesh.tensor, index = ranks->mesh.tensor_index(ranks->rank);
  for (LayerCache& layer : spec.layers)
    layer.kv_heads = parts <= layer.kv_heads ? share(layer.kv_heads, parts, index).count : 1;
  return spec;
}

}  // namespace tessera
