#include "cli/kernel_repo_tools.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <set>

#include "cli/hub_model.h"
#include "cli/terminal.h"
#include "core/cuda_driver.h"
#include "core/device_context.h"
#include "core/error.h"

namespace tessera::cli {

namespace {

namespace fs = std::filesystem;

constexpr const char* kListExamples = R"(
examples:
  tessera kernels list                                      the kernels in this program
  tessera kernels list kernels-community/activation         which variants of a repository serve this machine, or why not
  tessera kernels list ORG/NAME --version 2 --system cu130-x86_64-linux      for another machine)";
constexpr const char* kDownloadExamples = R"(
Only the files of the variant that serves this machine come; they are checked against the hub's hashes and the digests of
metadata.json, and against kernels.lock where one is given. The folder's path is printed on standard output. The cache is
the one of Python's kernels: KERNELS_CACHE, HF_HUB_CACHE, HF_HUB_OFFLINE and LOCAL_KERNELS mean the same here.

examples:
  tessera kernels download ORG/NAME --version 1
  tessera kernels download ORG/NAME --version 1 --trust-remote-code ORG/NAME
  tessera kernels download PROJECT               every kernel of PROJECT/kernels.lock)";
constexpr const char* kLockExamples = R"(
PROJECT/pyproject.toml:
  [tool.kernels.dependencies]
  "ORG/NAME" = 1

writes PROJECT/kernels.lock, as Python's kernels does, and beside it kernels.files.lock with the SHA-256 of every file of
every variant, which is checked when a kernel is used.)";

hub::SystemTarget this_machine() {
  std::string why;
  const std::vector<DeviceInfo> devices = cuda_devices(&why);
  const int cuda = cuda_driver_version();
  if (devices.empty() || cuda == 0) return hub::cpu_target();
  return hub::cuda_target({cuda / 1000, cuda % 1000 / 10}, devices.front().capability);
}

hub::SystemTarget target_of(const KernelRepoOptions& options) {
  if (options.system.empty()) return this_machine();
  const std::optional<hub::KernelVariant> variant = hub::parse_kernel_variant("tvm-ffi01-" + options.system);
  if (!variant)
    fail(ErrorCode::kInvalidArgument,
         "--system {}: expected BACKEND-CPU-OS, as cu130-x86_64-linux or cpu-aarch64-linux", options.system);
  return {.backend = variant->backend, .cpu = variant->cpu, .os = variant->os, .tvm_ffi = hub::kTvmFfiVersion};
}

hub::KernelSettings settings_of(const KernelRepoOptions& options) {
  hub::KernelSettings settings = hub::kernel_settings_from_env();
  settings.trusted_repos = options.trusted;
  if (!options.lock.empty()) settings.locks = hub::read_kernel_locks(options.lock);
  return settings;
}

// Neither given: the newest version, or main where there is none, as Python's `kernels info` looks.
hub::KernelDependency request_or_newest(const KernelRepoOptions& options, const hub::KernelSettings& settings) {
  if (options.version || !options.revision.empty())
    return hub::kernel_request(options.target, options.version, options.revision);
  hub::kernel_request(options.target, 0, "");  // is it a name?
  const auto versions = hub::kernel_versions(settings, options.target);
  if (versions.empty()) return hub::kernel_request(options.target, std::nullopt, hub::kDefaultRevision);
  return hub::kernel_request(options.target, versions.rbegin()->first, "");
}

OrderedJson trace_json(const hub::VariantTrace& trace) {
  OrderedJson variants = OrderedJson::array();
  for (const hub::VariantDecision& d : trace.decisions) {
    OrderedJson row{{"variant", d.variant.name}, {"compatible", d.accepted()}};
    if (d.accepted()) row["preferred"] = &d.variant == trace.chosen();
    if (!d.accepted()) row["reason"] = d.refused;
    variants.push_back(std::move(row));
  }
  return variants;
}

