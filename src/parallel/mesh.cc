#include "parallel/mesh.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace tessera {

namespace {
constexpr int kMostRanks = 1024;
}  // namespace

Range share(int64_t n, int64_t parts, int64_t index, int64_t unit) {
  TS_CHECK(parts > 0 && index >= 0 && index < parts && unit > 0 && n % unit == 0);
  const int64_t units = n / unit, each = units / parts, more = units % parts;
  const int64_t begin = each * index + std::min(index, more);
  return {begin * unit, (each + (index < more ? 1 : 0)) * unit};
}

Range Mesh::inner_share(int64_t width, int parts, int index) const {
  int64_t step = unit;
  while (step > least_unit && (width % step != 0 || width / step < parts)) step /= 2;
  return share(width, parts, index, width % step == 0 ? step : 1);
}

HeadShare share_heads(int64_t heads, int64_t kv_heads, int64_t parts, int64_t index) {
  TS_CHECK(parts <= heads && heads % kv_heads == 0);
  const int64_t group = heads / kv_heads;
  if (parts <= kv_heads) {
    const Range kv = share(kv_heads, parts, index);
    return {{kv.begin * group, kv.count * group}, kv};
  }
  int64_t head = 0;
  while (share(parts, kv_heads, head).end() <= index) ++head;
  const Range owners = share(parts, kv_heads, head);
  const Range within = share(group, owners.count, index - owners.begin);
  return {{head * group + within.begin, within.count}, {head, 1}};
}

std::string why_impossible(const Mesh& m, const MeshDemand& d) {
  if (m.tensor < 1 || m.expert < 1 || m.ranks() > kMostRanks)
    return fmt::format("--tp and --ep take 1 to {} ranks", kMostRanks);
  if (m.ranks() % std::min(m.tensor, m.expert) != 0)
    return fmt::format("of --tp {} and --ep {} the larger must be a multiple of the smaller", m.tensor, m.expert);
  if (m.tensor > d.heads) return fmt::format("--tp {} is more than the {} query heads", m.tensor, d.heads);
  if (m.ranks() > d.vocabulary) return fmt::format("{} ranks are more than the {} tokens", m.ranks(), d.vocabulary);
  if (d.dense_inner > 0 && m.tensor > d.dense_inner)
    return fmt::format("--tp {} is more than the inner width of {}", m.tensor, d.dense_inner);
  if (m.expert > 1 && d.experts == 0) return fmt::format("--ep {}: this model has no experts", m.expert);
  if (m.expert > std::max<int64_t>(d.experts, 1))
    return fmt::format("--ep {} is more than the {} experts", m.expert, d.experts);
  return "";
}

std::vector<Mesh> nearest_meshes(const Mesh& mesh, const MeshDemand& demand, int count) {
  std::vector<Mesh> found;
  const int most_t = static_cast<int>(std::min<int64_t>(demand.heads, kMostRanks));
  const int most_e = static_cast<int>(std::clamp<int64_t>(demand.experts, 1, kMostRanks));
  for (int t = 1; t <= most_t; ++t) {
    for (int e = 1; e <= most_e; ++e) {
      Mesh candidate = mesh;
      candidate.tensor = t, candidate.expert = e;
      if (why_impossible(candidate, demand).empty()) found.push_back(candidate);
    }
  }
  auto distance = [&](const Mesh& m) {
    return std::abs(m.ranks() - mesh.ranks()) * 4 + std::abs(m.tensor - mesh.tensor) + std::abs(m.expert - mesh.expert);
  };
  std::stable_sort(found.begin(), found.end(), [&](const Mesh& a, const Mesh& b) { return distance(a) < distance(b); });
  found.resize(std::min(found.size(), static_cast<size_t>(count)));
  return found;
}

}  // namespace tessera
