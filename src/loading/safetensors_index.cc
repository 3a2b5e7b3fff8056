#include "loading/safetensors_index.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "loading/name_list.h"
#include "loading/strict_json.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;
constexpr std::string_view kExtension = ".safetensors";

void check_shard_name(const std::string& name, const std::string& where) {
  bool plain = name.size() > kExtension.size() && name.size() <= 255 && name[0] != '.' && name.ends_with(kExtension) &&
               std::none_of(name.begin(), name.end(), [](char c) { return c == '/' || c == '\\' || c == '\0'; });
  if (!plain) {
    fail(ErrorCode::kCorrupt, "{}: shard name \"{}\" is refused; expected a plain file name ending in {}", where,
         printable(name), kExtension);
  }
}

// An unfinished file of a downloader anywhere it is known to leave one; empty when there is none.
std::string unfinished_download(const std::string& folder) {
  std::error_code error;
  for (const char* place : {"", ".cache/huggingface/download"}) {
    for (const auto& entry : fs::directory_iterator(fs::path(folder) / place, error)) {
      std::string extension = entry.path().extension().string();
      if (extension == ".incomplete" || extension == ".part" || extension == ".aria2" || extension == ".crdownload")
        return entry.path().filename().string();
    }
  }
  return "";
}

[[noreturn]] void fail_incomplete(const std::string& folder, const std::string& what) {
  std::string unfinished = unfinished_download(folder);
  if (!unfinished.empty()) unfinished = fmt::format(" (an unfinished {} is there)", printable(unfinished));
  fail(ErrorCode::kNotFound,
       "{}: the download is incomplete: {}{}; download the model again, which resumes where it stopped", folder, what,
       unfinished);
}

[[noreturn]] void fail_no_weights(const std::string& folder) {
  NameList shards, others;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(kExtension)) shards.add(name);
    if (name.ends_with(".bin") || name.ends_with(".gguf") || name.ends_with(".pth") || name.ends_with(".pt"))
      others.add(name);
  }
  if (!shards.empty()) fail_incomplete(folder, fmt::format("{} is there, but no {}", shards.str(), kIndexName));
  if (!unfinished_download(folder).empty()) fail_incomplete(folder, "no weight file has arrived");
  fail(ErrorCode::kNotFound, "{}: has neither {} nor {}{}", folder, kSingleFileName, kIndexName,
       others.empty() ? "" : fmt::format("; {} is in another format, convert it to safetensors first", others.str()));
}

}  // namespace

SafetensorsIndex parse_safetensors_index(std::string_view text, const std::string& where) {
  Json json = parse_strict_json(text, where);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    fail(ErrorCode::kCorrupt, "{}: expected an object with a \"weight_map\" object", where);
  SafetensorsIndex index;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) fail(ErrorCode::kCorrupt, "{}: the shard of {} is not a string", where, printable(tensor));
    const auto& name = shard.get_ref<const std::string&>();
    check_shard_name(name, where);
    index.weight_map.emplace(tensor, name);
  }
  if (index.weight_map.empty()) fail(ErrorCode::kCorrupt, "{}: the weight_map is empty", where);
  auto metadata = json.find("metadata");
  if (metadata != json.end() && metadata->is_object()) {
    auto size = metadata->find("total_size");
    if (size != metadata->end() && size->is_number()) {
      double value = size->get<double>();  // some tools write 1.3e10
      if (value >= 0 && value < 0x1p53) index.total_size = static_cast<int64_t>(value);
    }
  }
  return index;
}

SafetensorsSet SafetensorsSet::open(const std::string& folder) {
  SafetensorsSet set;
  std::error_code error;
  fs::path single = fs::path(folder) / kSingleFileName, index_path = fs::path(folder) / kIndexName;
  // As transformers does: the single file wins. symlink_status, since a dangling link is an unfinished cache entry.
  if (fs::exists(fs::symlink_status(single, error))) {
    if (!fs::exists(single, error))
      fail_incomplete(folder, fmt::format("{} is a link to a missing file", kSingleFileName));
    set.add_file(SafetensorsFile::open(single.string()));
    return set;
  }
  if (!fs::exists(index_path, error)) fail_no_weights(folder);

  std::string where = index_path.string();
  SafetensorsIndex index = parse_safetensors_index(read_text_file(where, kMaxIndexBytes), where);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index.weight_map) shards.insert(shard);
  NameList missing;
  for (const std::string& shard : shards)
    if (!fs::exists(fs::path(folder) / shard, error)) missing.add(shard);
  if (!missing.empty())
    fail_incomplete(folder,
                    fmt::format("{} of {} shards are missing: {}", missing.count(), shards.size(), missing.str()));
  for (const std::string& shard : shards) set.add_file(SafetensorsFile::open((fs::path(folder) / shard).string()));
  set.check_index(index, where);
  NameList left_out;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && name.find("-of-") != std::string::npos && !shards.contains(name))
      left_out.add(printable(name));
  }
  if (!left_out.empty())
    set.notes_.push_back(
        fmt::format("{}: does not name these shards, so they are left out: {}", where, left_out.str()));
  return set;
}

void SafetensorsSet::add_file(SafetensorsFile file) {
  int number = static_cast<int>(files_.size());
  files_.push_back(std::move(file));
  for (const TensorInfo& info : files_.back().tensors()) {
    auto [it, fresh] = places_.emplace(info.name, Place{number, &info});
    if (!fresh) {
      fail(ErrorCode::kCorrupt, "{}: tensor {} is also in {}", files_.back().path(), printable(info.name),
           files_[static_cast<size_t>(it->second.file)].path());
    }
  }
}

void SafetensorsSet::check_index(const SafetensorsIndex& index, const std::string& where) {
  NameList absent, misplaced, unlisted;
  for (const auto& [tensor, shard] : index.weight_map) {
    int file = file_of(tensor);
    if (file < 0) {
      absent.add(fmt::format("{} (expected in {})", printable(tensor), shard));
    } else if (fs::path(files_[static_cast<size_t>(file)].path()).filename() != shard) {
      misplaced.add(fmt::format("{} (listed for {})", printable(tensor), shard));
    }
  }
  for (const auto& [tensor, place] : places_)
    if (!index.weight_map.contains(std::string(tensor))) unlisted.add(printable(tensor));
  std::string message;
  auto report = [&](const NameList& names, const char* what) {
    if (!names.empty())
      message += fmt::format("{}{} {}: {}", message.empty() ? "" : "; ", names.count(), what, names.str());
  };
  report(absent, "listed tensors are in no shard");
  report(misplaced, "tensors are in another shard than listed");
  report(unlisted, "tensors of the shards are not listed");
  if (!message.empty())
    fail(ErrorCode::kCorrupt, "{}: does not match its shards: {}; download the model again", where, message);
  if (index.total_size && *index.total_size != total_bytes()) {
    notes_.push_back(fmt::format("{}: total_size says {} bytes, the shards hold {}; the shards count", where,
                                 *index.total_size, total_bytes()));
  }
}

std::optional<Tensor> SafetensorsSet::find(std::string_view name) const {
  auto it = places_.find(name);
  if (it == places_.end()) return std::nullopt;
  return files_[static_cast<size_t>(it->second.file)].view(*it->second.info);
}

int SafetensorsSet::file_of(std::string_view name) const {
  auto it = places_.find(name);
  return it == places_.end() ? -1 : it->second.file;
}

int64_t SafetensorsSet::total_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.data_bytes();
  return bytes;
}

void SafetensorsSet::check_unchanged() const {
  for (const SafetensorsFile& file : files_) file.check_unchanged();
}

}  // namespace tessera