OrderedJson offer_json(const hub::KernelOffer& offer) {
  OrderedJson out{{"repo_id", offer.repo}, {"revision", offer.requested}, {"commit", offer.commit}};
  if (!offer.redirected_from.empty()) out["redirected_from"] = offer.redirected_from;
  return out;
}

int list_variants(Invocation& call, const KernelRepoOptions& options) {
  const hub::KernelSettings settings = settings_of(options);
  const hub::SystemTarget target = target_of(options);
  const hub::KernelOffer offer = hub::offered_variants(settings, request_or_newest(options, settings), target);
  const hub::KernelVariant* chosen = offer.trace.chosen();
  if (call.json) {
    OrderedJson out = offer_json(offer);
    out["system"] = target.text();
    out["chosen"] = chosen ? OrderedJson(chosen->name) : OrderedJson(nullptr);
    out["variants"] = trace_json(offer.trace);
    out["unknown"] = offer.trace.unknown;
    call.out.json(out);
    return 0;
  }
  std::string text = fmt::format("{} (revision: {}, commit {})\nfor {}\n\n{}", offer.repo, offer.requested,
                                 offer.commit, target.text(), offer.trace.text());
  if (!chosen)
    text +=
        "\nNo variant serves this system: tessera loads tvm-ffi variants, the others need PyTorch or Python. Models "
        "run on built-in kernels.\n";
  call.out.text(printable(text));
  return 0;
}

OrderedJson kernel_json(const hub::LocalKernel& kernel) {
  OrderedJson files = OrderedJson::array();
  for (const hub::KernelFile& file : kernel.files)
    files.push_back({{"name", file.name}, {"bytes", file.size}, {"sha256", file.sha256}});
  return {{"repo_id", kernel.repo},         {"revision", kernel.requested}, {"commit", kernel.commit},
          {"variant", kernel.variant.name}, {"folder", kernel.folder},      {"library", kernel.library},
          {"files", std::move(files)}};
}

// One kernel: its folder, or build/ with all of them.
OrderedJson fetch(const KernelRepoOptions& options, const hub::KernelSettings& settings,
                  const hub::KernelDependency& request) {
  HubRun run(request.text());
  if (options.all_variants)
    return {{"repo_id", request.repo}, {"folder", hub::download_all_variants(settings, request, run.hooks())}};
  return kernel_json(hub::get_kernel(settings, request, target_of(options), run.hooks()));
}

int download_project(Invocation& call, const KernelRepoOptions& options, hub::KernelSettings settings) {
  settings.locks = hub::read_kernel_locks(options.target);
  OrderedJson kernels = OrderedJson::array(), failed = OrderedJson::array();
  std::string folders;
  for (const auto& [request, lock] : *settings.locks) {
    try {
      kernels.push_back(fetch(options, settings, request));
      folders += kernels.back()["folder"].get<std::string>() + "\n";
    } catch (const Error& e) {
      if (e.code() == ErrorCode::kCancelled) throw;
      if (!call.json) fmt::print(stderr, "{}: {}\n", request.text(), e.what());
      failed.push_back({{"repo_id", request.repo}, {"error", e.what()}});
    }
  }
  const int code = failed.empty() ? 0 : 1;
  call.json ? call.out.json({{"kernels", std::move(kernels)}, {"failed", std::move(failed)}}) : call.out.text(folders);
  return code;
}

int download(Invocation& call, const KernelRepoOptions& options) {
  std::error_code ignored;
  const hub::KernelSettings settings = settings_of(options);
  if (fs::is_directory(options.target, ignored)) return download_project(call, options, settings);
  const auto request = hub::kernel_request(options.target, options.version, options.revision);
  const OrderedJson kernel = fetch(options, settings, request);
  call.json ? call.out.json(kernel) : call.out.text(kernel["folder"].get<std::string>() + "\n");
  return 0;
}

OrderedJson optional_json(const std::optional<std::string>& value) {
  return value ? OrderedJson(*value) : OrderedJson(nullptr);
}

