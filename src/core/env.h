// Every environment variable the program reads is a row here.
#pragma once

#include <span>
#include <string>

namespace tessera {

enum class Env {
  kLog,
  kThreads,
  kIsa,
  kNoColor,
  kStateHome,
  kHome,
  kHfHubCache,
  kKernelsCache,
  kLocalKernels,
  kDisableKernelMapping,
  kUseHubKernels,
  kHfHome,
  kCacheHome,
  kHfEndpoint,
  kHfToken,
  kHfTokenPath,
  kHfOffline,
  kHfTimeout,
  kCertificates,
  kApiKey,
  kRank,
  kWorldSize,
  kLocalRank,
  kMasterAddress,
  kMasterPort,
  kTorchStore,
  kListenFd,
  kOmpiRank,
  kOmpiSize,
  kOmpiLocalRank,
  kOmpiLocalSize,
  kPmiRank,
  kPmiSize,
  kPmiLocalRank,
  kSlurmRank,
  kSlurmSize,
  kSlurmLocalRank,
  kSlurmHosts,
  kCudaCapability,
  kTvmFfi,
  kVirtualEnv,
  kKernelChecker,
  kPath,
};

struct EnvRow {
  Env id;
  const char* name;
  const char* fallback;
  const char* help;
};

std::span<const EnvRow> env_rows();
// The variable's value, or the row's fallback when unset or empty.
std::string env_string(Env id);
// Throws kInvalidArgument, naming the variable, when the value is no whole number.
long env_long(Env id);

}  // namespace tessera
