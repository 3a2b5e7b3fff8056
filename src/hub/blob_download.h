// Brings one file's content to <blob>.incomplete: several requests for ranges at once, written in order, so that the
// file is always the content's beginning and a later run, or an older Python client, goes on from its end. Bytes are
// hashed as they are written. Used by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "hub/hub_client.h"
#include "hub/settings.h"

namespace tessera::hub {

struct BlobTask {
  std::string what;                       // for messages: ORG/NAME/FILE
  std::string repo;                       // for messages about access
  std::string expected_hash;              // SHA-256 or git's SHA-1, see ContentHash; empty: nothing to compare with
  int64_t size = -1;                      // of the content; -1: unknown
  std::string incomplete_path;            // may exist: its bytes are kept
  std::function<std::string()> locate;    // the content's address, asked again when one has expired
  std::function<void(int64_t)> on_kept;   // bytes of an earlier run; negative: they were thrown away
  std::function<void(int64_t)> on_bytes;  // bytes that came into the file
  std::function<void()> check;            // called often; throws to stop
};

// Returns when the file is whole and its hash as expected, and on the disk. Throws: kCorrupt for a wrong hash or size
// (the file is removed), kIo for a full disk, Unreachable, kNotFound for refused access; what has come is kept then.
void download_blob(const HubSettings& settings, const BlobTask& task);

}  // namespace tessera::hub
