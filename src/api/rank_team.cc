#include "api/rank_team.h"

#include <algorithm>

#include "api/describe.h"
#include "api/hub_layers.h"
#include "core/error.h"
#include "core/log.h"
#include "core/memory_limit.h"
#include "engine/device_forecast.h"
#include "engine/follower.h"
#include "engine/placement.h"
#include "hub/resolve.h"
#include "models/registry.h"
#include "parallel/gpu_communicator.h"
#include "parallel/mpi_communicator.h"
#include "parallel/socket_channel.h"
#include "parallel/thread_group.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace {

constexpr int64_t kMatrixUnit = 64;  // columns that a GPU's matrix units take at once

ExpertExchange exchange_of(const LoadOptions& options, const Mesh& mesh, bool cuda) {
  if (options.experts != "auto" && options.experts != "dispatch" && options.experts != "all-reduce")
    fail(ErrorCode::kInvalidArgument, "experts is \"{}\"; expected auto, dispatch or all-reduce", options.experts);
  if (mesh.split_tokens) {
    if (options.experts == "all-reduce")
      fail(
          ErrorCode::kInvalidArgument,
          "with attention \"dp\" no rank holds all tokens, so experts cannot be \"all-reduce\"; give dispatch or auto");
    return ExpertExchange::kDispatch;
  }
  // Where all ranks hold all tokens a GPU has nothing to send: it picks its own, and the sum brings the answers back.
  return !cuda && options.experts != "all-reduce" && mesh.expert > 1 ? ExpertExchange::kDispatch
                                                                     : ExpertExchange::kAllReduce;
}

// Every rank calls it.
void connect(RankLinks& links, SplitWorlds& splits, const LoadOptions& options, const Mesh& mesh, int rank,
             Channel& channel, Communicator& world, bool cuda) {
  if (mesh.tensor < mesh.ranks()) splits.tensor = world.split(mesh.replica(rank));
  if (mesh.split_tokens && mesh.tensor > 1) splits.replicas = world.split(mesh.tensor_index(rank));
  if (mesh.split_tokens && cuda && !world.dispatches())
    fail(ErrorCode::kUnsupported,
         "--attention dp needs GPUs that reach each other's memory (up to 8, on one host); without, give --attention "
         "tp");
  links.channel = &channel;
  links.step = {.mesh = mesh,
                .rank = rank,
                .world = &world,
                .tensor = splits.tensor ? splits.tensor.get() : &world,
                .replicas = splits.replicas ? splits.replicas.get() : &world,
                .exchange = exchange_of(options, mesh, cuda)};
}

// Of ranks with a GPU each, or processes.
std::unique_ptr<Communicator> process_communicator(Channel& channel, const DeviceContext& context) {
  const Device device = context.device();
  return device.type == DeviceType::kCuda ? make_gpu_communicator(channel, device.index)
                                          : make_mpi_communicator(channel);
}

struct Seat {
  int rank = 0;
  std::string device;
  int threads = 0;
  int sharing_memory = 1;
};

