// metadata.json.sigstore: who signed a variant's metadata.json, and with it the digests of its files. Checked here is
// all that needs no network: the bundle's hash and signature fit the bytes, the certificate is for signing code, and
// what it says of the signer. Not checked: that sigstore's authority issued the certificate and its log has the entry
// (`kernels verify-signature` of the Python client does, with the roots that it fetches). So a signature that fails
// proves a change, and one that holds names no publisher. Foreign bytes; total or throws. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::hub {

struct KernelSigner {
  std::string workflow;    // "https://github.com/ORG/REPO/.github/workflows/NAME.yaml@refs/heads/main"; may be empty
  std::string repository;  // "https://github.com/ORG/REPO"; may be empty
};

inline constexpr int64_t kMaxSignatureBytes = int64_t{1} << 20;

// `bundle` of `metadata`, both as published. `where` opens every message. Throws kCorrupt naming what does not fit.
KernelSigner check_kernel_signature(std::string_view bundle, std::string_view metadata, const std::string& where);

}  // namespace tessera::hub
