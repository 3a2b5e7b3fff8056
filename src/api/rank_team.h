// The ranks of a parallel run: those that this process starts, or the one that it is. Rank 0 is the caller's; the
// others load their part of the model and repeat its steps.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/thread_pool.h"
#include "engine/rank_links.h"
#include "loading/checkpoint.h"
#include "parallel/rank_place.h"
#include "tessera/llm.h"

namespace tessera {

// The mesh that the options ask for; its ranks() is 1 where they ask for none. Throws kInvalidArgument.
Mesh resolve_mesh(const LoadOptions& options, const Checkpoint& checkpoint, const WeightPlan& plan, bool cuda);

// What is split off the communicator of all ranks; null where that is the same.
struct SplitWorlds {
  std::unique_ptr<Communicator> tensor, replicas;
};

class RankTeam {
 public:
  // Starts and meets the other ranks; null for a mesh of one. Throws kInvalidArgument, kIo, kUnsupported.
  static std::unique_ptr<RankTeam> start(const std::string& folder, const LoadOptions& options, const Mesh& mesh,
                                         DeviceContext& context);
  // The others end; waits for those that are threads.
  ~RankTeam();

  RankLinks links;

  // The line that names a lost rank; empty: none is. Any thread may ask.
  std::string lost() const;
  // As Channel::on_loss().
  void on_loss(const void* owner, std::function<void(const std::string& line)> told) {
    channel_->on_loss(owner, std::move(told));
  }

 private:
  RankTeam() = default;
  void start_threads(const std::string& folder, const LoadOptions& options, const Mesh& mesh, bool cuda);

  std::unique_ptr<Channel> channel_;
  std::unique_ptr<Communicator> world_;
  SplitWorlds splits_;
  std::vector<std::thread> threads_;
};

// Of a rank, rank 0 too: its device, no more of which is used than options.device_memory. Throws kInvalidArgument.
std::unique_ptr<DeviceContext> context_of_rank(const LoadOptions& options, const std::string& device);

// "cuda:2" for rank 2 of "cuda"; the CPU as it is.
std::string device_of_rank(const std::string& device, int local_rank);

// A CPU's threads for each of `ranks` that share it; a number given to a launcher's processes is each one's own.
int threads_of_rank(int threads, int ranks);

// When this process is a rank other than 0 of torchrun, mpirun or Slurm: serves it until rank 0 ends, and returns true.
bool serve_as_rank(const std::string& model, const LoadOptions& options);

}  // namespace tessera
