#include "kernels/hub/elf.h"

#include <elf.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "core/error.h"

namespace tessera::hub_kernels {

namespace {

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T at(uint64_t offset) const {
    check(offset, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  std::string_view part(uint64_t offset, uint64_t size) const {
    check(offset, size);
    return bytes_.substr(offset, size);
  }

 private:
  void check(uint64_t offset, uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset)
      fail(ErrorCode::kCorrupt, "not a whole ELF library: byte {} of {} is needed", offset + size, bytes_.size());
  }
  std::string_view bytes_;
};

std::string name_at(std::string_view strings, uint64_t offset) {
  if (offset >= strings.size()) fail(ErrorCode::kCorrupt, "ELF: a name at {} of {} bytes", offset, strings.size());
  strings.remove_prefix(offset);
  return std::string(strings.substr(0, std::min(strings.find('\0'), size_t{4096})));
}

std::vector<Elf64_Shdr> sections(const Reader& in, const Elf64_Ehdr& header) {
  if (header.e_shentsize != sizeof(Elf64_Shdr)) fail(ErrorCode::kCorrupt, "ELF: no table of sections");
  std::vector<Elf64_Shdr> out;
  for (uint64_t i = 0; i < header.e_shnum; ++i)
    out.push_back(in.at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr)));
  return out;
}

void read_symbols(const Reader& in, const Elf64_Shdr& table, std::string_view strings, ElfLibrary& out) {
  const std::string_view symbols = in.part(table.sh_offset, table.sh_size);
  for (uint64_t i = sizeof(Elf64_Sym); i + sizeof(Elf64_Sym) <= symbols.size(); i += sizeof(Elf64_Sym)) {
    const auto symbol = in.at<Elf64_Sym>(table.sh_offset + i);
    auto& list = symbol.st_shndx == SHN_UNDEF ? out.undefined : out.exported;
    list.push_back(name_at(strings, symbol.st_name));
  }
}

void read_needed(const Reader& in, const Elf64_Shdr& table, std::string_view strings, ElfLibrary& out) {
  for (uint64_t i = 0; i + sizeof(Elf64_Dyn) <= table.sh_size; i += sizeof(Elf64_Dyn)) {
    const auto entry = in.at<Elf64_Dyn>(table.sh_offset + i);
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_NEEDED) out.needed.push_back(name_at(strings, entry.d_un.d_val));
  }
}

// Chains of needed versions. Each step goes forward, so the section's size bounds them.
void read_versions(const Reader& in, const Elf64_Shdr& table, std::string_view strings, ElfLibrary& out) {
  const std::string_view bytes = in.part(table.sh_offset, table.sh_size);
  const Reader part(bytes);
  for (uint64_t file = 0, files = 0; files < bytes.size() / sizeof(Elf64_Verneed); ++files) {
    const auto need = part.at<Elf64_Verneed>(file);
    uint64_t at = file + need.vn_aux;
    for (uint16_t i = 0; i < need.vn_cnt; ++i) {
      const auto version = part.at<Elf64_Vernaux>(at);
      out.versions.push_back(name_at(strings, version.vna_name));
      if (version.vna_next == 0) break;
      at += version.vna_next;
    }
    if (need.vn_next == 0) break;
    file += need.vn_next;
  }
}

// "2.28" < "2.34", part by part.
bool newer(std::string_view a, std::string_view b) {
  while (!a.empty() || !b.empty()) {
    unsigned x = 0, y = 0;
    auto take = [](std::string_view& s, unsigned& value) {
      const std::string_view part = s.substr(0, s.find('.'));
      std::from_chars(part.data(), part.data() + part.size(), value);
      s.remove_prefix(std::min(s.size(), part.size() + 1));
    };
    take(a, x), take(b, y);
    if (x != y) return x > y;
  }
  return false;
}

ElfLibrary parse(std::string_view bytes) {
  const Reader in(bytes);
  const auto header = in.at<Elf64_Ehdr>(0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_DYN) {
    fail(ErrorCode::kCorrupt, "not a 64-bit ELF shared library");
  }
  ElfLibrary out;
  out.machine = header.e_machine == EM_X86_64    ? "x86_64"
                : header.e_machine == EM_AARCH64 ? "aarch64"
                                                 : fmt::format("machine {}", header.e_machine);
  const std::vector<Elf64_Shdr> all = sections(in, header);
  for (const Elf64_Shdr& section : all) {
    if (section.sh_type != SHT_DYNSYM && section.sh_type != SHT_DYNAMIC && section.sh_type != SHT_GNU_verneed) continue;
    if (section.sh_link >= all.size()) fail(ErrorCode::kCorrupt, "ELF: section {} does not exist", section.sh_link);
    const std::string_view strings = in.part(all[section.sh_link].sh_offset, all[section.sh_link].sh_size);
    if (section.sh_type == SHT_DYNSYM) read_symbols(in, section, strings, out);
    if (section.sh_type == SHT_DYNAMIC) read_needed(in, section, strings, out);
    if (section.sh_type == SHT_GNU_verneed) read_versions(in, section, strings, out);
  }
  for (auto* list : {&out.exported, &out.versions}) std::sort(list->begin(), list->end());
  return out;
}

}  // namespace

ElfLibrary read_elf(std::string_view bytes, const std::string& where) {
  try {
    return parse(bytes);
  } catch (const Error& e) {
    fail(e.code(), "{}: {}", where, e.what());
  }
}

std::vector<std::string> above_floor(const ElfLibrary& library, const AbiFloor& floor) {
  const std::pair<const char*, const std::string*> limits[] = {
      {"GLIBC_", &floor.glibc}, {"GLIBCXX_", &floor.glibcxx}, {"CXXABI_", &floor.cxxabi}};
  std::vector<std::string> out;
  for (const std::string& version : library.versions) {
    for (const auto& [prefix, limit] : limits) {
      if (!version.starts_with(prefix)) continue;
      const std::string number = version.substr(std::strlen(prefix));
      if (number[0] >= '0' && number[0] <= '9' && newer(number, *limit))
        out.push_back(fmt::format("needs {}; {} has {}{}", version, floor.name, prefix, *limit));
    }
  }
  return out;
}

}  // namespace tessera::hub_kernels