void add_metadata(OrderedJson& out, const std::optional<hub::KernelMetadata>& metadata,
                  const std::set<std::string>& backends) {
  if (metadata) {
    out["name"] = metadata->name;
    out["version"] = metadata->version;
    out["kernels_minver"] = optional_json(metadata->kernels_minver);
    out["license"] = metadata->license;
    out["upstream"] = optional_json(metadata->upstream);
    out["source"] = optional_json(metadata->source);
    out["python_depends"] = metadata->python_depends;
  }
  out["backends"] = backends;
}

OrderedJson local_info(const std::string& path) {
  std::set<std::string> backends;
  std::optional<hub::KernelMetadata> metadata;
  std::error_code error;
  for (fs::directory_iterator it(path + "/build", error), end; !error && it != end; it.increment(error)) {
    const auto variant = hub::parse_kernel_variant(it->path().filename().string());
    if (!variant) continue;
    backends.insert(variant->backend_name());
    const std::string file = (it->path() / hub::kMetadataFile).string();
    if (!metadata && fs::exists(file)) metadata = hub::parse_kernel_metadata(read_text_file(file), file);
  }
  if (backends.empty()) fail(ErrorCode::kNotFound, "No build variants found in: {}/build", path);
  OrderedJson out{{"path", path}};
  add_metadata(out, metadata, backends);
  return out;
}

OrderedJson hub_info(const KernelRepoOptions& options) {
  const hub::KernelSettings settings = settings_of(options);
  const hub::KernelOffer offer =
      hub::offered_variants(settings, request_or_newest(options, settings), target_of(options));
  std::set<std::string> backends;
  for (const hub::VariantDecision& d : offer.trace.decisions) backends.insert(d.variant.backend_name());
  if (backends.empty())
    fail(ErrorCode::kNotFound, "No build variants found in {} (revision: {})", offer.repo, offer.requested);
  OrderedJson out{{"repo_id", offer.repo}, {"revision", offer.requested}};
  add_metadata(out, hub::offered_metadata(settings, offer, offer.trace.decisions.front().variant.name), backends);
  return out;
}

int info(Invocation& call, const KernelRepoOptions& options) {
  std::error_code ignored;
  const bool local = fs::is_directory(options.target, ignored);
  if (local && (options.version || !options.revision.empty()))
    fail(ErrorCode::kInvalidArgument, "--revision and --version cannot be used with a local path");
  const OrderedJson out = local ? local_info(options.target) : hub_info(options);
  if (call.json) {
    call.out.json(out);
    return 0;
  }
  constexpr std::pair<const char*, const char*> kRows[] = {
      {"path", "Path"},         {"repo_id", "Repository"},
      {"revision", "Revision"}, {"name", "Name"},
      {"version", "Version"},   {"kernels_minver", "Minimum kernels version"},
      {"license", "License"},   {"upstream", "Upstream"},
      {"source", "Source"},     {"python_depends", "Python dependencies"},
      {"backends", "Backends"}};
  std::string text;
  for (const auto& [key, label] : kRows) {
    const bool place =
        std::string_view(key) == "path" || std::string_view(key) == "repo_id" || std::string_view(key) == "revision";
    if (place && !out.contains(key)) continue;
    std::string value = "-";
    if (out.contains(key) && out[key].is_string()) value = out[key].get<std::string>();
    if (out.contains(key) && out[key].is_number()) value = out[key].dump();
    if (out.contains(key) && out[key].is_array() && !out[key].empty())
      value = fmt::format("{}", fmt::join(out[key].get<std::vector<std::string>>(), ", "));
    text += fmt::format("{}: {}\n", label, value);
  }
  call.out.text(printable(text));
  return 0;
}

