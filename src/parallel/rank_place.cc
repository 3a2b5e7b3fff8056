#include "parallel/rank_place.h"

#include "core/env.h"
#include "core/error.h"

namespace tessera {

namespace {

constexpr int kMaxRanks = 4096;

const char* name_of(Env id) {
  for (const EnvRow& row : env_rows())
    if (row.id == id) return row.name;
  return "";
}

int number(Env id, int low, int high) {
  if (env_string(id).empty())
    fail(ErrorCode::kInvalidArgument, "{} is not set, though this process is a rank", name_of(id));
  const long value = env_long(id);
  if (value < low || value > high)
    fail(ErrorCode::kInvalidArgument, "{}={}: expected {} to {}", name_of(id), value, low, high);
  return static_cast<int>(value);
}

// One launcher's variables. local_rank may be unset: the rank stands for it then.
struct Launcher {
  const char* name;
  Env rank, size, local_rank;
};
constexpr Launcher kLaunchers[] = {
    {"torchrun", Env::kRank, Env::kWorldSize, Env::kLocalRank},
    {"mpirun", Env::kOmpiRank, Env::kOmpiSize, Env::kOmpiLocalRank},
    {"slurm", Env::kSlurmRank, Env::kSlurmSize, Env::kSlurmLocalRank},
    {"mpirun", Env::kPmiRank, Env::kPmiSize, Env::kPmiLocalRank},
};

}  // namespace

std::string first_slurm_host(const std::string& list) {
  const size_t end = list.find_first_of(",[");
  std::string host = list.substr(0, end);
  if (end == std::string::npos || list[end] == ',') return host;
  const size_t stop = list.find_first_of(",-]", end + 1);
  if (stop == std::string::npos || stop == end + 1) return "";
  host += list.substr(end + 1, stop - end - 1);
  const size_t close = list.find(']', stop);
  if (close == std::string::npos) return "";
  const size_t next = list.find(',', close);
  return host + list.substr(close + 1, next == std::string::npos ? next : next - close - 1);
}

std::optional<RankPlace> rank_place_from_env() {
  for (const Launcher& launcher : kLaunchers) {
    if (env_string(launcher.rank).empty()) continue;
    // A batch script of Slurm has a rank too, but is not one of several: srun starts those.
    if (launcher.size == Env::kSlurmSize && env_string(launcher.size).empty()) continue;
    RankPlace place;
    place.from = launcher.name;
    place.size = number(launcher.size, 1, kMaxRanks);
    place.rank = number(launcher.rank, 0, place.size - 1);
    place.local_rank =
        env_string(launcher.local_rank).empty() ? place.rank : number(launcher.local_rank, 0, kMaxRanks - 1);
    place.address = env_string(Env::kMasterAddress);
    place.port = static_cast<uint16_t>(number(Env::kMasterPort, 1, 65534));
    // torchrun's own store listens on the port it tells us.
    if (!env_string(Env::kTorchStore).empty()) ++place.port;
    if (!env_string(Env::kListenFd).empty() && place.rank == 0) place.listen_fd = number(Env::kListenFd, 3, 1 << 20);
    if (place.address.empty()) place.address = first_slurm_host(env_string(Env::kSlurmHosts));
    const bool one_host =
        !env_string(Env::kOmpiLocalSize).empty() && number(Env::kOmpiLocalSize, 1, kMaxRanks) == place.size;
    if (place.address.empty() && (place.size == 1 || one_host)) place.address = "127.0.0.1";
    if (place.address.empty())
      fail(ErrorCode::kInvalidArgument, "{} is not set: it must name the host of rank 0 (mpirun -x {}=HOST)",
           name_of(Env::kMasterAddress), name_of(Env::kMasterAddress));
    return place;
  }
  return std::nullopt;
}

}  // namespace tessera
