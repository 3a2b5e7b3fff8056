#include "api/parallel_plan.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "cache/cache_spec.h"
#include "core/error.h"
#include "engine/device_forecast.h"
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

TokenTraffic traffic_of(const PlanRequest& request, const ModelInfo& info, int64_t experts, bool on_gpus) {
  return token_traffic(request.mesh, {.row_bytes = static_cast<double>(info.hidden_size * dtype_size(request.dtype)),
                                      .experts = experts,
                                      .active = info.experts_per_token,
                                      .vocabulary = info.vocab_size,
                                      .dispatch = on_gpus ? request.mesh.split_tokens : request.dispatch,
                                      .gpus = on_gpus});
}

Json communication(const PlanRequest& request, const ModelInfo& info, int64_t experts) {
  const Mesh& mesh = request.mesh;
  const TokenTraffic t = traffic_of(request, info, experts, request.on_gpus);
  const double of_experts = t.experts + t.routing + t.shared;
  const bool dispatch = request.dispatch && experts > 0;
  return {
      {"attention", {{"kind", mesh.tensor > 1 ? "all-reduce" : "none"}, {"bytes_sent_a_token_a_layer", t.attention}}},
      {"experts",
       {{"kind", mesh.ranks() == 1 ? "none"
                 : dispatch        ? "dispatch"
                                   : "all-reduce"},
        {"bytes_sent_a_token_a_layer", of_experts},
        {"rows", t.experts},
        {"routing", t.routing},
        {"shared", t.shared}}},
      {"logits",
       {{"hidden_bytes_sent_a_row", t.rows}, {"bytes_sent_a_row", t.logits}, {"greedy_bytes_sent_a_row", t.greedy}}},
      {"bytes_sent_a_token", static_cast<double>(info.num_hidden_layers) * (t.attention + of_experts)},
      {"collectives_a_step", info.num_hidden_layers * t.layer_collectives + t.logit_collectives}};
}

// For scratch memory and the cache.
int64_t left_of(const PlanRequest& request, int rank, int64_t weights) {
  const int64_t left = request.device_memory - kDriverBytes - weights;
  auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); };
  if (left <= 0) {
    fail(ErrorCode::kOutOfMemory,
         "rank {} of {} holds {:.2f} GiB of weights, and --device-memory {:.2f} GiB leaves it {:.2f} beside the "
         "driver's share; take more ranks, or raise it",
         rank, request.mesh.ranks(), gib(weights), gib(request.device_memory),
         gib(std::max<int64_t>(request.device_memory - kDriverBytes, 0)));
  }
  return left;
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
  const int64_t experts = mesh_demand(plan).experts;
  const TokenTraffic sent = traffic_of(request, info, experts, true);
  const int groups = mesh.split_tokens ? mesh.replicas() : 1;
  const double row = static_cast<double>(info.hidden_size * dtype_size(request.dtype));
  StepDemand demand{
      .layers = info.num_hidden_layers,
      .tokens = sequences,
      .weight_bytes = reads,
      .cache_bytes = sequences > 1 ? sequences / groups * cache_read(model.cache(), request, kContext) : 0,
      .dispatch = mesh.split_tokens && experts > 0,
      .dispatched_bytes = sequences * (sent.experts + sent.routing),
      .gathers = sent.logit_collectives,
      .gathered_bytes = sequences * (sent.rows + sent.greedy)};
  const double own = std::max(1.0, sequences / groups) * row;
  if (mesh.tensor > 1) demand.sums.push_back({mesh.tensor, own});
  const int summing = experts > 0 ? mesh.ranks() : mesh.tensor;
  if (!demand.dispatch && summing > 1) demand.sums.push_back({summing, own});
  return predict_step(h100_figures(), link, mesh.ranks(), demand);
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
      // Tensors, experts too, experts with attention on each rank's own sequences.
      for (const Mesh& split : {Mesh{.tensor = ranks}, Mesh{.tensor = ranks, .expert = ranks},
                                Mesh{.expert = ranks, .split_tokens = true}}) {
        PlanRequest r = request;
        r.mesh.tensor = split.tensor, r.mesh.expert = split.expert, r.mesh.split_tokens = split.split_tokens;
        const LinkFigures& link = link_figures()[ranks <= kHost ? 1 : 2];
        if (!why_impossible(r.mesh, mesh_demand(plan)).empty()) continue;
        if (r.mesh.split_tokens && link.dispatch_us == 0) continue;
        if (account_of(checkpoint, plan, r, 0, model.info().experts_per_token, 1).weights > kMemory) continue;
        const int replicas = gpus / ranks;
        const StepSeconds alone = predict(checkpoint, plan, r, model, link, 1);
        const double batch = kSequencesAGpu * ranks;
        const StepSeconds full = predict(checkpoint, plan, r, model, link, batch);
        rows.push_back({{"gpus", gpus},
                        {"tp", r.mesh.tensor},
                        {"ep", r.mesh.expert},
                        {"attention", r.mesh.split_tokens ? "dp" : "tp"},
                        {"replicas", replicas},
                        {"link", ranks == 1 ? "none" : link.name},
                        {"ms_a_token_alone", alone.total() * 1e3},
                        {"sequences", static_cast<int64_t>(batch) * replicas},
                        {"tokens_per_second", replicas * batch / full.total()}});
        if (ranks == 1) break;  // all the same
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
    const int64_t weights = account_of(checkpoint, plan, request, rank, active, 1).weights;
    ranks.push_back({{"rank", rank},
                     {"query_heads", heads.query.count},
                     {"kv_heads", heads.kv.count},
                     {"experts", {experts.begin, experts.count}},
                     {"vocabulary", {tokens.begin, tokens.count}},
                     {"weight_bytes", weights},
                     {"cache_bytes_a_token", cache}});
    if (request.device_memory > 0) ranks.back()["left_bytes"] = left_of(request, rank, weights);
  }
  Json out{{"architecture", info.architecture},
           {"tp", mesh.tensor},
           {"ep", mesh.expert},
           {"attention", mesh.split_tokens ? "dp" : "tp"},
           {"ranks", ranks},
           {"inner_unit", mesh.unit},
           {"recipe", recipe(plan, mesh)},
           {"communication", communication(request, info, demand.experts)}};
  Json predictions = Json::array();
  for (const LinkFigures& link : link_figures()) {
    if (mesh.split_tokens && link.dispatch_us == 0) continue;
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
