#include "kernels/hub/package.h"

#include <openssl/evp.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "kernels/hub/abi.h"

namespace tessera::hub_kernels {

namespace fs = std::filesystem;

namespace {

constexpr const char* kVariantPrefix = "tvm-ffi01";

// The newest symbols of each manylinux policy (PEP 600).
const AbiFloor kFloors[] = {
    {"manylinux_2_28", "2.28", "3.4.24", "1.3.11"},
    {"manylinux_2_31", "2.31", "3.4.28", "1.3.12"},
    {"manylinux_2_34", "2.34", "3.4.29", "1.3.13"},
    {"manylinux_2_35", "2.35", "3.4.30", "1.3.13"},
    {"none", "999", "999", "999"},
};

std::string sha256_base64(const std::string& bytes) {
  unsigned char digest[32];
  unsigned length = 0;
  TS_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest, &length, EVP_sha256(), nullptr) == 1);
  unsigned char text[48] = {};
  EVP_EncodeBlock(text, digest, 32);
  return reinterpret_cast<const char*>(text);
}

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::string python_entry(const std::string& library) {
  return fmt::format(
      "import pathlib\n\nimport tvm_ffi\n\n"
      "ops = tvm_ffi.load_module(str(pathlib.Path(__file__).parent / \"{}\"))\n",
      library);
}

void check_name(const std::string& name, const std::string& path) {
  const bool good = !name.empty() && name.size() <= 96 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
  if (!good) fail(ErrorCode::kCorrupt, "{}: name \"{}\": expected lower-case letters, digits and '-'", path, name);
}

}  // namespace

PackageInfo read_package_info(const std::string& path) {
  const Json json = read_json_file(path, 1 << 20);
  PackageInfo info;
  try {
    info.name = json.at("name");
    info.version = json.at("version");
    info.license = json.at("license");
    if (json.contains("archs")) info.archs = json.at("archs").get<std::vector<std::string>>();
  } catch (const Json::exception& e) {
    fail(ErrorCode::kCorrupt, R"({}: expected {{"name": "...", "version": 1, "license": "..."}}: {})", path, e.what());
  }
  check_name(info.name, path);
  if (info.version < 0) fail(ErrorCode::kCorrupt, "{}: version {}; expected a whole number", path, info.version);
  return info;
}

AbiFloor abi_floor(const std::string& name) {
  std::string names;
  for (const AbiFloor& floor : kFloors) {
    if (floor.name == name) return floor;
    names += (names.empty() ? "" : ", ") + floor.name;
  }
  fail(ErrorCode::kInvalidArgument, "ABI floor \"{}\" is not one of {}", name, names);
}

Package write_package(const std::string& library, const PackageInfo& info, const AbiFloor& floor, bool strict,
                      const std::string& out) {
  const std::string bytes = read_text_file(library, int64_t{2} << 30);
  const ElfLibrary elf = read_elf(bytes, library);
  Package package{.variant = fmt::format("{}-{}-{}-linux", kVariantPrefix, info.backend, elf.machine),
                  .newer = above_floor(elf, floor)};
  for (const std::string& symbol : elf.exported)
    if (symbol.starts_with(ffi::kSymbolPrefix)) package.functions.push_back(symbol.substr(10));
  if (package.functions.empty()) fail(ErrorCode::kUnsupported, "{}: exports no {}NAME", library, ffi::kSymbolPrefix);
  if (strict && !package.newer.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: {}; build it on an older system, or say with --abi-floor that it is for newer ones", library,
         fmt::join(package.newer, "; "));
  }
  const std::string id = underscored(info.name), file = id + ".so", entry = python_entry(file);
  Json archs = Json::array();
  for (const std::string& arch : info.archs) archs.push_back(arch);
  const std::string kind = info.backend == "cpu" ? "cpu" : "cuda";
  OrderedJson metadata = {
      {"id", id},
      {"name", info.name},
      {"version", info.version},
      {"license", info.license},
      {"python-depends", {"tvm-ffi"}},
      {"backend", {{"type", kind}}},
      {"digest",
       {{"algorithm", "sha256"}, {"files", {{"__init__.py", sha256_base64(entry)}, {file, sha256_base64(bytes)}}}}}};
  if (!info.archs.empty()) metadata["backend"]["archs"] = archs;
  package.folder = (fs::path(out) / "build" / package.variant).string();
  std::error_code error;
  fs::remove_all(package.folder, error);
  fs::create_directories(package.folder, error);
  if (error) fail(ErrorCode::kIo, "{}: {}", package.folder, error.message());
  write_text_file(package.folder + "/" + file, bytes);
  write_text_file(package.folder + "/__init__.py", entry);
  write_text_file(package.folder + "/metadata.json", metadata.dump(2) + "\n");
  return package;
}

}  // namespace tessera::hub_kernels