// A rank other than 0, from loading to the end.
void serve(const std::string& folder, const LoadOptions& options, const Mesh& mesh, const Seat& seat, Channel& channel,
           std::unique_ptr<Communicator> world) {
  ThreadPool pool(seat.threads);
  const std::unique_ptr<DeviceContext> context = context_of_rank(options, seat.device);
  const bool cuda = context->device().type == DeviceType::kCuda;
  context->make_current();
  if (!world) world = process_communicator(channel, *context);
  RankLinks links{.sharing_memory = seat.sharing_memory};
  SplitWorlds splits;
  connect(links, splits, options, mesh, seat.rank, channel, *world, cuda);
  Checkpoint checkpoint = Checkpoint::open(folder);
  const std::unique_ptr<Model> model = make_model(checkpoint.config());
  const DType dtype = resolve_dtype(options.dtype, checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  checkpoint.load(plan,
                  {.dtype = dtype,
                   .dequantize = options.dequantize,
                   .mesh = &mesh,
                   .rank = seat.rank,
                   .deferred = cuda,
                   .arranged_cache = options.arranged_cache},
                  pool);
  Arena weights;
  if (cuda) {
    const ArrangeOptions arrange{.activations = dtype,
                                 .capability = context->info().capability,
                                 .fp8 = options.dense == "fp8",
                                 .expand = options.dequantize};
    weights = place_weights(plan, arrange, *context, pool,
                            [&](const void* from, int64_t bytes, char* to) { checkpoint.read(from, bytes, to); });
  }
  Kernels kernels = Kernels::builtin(cpu_isa_from_env()).for_capability(context->info().capability);
  if (!options.use_kernels.empty()) use_hub_kernels(kernels, options, *context);
  try {
    follow(*model, kernels, pool, *context, links);
  } catch (const std::exception& e) {
    world->abort(e.what());
    throw;
  }
}

ChannelTerms terms_of(const Checkpoint& checkpoint, const LoadOptions& o) {
  const std::string all = fmt::format("{} {} {} {} {} {} {} {} {}", checkpoint.config().dump(), o.dtype, o.dequantize,
                                      o.dense, o.tp, o.ep, o.attention, o.experts, o.use_kernels);
  return {.program = "tessera", .config_hash = std::hash<std::string>{}(all)};
}

int ranks_of_environment() {
  const std::optional<RankPlace> place = rank_place_from_env();
  return place ? place->size : 0;
}

}  // namespace

std::unique_ptr<DeviceContext> context_of_rank(const LoadOptions& o, const std::string& device) {
  std::unique_ptr<DeviceContext> context = make_context(device);
  if (o.device_memory < 0)
    fail(ErrorCode::kInvalidArgument, "device_memory is {}; expected 0 or more", o.device_memory);
  if (o.device_memory == 0) return context;
  if (context->device().type != DeviceType::kCuda)
    fail(ErrorCode::kInvalidArgument, "--device-memory limits a GPU, and the device is the CPU");
  return limit_memory(std::move(context), o.device_memory, kDriverBytes);
}

std::string device_of_rank(const std::string& device, int local_rank) {
  return device == "cuda" ? fmt::format("cuda:{}", local_rank) : device;
}

int threads_of_rank(int threads, int ranks) {
  if (ranks == 1 || (threads > 0 && ranks_of_environment() > 0)) return threads;
  return std::max(1, ThreadPool::resolve(threads) / ranks);
}

Mesh resolve_mesh(const LoadOptions& o, const Checkpoint& checkpoint, const WeightPlan& plan, bool cuda) {
  if (o.tp < -1 || o.ep < 0) fail(ErrorCode::kInvalidArgument, "--tp and --ep take a number of ranks");
  if (o.attention != "tp" && o.attention != "dp")
    fail(ErrorCode::kInvalidArgument, "attention is \"{}\"; expected tp or dp", o.attention);
  int tp = o.tp;
  if (tp == -1) {
    const int cards = cuda ? static_cast<int>(cuda_devices(nullptr).size()) : 1, given = ranks_of_environment();
    tp = std::max(1, given > 0 ? given : cards);
  }
  Mesh mesh{.tensor = std::max(tp, 1), .expert = std::max(o.ep, 1)};
  if (tp == 0 && o.attention == "tp") mesh.tensor = mesh.expert;
  mesh.split_tokens = o.attention == "dp" && mesh.replicas() > 1;
  const bool mxfp4 = checkpoint.quantization().has_value();
  mesh.least_unit = mxfp4 ? kMxfp4Block : 1;
  mesh.unit = cuda ? kMatrixUnit : mesh.least_unit;
  check_mesh(mesh, plan);
  return mesh;
}

