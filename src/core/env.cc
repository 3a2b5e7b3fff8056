#include "core/env.h"

#include <charconv>
#include <cstdlib>

#include "core/error.h"

namespace tessera {

namespace {
constexpr EnvRow kRows[] = {
    {Env::kLog, "TESSERA_LOG", "warn", "log level on stderr: trace, debug, info, warn, error, off"},
    {Env::kThreads, "TESSERA_THREADS", "0", "CPU threads; 0 takes the cores this process may use"},
    {Env::kIsa, "TESSERA_ISA", "auto",
     "CPU kernels: auto, reference, avx2, avx512 (forces a slower one for comparison)"},
    {Env::kNoColor, "NO_COLOR", "", "set to anything: no dimmed text on a terminal"},
    {Env::kStateHome, "XDG_STATE_HOME", "", "where tessera/history is kept (default: $HOME/.local/state)"},
    {Env::kApiKey, "TESSERA_API_KEY", "", "the key that 'tessera serve' asks its clients for"},
    {Env::kTvmFfi, "TESSERA_TVM_FFI", "",
     "libtvm_ffi.so, or the Python environment that has apache-tvm-ffi: for kernels from the hub"},
    {Env::kVirtualEnv, "VIRTUAL_ENV", "", "the active Python environment, searched for libtvm_ffi.so too"},
    {Env::kKernelChecker, "TESSERA_KERNEL_CHECKER", "",
     "the tessera program that tries kernels from the hub in a process of its own (default: this one, or PATH)"},
    {Env::kPath, "PATH", "", "where programs are searched"},
    {Env::kHome, "HOME", "", "the user's folder"},
    {Env::kHfHubCache, "HF_HUB_CACHE", "", "where models from the hub are kept (default: $HF_HOME/hub)"},
    {Env::kKernelsCache, "KERNELS_CACHE", "", "where kernels from the hub are kept (default: HF_HUB_CACHE)"},
    {Env::kDisableKernelMapping, "DISABLE_KERNEL_MAPPING", "", "not 0: no kernel of the hub stands for a layer"},
    {Env::kUseHubKernels, "USE_HUB_KERNELS", "", "NO, OFF, FALSE or 0: the same"},
    {Env::kLocalKernels, "LOCAL_KERNELS", "", "ORG/NAME=FOLDER[:...]: kernels taken from a folder instead of the hub"},
    {Env::kHfHome, "HF_HOME", "", "the hub's folder (default: ~/.cache/huggingface)"},
    {Env::kCacheHome, "XDG_CACHE_HOME", "", "where the hub's folder is by default (default: ~/.cache)"},
    {Env::kHfEndpoint, "HF_ENDPOINT", "https://huggingface.co", "the hub, or a mirror of it"},
    {Env::kHfToken, "HF_TOKEN", "", "access token, for private and gated models"},
    {Env::kHfTokenPath, "HF_TOKEN_PATH", "", "file with the token (default: $HF_HOME/token)"},
    {Env::kHfOffline, "HF_HUB_OFFLINE", "", "1: never use the network, only what is in the cache"},
    {Env::kHfTimeout, "HF_HUB_DOWNLOAD_TIMEOUT", "10", "seconds without a byte before a connection is given up"},
    {Env::kCudaCapability, "TESSERA_CUDA_CAPABILITY", "",
     "act as on a GPU of this compute capability, such as 7.5, when it is lower than the card's: for tests"},
    {Env::kCertificates, "SSL_CERT_FILE", "", "certificates to trust instead of the system's, for downloads"},
    {Env::kRank, "RANK", "", "torchrun: which rank this process is"},
    {Env::kWorldSize, "WORLD_SIZE", "", "torchrun: ranks in all"},
    {Env::kLocalRank, "LOCAL_RANK", "", "torchrun: which of this host's ranks; it takes that GPU"},
    {Env::kMasterAddress, "MASTER_ADDR", "", "the host of rank 0, whichever launcher"},
    {Env::kMasterPort, "MASTER_PORT", "29500", "the port on which rank 0 listens, whichever launcher"},
    {Env::kTorchStore, "TORCHELASTIC_USE_AGENT_STORE", "",
     "torchrun: its own store has the port; rank 0 takes the next"},
    {Env::kListenFd, "TESSERA_LISTEN_FD", "", "set for rank 0 by the tessera that starts local ranks"},
    {Env::kOmpiRank, "OMPI_COMM_WORLD_RANK", "", "mpirun (Open MPI): which rank"},
    {Env::kOmpiSize, "OMPI_COMM_WORLD_SIZE", "", "mpirun (Open MPI): ranks in all"},
    {Env::kOmpiLocalRank, "OMPI_COMM_WORLD_LOCAL_RANK", "", "mpirun (Open MPI): which of this host's ranks"},
    {Env::kOmpiLocalSize, "OMPI_COMM_WORLD_LOCAL_SIZE", "", "mpirun (Open MPI): ranks of this host"},
    {Env::kPmiRank, "PMI_RANK", "", "mpiexec (MPICH): which rank"},
    {Env::kPmiSize, "PMI_SIZE", "", "mpiexec (MPICH): ranks in all"},
    {Env::kPmiLocalRank, "MPI_LOCALRANKID", "", "mpiexec (MPICH): which of this host's ranks"},
    {Env::kSlurmRank, "SLURM_PROCID", "", "srun: which rank"},
    {Env::kSlurmSize, "SLURM_STEP_NUM_TASKS", "", "srun: ranks in all; unset outside srun"},
    {Env::kSlurmLocalRank, "SLURM_LOCALID", "", "srun: which of this host's ranks"},
    {Env::kSlurmHosts, "SLURM_STEP_NODELIST", "", "srun: the hosts; rank 0 is on the first"},
};
const EnvRow& row(Env id) {
  for (const EnvRow& r : kRows)
    if (r.id == id) return r;
  TS_CHECK(false, "environment row missing");
  return kRows[0];
}
}  // namespace

std::span<const EnvRow> env_rows() {
  return kRows;
}

std::string env_string(Env id) {
  const EnvRow& r = row(id);
  const char* value = std::getenv(r.name);
  return value && *value ? value : r.fallback;
}

long env_long(Env id) {
  std::string value = env_string(id);
  long out = 0;
  auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
  if (error != std::errc() || end != value.data() + value.size())
    fail(ErrorCode::kInvalidArgument, "{}={} is not a whole number", row(id).name, value);
  return out;
}

}  // namespace tessera