int versions(Invocation& call, const KernelRepoOptions& options) {
  hub::kernel_request(options.target, 0, "");  // is it a name?
  const hub::KernelSettings settings = settings_of(options);
  const hub::SystemTarget target = target_of(options);
  OrderedJson rows = OrderedJson::array();
  std::string text;
  for (const auto& [version, commit] : hub::kernel_versions(settings, options.target)) {
    const hub::KernelOffer offer =
        hub::offered_variants(settings, hub::kernel_request(options.target, std::nullopt, commit), target);
    rows.push_back({{"version", version}, {"commit", commit}, {"variants", trace_json(offer.trace)}});
    text += fmt::format("Version {}:\n\n{}\n", version, offer.trace.text());
  }
  if (text.empty()) text = fmt::format("Repository does not support kernel versions: {}\n", options.target);
  call.json ? call.out.json({{"repo_id", options.target}, {"versions", std::move(rows)}})
            : call.out.text(printable(text));
  return 0;
}

int lock(Invocation& call, const KernelRepoOptions& options) {
  const std::string project = options.target + "/pyproject.toml";
  const auto requests = hub::parse_kernel_dependencies(read_text_file(project, 1 << 20), project);
  const std::string path = options.target + "/" + hub::kLockFile, files = options.target + "/" + hub::kFilesLockFile;
  hub::KernelLocks locks;
  {
    HubRun run(project);
    locks = hub::lock_kernels(settings_of(options), requests, run.hooks());
  }
  write_text_file(files, hub::file_locks_text(locks));
  write_text_file(path, hub::kernel_locks_text(locks));
  OrderedJson rows = OrderedJson::array();
  std::string text;
  for (const auto& [kernel, entry] : locks) {
    OrderedJson row{{"repo_id", kernel.repo}};
    kernel.version ? row["version"] = *kernel.version : row["revision"] = kernel.revision;
    row["commit"] = entry.commit;
    row["files"] = entry.files.size();
    rows.push_back(std::move(row));
    text += fmt::format("{} {} {} files\n", kernel.text(), entry.commit, entry.files.size());
  }
  call.json ? call.out.json({{"lock", path}, {"files_lock", files}, {"kernels", std::move(rows)}})
            : call.out.text(text);
  return 0;
}

std::string check_line(const hub::VariantCheck& check) {
  if (!check.cached) return fmt::format("- {}: not in the cache\n", check.variant);
  if (!check.problem.empty()) return fmt::format("❌ {}: {}\n", check.variant, check.problem);
  return fmt::format("✅ {}: {} files are what the hub published{}{}{}\n", check.variant, check.files,
                     check.has_digest ? ", and metadata.json's digest" : "; metadata.json has no digest",
                     check.locked ? ", and kernels.lock" : "",
                     check.has_signature ? fmt::format("; the signature fits, by {} (its issuer is not checked)",
                                                       check.signer.empty() ? "nobody named" : check.signer)
                                         : "");
}

int verify(Invocation& call, const KernelRepoOptions& options) {
  hub::KernelSettings settings = settings_of(options);
  std::vector<hub::KernelDependency> requests;
  std::error_code ignored;
  if (fs::is_directory(options.target, ignored)) {
    settings.locks = hub::read_kernel_locks(options.target);
    for (const auto& [request, entry] : *settings.locks) requests.push_back(request);
  } else {
    requests.push_back(hub::kernel_request(options.target, options.version, options.revision));
  }
  OrderedJson kernels = OrderedJson::array();
  std::string text;
  bool bad = false;
  for (const hub::KernelDependency& request : requests) {
    OrderedJson rows = OrderedJson::array();
    text += request.text() + "\n";
    if (options.all_variants) hub::download_all_variants(settings, request);
    for (const hub::VariantCheck& check : hub::verify_kernel(settings, request)) {
      bad |= !check.problem.empty();
      text += check_line(check);
      rows.push_back({{"variant", check.variant},
                      {"cached", check.cached},
                      {"ok", check.cached && check.problem.empty()},
                      {"files", check.files},
                      {"digest", check.has_digest},
                      {"signature", check.has_signature},
                      {"signer", check.signer},
                      {"locked", check.locked},
                      {"problem", check.problem}});
    }
    kernels.push_back({{"repo_id", request.repo}, {"variants", std::move(rows)}});
  }
  call.json ? call.out.json({{"ok", !bad}, {"kernels", std::move(kernels)}}) : call.out.text(printable(text));
  return bad ? 1 : 0;
}

