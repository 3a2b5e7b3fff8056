#include "api/parallel_plan.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cache/cache_spec.h"
#include "engine/rank_links.h"
#include "parallel/comm_model.h"
#include "parallel/sharding.h"

namespace tessera {

namespace {

const char* how(const WeightRow& row) {
  switch (row.split) {
    case Split::kReplicated:
      return "whole on every rank";
    case Split::kQueryHeads:
      return "rows by query heads";
    case Split::kKvHeads:
      return "rows by kv heads";
    case Split::kHeadCols:
      return "columns by query heads, then a sum";
    case Split::kInnerRows:
      return "rows by inner width";
    case Split::kInnerCols:
      return "columns by inner width, then a sum";
    case Split::kVocabulary:
      return "rows by tokens of the vocabulary";
    case Split::kOnce:
      return "on one rank: added once to a sum";
    case Split::kExperts:
      break;
  }
  switch (row.inner) {
    case ExpertInner::kPairs:
    case ExpertInner::kHalves:
      return "experts, and rows by inner width";
    case ExpertInner::kColumns:
      return "experts, and columns by inner width, then a sum";
    case ExpertInner::kOnce:
      return "experts, on one rank of each group";
  }
  return "";
}

// "1024+1024" for what changes from rank to rank.
std::string shares(const WeightRow& row, const Mesh& mesh) {
  std::string rows, columns, experts;
  for (int rank = 0; rank < mesh.ranks(); ++rank) {
    const RowSlice s = slice_of(row, mesh, rank);
    const char* plus = rank > 0 ? "+" : "";
    rows += fmt::format("{}{}", plus, s.held ? s.row_count() : 0);
    columns += fmt::format("{}{}", plus, s.columns.count);
    experts += fmt::format("{}{}", plus, s.experts.count);
  }
  const RowSlice whole = whole_of(row), first = slice_of(row, mesh, 0);
  std::string text;
  auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (first.experts.count != whole.experts.count) add("experts " + experts);
  if (first.columns.count != whole.columns.count) add("columns " + columns);
  const bool once = row.split == Split::kOnce || (row.split == Split::kExperts && row.inner == ExpertInner::kOnce);
  if (first.row_count() != whole.rows.count || (once && mesh.ranks() > 1)) add("rows " + rows);
  return text;
}

// "model.layers.7.mlp.router.weight" as layer 7 and the rest; -1 outside of layers.
std::pair<int, std::string> layer_of(const std::string& name) {
  const std::string mark = "layers.";
  const size_t at = name.find(mark);
  if (at == std::string::npos) return {-1, name};
  const size_t end = name.find('.', at + mark.size());
  return {std::stoi(name.substr(at + mark.size())), name.substr(end + 1)};
}

// Layers with the same recipe are told once.
Json recipe(const WeightPlan& plan, const Mesh& mesh) {
  std::map<int, Json> layers;
  for (const WeightRow& row : plan.rows()) {
    if (row.kind == RowKind::kAlias) continue;
    auto [layer, name] = layer_of(row.name);
    if (row.members.size() == 1) name += "." + row.members[0];
    std::vector<int64_t> shape;
    for (int i = 0; i < row.shape.rank(); ++i) shape.push_back(row.shape[i]);
    layers[layer].push_back({{"name", name}, {"shape", shape}, {"split", how(row)}, {"shares", shares(row, mesh)}});
  }
  Json out = Json::array();
  for (auto& [layer, rows] : layers) {
    if (!out.empty() && out.back()["rows"] == rows) {
      out.back()["layers"].push_back(layer);
    } else {
      out.push_back({{"layers", {layer}}, {"rows", rows}});
    }
  }
  return out;
}

struct RankAccount {
  int64_t weights = 0;
  double read_a_token = 0;  // weight bytes, one sequence
};

// With A of E experts read, evenly routed.
RankAccount account_of(const Checkpoint& checkpoint, const WeightPlan& plan, const PlanRequest& request, int rank,
                       int64_t active, double tokens) {
  RankAccount out;
  size_t i = 0;
  for (const LoadedRow& row : checkpoint.forecast(
           plan, {.dtype = request.dtype, .dequantize = request.dequantize, .mesh = &request.mesh, .rank = rank})) {
    const WeightRow& declared = plan.rows()[i++];
    out.weights += row.memory_bytes;
    double read = 1;
    if (declared.looked_up) read = 0;
    if (declared.split == Split::kExperts)
      read = experts_reached(declared.shape[0], active, tokens) / static_cast<double>(declared.shape[0]);
    out.read_a_token += read * static_cast<double>(row.memory_bytes);
    // The busiest rank: with few tokens, chance puts more on one group than the mean.
    if (declared.split == Split::kExperts && request.mesh.expert > 1 && tokens * static_cast<double>(active) < 8)
      out.read_a_token += (1.5 - 1) * read * static_cast<double>(row.memory_bytes);
  }
  return out;
}

// Bytes that a rank sends for one row to be sampled on GPUs: a best token and a sum of weights of each 4096 columns.
double told_to_choose(const ModelInfo& info, const Mesh& mesh) {
  const double segments = std::ceil(static_cast<double>(info.vocab_size) / mesh.tensor / 4096);
  return 16 * segments * (mesh.tensor - 1);
}

Json communication(const PlanRequest& request, const ModelInfo& info, bool experts) {
  const Mesh& mesh = request.mesh;
  const bool dispatch = request.dispatch;
  const int64_t hidden = info.hidden_size, layers = info.num_hidden_layers, active = info.experts_per_token;
  const int r = mesh.ranks(), t = mesh.tensor;
  const double row = static_cast<double>(hidden) * 2;  // bf16
  auto sum_bytes = [&](int over) { return over > 1 ? 2.0 * (over - 1) / over * row : 0.0; };
  const int sharing = mesh.split_tokens ? t : r;  // ranks that hold the same tokens
  // Of A experts, how many other groups: each is sent to once, whatever it owns of them.
  const double groups = experts_reached(mesh.expert, 1, static_cast<double>(active));
  const double away = groups * (mesh.expert > 1 ? (mesh.expert - 1.0) / mesh.expert : 0.0) * mesh.inner();
  const double expert_bytes = !experts   ? sum_bytes(t)
                              : dispatch ? 2 * away * row / r + (sharing - 1.0) / sharing * row
                                         : sum_bytes(r);
  const double attention_bytes = sum_bytes(t);
  const double logits = t > 1 ? static_cast<double>(info.vocab_size) / t * 4 * (t - 1) : 0;
  const double greedy = request.on_gpus ? told_to_choose(info, mesh) : 8.0 * (t - 1);
  return {{"attention", {{"kind", t > 1 ? "all-reduce" : "none"}, {"bytes_sent_a_token_a_layer", attention_bytes}}},
          {"experts",
           {{"kind", r == 1                ? "none"
                     : dispatch && experts ? "dispatch"
                                           : "all-reduce"},
            {"bytes_sent_a_token_a_layer", expert_bytes}}},
          {"logits", {{"bytes_sent_a_row", logits}, {"greedy_bytes_sent_a_row", greedy}}},
          {"bytes_sent_a_token", static_cast<double>(layers) * (attention_bytes + expert_bytes)},
          {"collectives_a_step", layers * ((t > 1) + (r > 1)) + (t > 1)}};
}

// Bytes that a rank reads of the cache for one token with so many before it.
double cache_read(const CacheSpec& spec, const PlanRequest& request, int64_t context) {
  const StepRanks place{.mesh = request.mesh, .rank = 0};
  double bytes = 0;
  for (const LayerCache& layer : own_cache(spec, &place).layers)
    bytes += static_cast<double>(token_bytes(layer, dtype_size(request.dtype)) *
                                 (layer.window == 0 ? context : std::min(layer.window, context)));
  return bytes;
}

constexpr int64_t kContext = 384;  // tokens of each sequence in predictions of many

StepSeconds predict(const Checkpoint& checkpoint, const WeightPlan& plan, const PlanRequest& request,
                    const Model& model, const LinkFigures& link, double sequences) {
  const Mesh& mesh = request.mesh;
  const ModelInfo& info = model.info();
  double reads = 0;
  for (int rank = 0; rank < mesh.ranks(); ++rank)
    reads =
        std::max(reads, account_of(checkpoint, plan, request, rank, info.experts_per_token, sequences).read_a_token);
  const int sums = (mesh.tensor > 1) + (mesh.ranks() > 1);
  return predict_step(h100_figures(), link, mesh.ranks(),
                      {.layers = info.num_hidden_layers,
                       .tokens = sequences,
                       .weight_bytes = reads,
                       .cache_bytes = sequences > 1 ? sequences * cache_read(model.cache(), request, kContext) : 0,
                       .sums = static_cast<double>(info.num_hidden_layers * sums),
                       .sum_bytes = sequences * static_cast<double>(info.hidden_size) * 2,
                       .gathered_bytes = sequences * told_to_choose(info, mesh)});
}

}  // namespace

Json scaling_table(const Checkpoint& checkpoint, Model& model, const PlanRequest& request) {
  constexpr int kHost = 8;               // GPUs that NVLink joins
  constexpr double kMemory = 72e9;       // of a card, for weights
  constexpr double kSequencesAGpu = 64;  // of the throughput column
  WeightPlan plan;
  model.declare(plan);
  Json rows = Json::array();
  for (int gpus : {1, 2, 4, 8, 16, 64}) {
    for (int ranks = 1; ranks <= gpus; ranks *= 2) {
      for (int expert : {1, ranks}) {
        PlanRequest r = request;
        r.mesh.tensor = ranks, r.mesh.expert = expert;
        if (!why_impossible(r.mesh, mesh_demand(plan)).empty()) continue;
        if (account_of(checkpoint, plan, r, 0, model.info().experts_per_token, 1).weights > kMemory) continue;
        const LinkFigures& link = link_figures()[ranks <= kHost ? 1 : 2];
        const int replicas = gpus / ranks;
        const StepSeconds alone = predict(checkpoint, plan, r, model, link, 1);
        const double batch = kSequencesAGpu * ranks;
        const StepSeconds full = predict(checkpoint, plan, r, model, link, batch);
        rows.push_back({{"gpus", gpus},
                        {"tp", ranks},
                        {"ep", expert},
                        {"replicas", replicas},
                        {"link", ranks == 1 ? "none" : link.name},
                        {"ms_a_token_alone", alone.total() * 1e3},
                        {"sequences", static_cast<int64_t>(batch) * replicas},
                        {"tokens_per_second", replicas * batch / full.total()}});
        if (ranks == 1) break;  // expert 1 twice
      }
    }
  }
  return rows;
}

Json describe_plan(const Checkpoint& checkpoint, Model& model, const PlanRequest& request) {
  WeightPlan plan;
  model.declare(plan);
  const Mesh& mesh = request.mesh;
  check_mesh(mesh, plan);
  const MeshDemand demand = mesh_demand(plan);
  const ModelInfo& info = model.info();
  const int64_t active = info.experts_per_token;
  Json ranks = Json::array();
  for (int rank = 0; rank < mesh.ranks(); ++rank) {
    const HeadShare heads = share_heads(demand.heads, demand.kv_heads, mesh.tensor, mesh.tensor_index(rank));
    const StepRanks place{.mesh = mesh, .rank = rank};
    int64_t cache = 0;
    for (const LayerCache& layer : own_cache(model.cache(), &place).layers)
      cache += layer.window == 0 ? token_bytes(layer, dtype_size(request.dtype)) : 0;
    const Range experts = demand.experts > 0 ? expert_share(demand.experts, mesh, rank) : Range{};
    const Range tokens = vocabulary_share(info.vocab_size, mesh, rank);
    ranks.push_back({{"rank", rank},
                     {"query_heads", heads.query.count},
                     {"kv_heads", heads.kv.count},
                     {"experts", {experts.begin, experts.count}},
                     {"vocabulary", {tokens.begin, tokens.count}},
                     {"weight_bytes", account_of(checkpoint, plan, request, rank, active, 1).weights},
                     {"cache_bytes_a_token", cache}});
  }
  Json out{{"architecture", info.architecture},
           {"tp", mesh.tensor},
           {"ep", mesh.expert},
           {"ranks", ranks},
           {"inner_unit", mesh.unit},
           {"recipe", recipe(plan, mesh)},
           {"communication", communication(request, info, demand.experts > 0)}};
  Json predictions = Json::array();
  for (const LinkFigures& link : link_figures()) {
    for (double batch : {1.0, 128.0}) {
      const StepSeconds s = predict(checkpoint, plan, request, model, link, batch);
      predictions.push_back({{"device", h100_figures().name},
                             {"link", link.name},
                             {"sequences", batch},
                             {"ms_a_step", s.total() * 1e3},
                             {"communication_ms", s.communication * 1e3},
                             {"tokens_per_second", batch / s.total()}});
    }
  }
  out["prediction"] = predictions;
  return out;
}

}  // namespace tessera
