#include "hub/kernel_property.h"

#include <string_view>

#include "core/error.h"
#include "hub/hub_id.h"
#include "hub/kernel_lock.h"
#include "hub/kernel_mapping.h"
#include "hub/kernel_repo.h"
#include "hub/kernel_signature.h"
#include "hub/kernel_store.h"
#include "hub/server_answers.h"

namespace tessera::hub {

namespace {

void check_dependency(const KernelDependency& kernel) {
  TS_CHECK(is_repo_name(kernel.repo) && kernel.version.has_value() == kernel.revision.empty());
  TS_CHECK(kernel.version ? *kernel.version >= 0 : is_revision(kernel.revision));
}

void check_variants(std::string_view text) {
  std::vector<std::string> names;
  for (; !text.empty(); text.remove_prefix(std::min(text.size(), text.find('\n') + 1))) {
    names.emplace_back(text.substr(0, text.find('\n')));
    if (text.find('\n') == text.npos) break;
  }
  SystemTarget target{.tvm_ffi = kTvmFfiVersion};
  const VariantTrace trace = resolve_variants(names, target);
  TS_CHECK(trace.decisions.size() + trace.unknown.size() == names.size());
  bool refused = false;
  for (const VariantDecision& d : trace.decisions) {
    TS_CHECK(!objection_to_file_name(d.variant.name) && d.variant.name.find('/') == std::string::npos);
    TS_CHECK(!(refused && d.accepted()), "an accepted variant after a refused one");
    TS_CHECK(!d.accepted() || d.variant.framework == KernelFramework::kTvmFfi);
    refused |= !d.accepted();
  }
  TS_CHECK((trace.chosen() != nullptr) == (!trace.decisions.empty() && trace.decisions.front().accepted()));
  trace.text();
}

void check_metadata(std::string_view text) {
  const KernelMetadata metadata = parse_kernel_metadata(text, "metadata");
  for (const KernelDependency& kernel : metadata.kernel_depends) check_dependency(kernel);
  if (metadata.digest) {
    for (const auto& [name, hash] : metadata.digest->files) TS_CHECK(!objection_to_file_name(name));
    TS_CHECK(digest_violations(*metadata.digest, *metadata.digest).empty());
  }
  archs_support_capability(metadata.archs, 90);
}

void check_locks(std::string_view text) {
  KernelLocks locks = parse_kernel_locks(text, "lock");
  for (const auto& [kernel, lock] : locks) {
    check_dependency(kernel);
    TS_CHECK(is_commit(lock.commit));
  }
  const std::string written = kernel_locks_text(locks);
  TS_CHECK(kernel_locks_text(parse_kernel_locks(written, "lock")) == written);
  add_file_locks(locks, file_locks_text(locks), "files");
}

void check_file_locks(std::string_view text) {
  KernelLocks locks;
  locks[{.repo = "o/n", .version = 1}].commit = std::string(40, 'a');
  add_file_locks(locks, text, "files");
  for (const auto& [name, hash] : locks.begin()->second.files)
    TS_CHECK(!objection_to_file_name(name) && is_hex(hash, 64));
  const std::string written = file_locks_text(locks);
  KernelLocks again;
  again[locks.begin()->first].commit = locks.begin()->second.commit;
  add_file_locks(again, written, "files");
  TS_CHECK(file_locks_text(again) == written);
}

void check_mapping(std::string_view text) {
  const KernelMapping mapping = parse_kernel_mapping(text, "mapping");
  for (const MappingRow& row : mapping.rows) {
    check_dependency(row.kernel);
    TS_CHECK(row.min_capability <= row.max_capability && !row.function.empty());
    const int capability = row.has_interval() ? row.min_capability : 90;
    const MappingChoice choice =
        choose_kernel(mapping, row.layer, row.device.empty() ? "cuda" : row.device, capability, KernelMode::kInference);
    TS_CHECK((choice.row != nullptr) == choice.why.empty());
    row.text();
  }
}

void check_small_answers(std::string_view text) {
  if (std::optional<std::string> bytes = from_base64(text)) TS_CHECK(to_base64(*bytes) == text);
  TS_CHECK(from_base64(to_base64(text)) == text);
  next_page(text);
  if (std::optional<KernelString> kernel = parse_kernel_string(text)) check_dependency(kernel->kernel);
  for (const auto& [repo, folder] : parse_local_kernels(text)) TS_CHECK(is_repo_name(repo) && !folder.empty());
}

void check_answers(std::string_view text) {
  RepoListing listing{.commit = std::string(40, 'a')};
  add_tree_page(listing, text, "tree");
  finish_listing(listing, "tree");
  for (const RepoFile& file : listing.files) TS_CHECK(!objection_to_file_name(file.name));
}

}  // namespace

void check_kernel_bytes(const uint8_t* data, size_t size) {
  if (size == 0) return;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 11) {
      case 0:
        return check_variants(text);
      case 1:
        return check_metadata(text);
      case 2:
        return check_locks(text);
      case 3:
        return check_file_locks(text);
      case 4:
        return check_mapping(text);
      case 5:
        parse_kernel_status(text, "status");
        return;
      case 6:
        for (const KernelDependency& kernel : parse_kernel_dependencies(text, "project")) check_dependency(kernel);
        return;
      case 7:
        return check_answers(text);
      case 8:
        parse_kernel_versions(text, "refs");
        parse_trusted_publisher(text, "organisation");
        return;
      case 9:
        return check_small_answers(text);
      default:
        check_kernel_signature(text, "metadata", "bundle");
        return;
    }
  } catch (const Error&) {
  }
}

}  // namespace tessera::hub