void add_version(CLI::App& app, KernelRepoOptions& options) {
  app.add_option("--version", options.version, "the kernel's version: branch v<N>");
  app.add_option("--revision", options.revision, "branch, tag or commit, instead of a version");
}

void add_system(CLI::App& app, KernelRepoOptions& options) {
  app.add_option("--system", options.system, "BACKEND-CPU-OS instead of this machine, as cu130-x86_64-linux");
}

void add_trust(CLI::App& app, KernelRepoOptions& options) {
  app.add_option("--trust-remote-code", options.trusted,
                 "ORG/NAME: take this repository although its publisher is not trusted; may be repeated")
      ->allow_extra_args(false);
}

}  // namespace

void KernelRepoTools::add(CLI::App& kernels, CLI::App& list) {
  list_ = &list;
  list.add_option("REPO", options_.target,
                  "ORG/NAME: a kernel repository's variants instead of this program's kernels");
  add_version(list, options_);
  add_system(list, options_);
  list.footer(kListExamples);

  download_ = kernels.add_subcommand("download", "bring a kernel from the hub into the cache: this machine's variant");
  download_->add_option("REPO", options_.target, "ORG/NAME, or the folder of a project with kernels.lock")->required();
  add_version(*download_, options_);
  add_system(*download_, options_);
  add_trust(*download_, options_);
  download_->add_option("--lock", options_.lock, "kernels.lock, or the folder that has it");
  download_->add_flag("--all-variants", options_.all_variants, "every variant, without choosing");
  download_->footer(kDownloadExamples);

  info_ = kernels.add_subcommand("info", "describe a kernel repository");
  info_->footer("\nexamples:\n  tessera kernels info ORG/NAME\n  tessera kernels info examples/custom_kernel");
  info_->add_option("REPO", options_.target, "ORG/NAME, or a repository's folder")->required();
  add_version(*info_, options_);

  versions_ =
      kernels.add_subcommand("versions", "the versions of a kernel, and which variants of each serve this machine");
  versions_->add_option("REPO", options_.target, "ORG/NAME")->required();
  add_system(*versions_, options_);
  versions_->footer("\nexamples:\n  tessera kernels versions ORG/NAME");

  lock_ = kernels.add_subcommand("lock", "write kernels.lock: the commits and files of a project's kernels");
  lock_->add_option("PROJECT", options_.target, "folder with pyproject.toml")->required();
  add_trust(*lock_, options_);
  lock_->footer(kLockExamples);

  verify_ = kernels.add_subcommand("verify", "read a kernel's files in the cache again and check every hash");
  verify_->footer(
      "\nexamples:\n  tessera kernels verify ORG/NAME --version 1\n  tessera kernels verify PROJECT      every kernel "
      "of its lock");
  verify_->add_option("REPO", options_.target, "ORG/NAME, or the folder of a project with kernels.lock")->required();
  add_version(*verify_, options_);
  verify_->add_option("--lock", options_.lock, "kernels.lock, or the folder that has it");
  add_trust(*verify_, options_);
  verify_->add_flag("--all-variants", options_.all_variants, "fetch what is missing first");
}

std::optional<int> KernelRepoTools::run(Invocation& call) {
  if (list_->parsed() && !options_.target.empty()) return list_variants(call, options_);
  if (list_->parsed() && (options_.version || !options_.revision.empty() || !options_.system.empty()))
    fail(ErrorCode::kInvalidArgument, "--version, --revision and --system are of a REPO; give one");
  if (download_->parsed()) return download(call, options_);
  if (info_->parsed()) return info(call, options_);
  if (versions_->parsed()) return versions(call, options_);
  if (lock_->parsed()) return lock(call, options_);
  if (verify_->parsed()) return verify(call, options_);
  return std::nullopt;
}

}  // namespace tessera::cli