std::unique_ptr<RankTeam> RankTeam::start(const std::string& folder, const LoadOptions& options, const Mesh& mesh,
                                          DeviceContext& context) {
  if (mesh.ranks() == 1) return nullptr;
  const bool cuda = context.device().type == DeviceType::kCuda;
  std::unique_ptr<RankTeam> team(new RankTeam());
  if (const std::optional<RankPlace> place = rank_place_from_env()) {
    if (place->size != mesh.ranks()) {
      fail(ErrorCode::kInvalidArgument, "{} started {} ranks, and --tp {} --ep {} takes {}", place->from, place->size,
           mesh.tensor, mesh.expert, mesh.ranks());
    }
    team->channel_ = make_socket_channel(*place, terms_of(Checkpoint::open(folder), options));
  } else {
    team->start_threads(folder, options, mesh, cuda);
  }
  if (!cuda) team->links.sharing_memory = mesh.ranks();
  context.make_current();
  if (!team->world_) team->world_ = process_communicator(*team->channel_, context);
  connect(team->links, team->splits_, options, mesh, 0, *team->channel_, *team->world_, cuda);
  return team;
}

void RankTeam::start_threads(const std::string& folder, const LoadOptions& options, const Mesh& mesh, bool cuda) {
  const int ranks = mesh.ranks();
  if (cuda) {
    const auto cards = static_cast<int>(cuda_devices(nullptr).size());
    if (options.device != "auto" && options.device != "cuda")
      fail(ErrorCode::kInvalidArgument, "--device {} is one GPU, and the plan takes {}; give --device cuda",
           options.device, ranks);
    if (ranks > cards) fail(ErrorCode::kInvalidArgument, "the plan takes {} GPUs, and there are {}", ranks, cards);
  }
  std::vector<std::unique_ptr<Channel>> channels = make_thread_channels(ranks);
  std::vector<std::unique_ptr<Communicator>> worlds(static_cast<size_t>(ranks));
  if (!cuda) worlds = make_thread_communicators(ranks);
  channel_ = std::move(channels[0]);
  world_ = std::move(worlds[0]);
  for (int rank = 1; rank < ranks; ++rank) {
    const Seat seat{.rank = rank,
                    .device = cuda ? fmt::format("cuda:{}", rank) : "cpu",
                    .threads = threads_of_rank(options.threads, ranks),
                    .sharing_memory = cuda ? 1 : ranks};
    threads_.emplace_back([folder, options, mesh, seat, channel = std::move(channels[static_cast<size_t>(rank)]),
                           world = std::move(worlds[static_cast<size_t>(rank)])]() mutable {
      try {
        serve(folder, options, mesh, seat, *channel, std::move(world));
      } catch (const std::exception& e) {
        channel->abort(e.what());
      }
    });
  }
}

RankTeam::~RankTeam() {
  if (links.channel != nullptr) say_end(links);
  splits_ = {};
  world_.reset();
  channel_.reset();
  for (std::thread& thread : threads_) thread.join();
}

std::string RankTeam::lost() const {
  try {
    channel_->check();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

bool serve_as_rank(const std::string& model, const LoadOptions& options) {
  const std::optional<RankPlace> place = rank_place_from_env();
  if (!place || place->rank == 0 || (options.tp == 0 && options.ep == 0)) return false;
  const std::string folder = hub::locate_model(model, hub::Need::kModel);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  const std::unique_ptr<Model> declared = make_model(checkpoint.config());
  WeightPlan plan;
  declared->declare(plan);
  const bool none = options.device == "auto" && cuda_devices(nullptr).empty();
  const std::string device = none ? "cpu" : options.device == "auto" ? "cuda" : options.device;
  const bool cuda = device.starts_with("cuda");
  const Mesh mesh = resolve_mesh(options, checkpoint, plan, cuda);
  const std::unique_ptr<Channel> channel = make_socket_channel(*place, terms_of(checkpoint, options));
  const Seat seat{.rank = place->rank,
                  .device = device_of_rank(device, place->local_rank),
                  .threads = threads_of_rank(options.threads, place->size),
                  .sharing_memory = cuda ? 1 : place->size};
  try {
    serve(folder, options, mesh, seat, *channel, nullptr);
  } catch (const std::exception& e) {
    channel->abort(e.what());
    throw;
  }
  return true;
}

}  // namespace tessera
