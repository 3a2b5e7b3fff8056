#include "text/vocab.h"

#include <bit>
#include <cstring>
#include <random>

namespace tessera {
namespace {

uint64_t load(const char* p, size_t n) {
  uint64_t value = 0;
  std::memcpy(&value, p, n);
  return value;
}

// 64 x 64 -> 128 bit product, folded: the mixing step of the wyhash family.
uint64_t fold(uint64_t a, uint64_t b) {
  auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr uint64_t kMix1 = 0x9E3779B97F4A7C15;  // odd constants with well-spread bits
constexpr uint64_t kMix2 = 0xD1B54A32D192ED03;

}  // namespace

Vocab::Vocab(size_t expected_tokens) {
  std::random_device device;
  seed_ = static_cast<uint64_t>(device()) << 32 | device();
  slots_.resize(std::bit_ceil(expected_tokens * 2 + 16));
  tokens_.reserve(expected_tokens);
  arena_.reserve(expected_tokens * 8);
}

uint64_t Vocab::hash(std::string_view bytes, Form form) const {
  const char* p = bytes.data();
  size_t n = bytes.size();
  uint64_t h = seed_ ^ (static_cast<uint64_t>(form) << 63) ^ n;
  for (; n > 16; p += 16, n -= 16) h = fold(load(p, 8) ^ h, load(p + 8, 8) ^ kMix1);
  uint64_t a = 0;
  uint64_t b = 0;
  if (n >= 8) {
    a = load(p, 8);
    b = load(p + n - 8, 8);
  } else if (n >= 4) {
    a = load(p, 4);
    b = load(p + n - 4, 4);
  } else if (n > 0) {
    a = static_cast<uint64_t>(static_cast<uint8_t>(p[0])) << 16 |
        static_cast<uint64_t>(static_cast<uint8_t>(p[n / 2])) << 8 | static_cast<uint8_t>(p[n - 1]);
  }
  return fold(fold(a ^ h, b ^ kMix2), seed_ ^ kMix1);
}

int32_t Vocab::find(std::string_view bytes, Form form) const {
  if (bytes.size() > longest_) return -1;
  uint64_t h = hash(bytes, form);
  auto tag = static_cast<uint32_t>(h >> 32);
  size_t mask = slots_.size() - 1;
  for (size_t i = h & mask;; i = (i + 1) & mask) {
    const Slot& slot = slots_[i];
    if (slot.id < 0) return -1;
    if (slot.tag == tag && this->form(slot.id) == form && this->bytes(slot.id) == bytes) return slot.id;
  }
}

Vocab::AddResult Vocab::add(std::string_view bytes, Form form, int32_t id) {
  auto index = static_cast<size_t>(id);
  if (has(id)) return AddResult::kDuplicateId;
  if (find(bytes, form) >= 0) return AddResult::kDuplicateToken;
  if (static_cast<size_t>(count_ + 1) * 2 > slots_.size()) grow();
  if (index >= tokens_.size()) tokens_.resize(index + 1);
  tokens_[index] = {static_cast<uint32_t>(arena_.size()), static_cast<uint16_t>(bytes.size()), form, true};
  arena_ += bytes;
  if (bytes.size() > longest_) longest_ = bytes.size();
  ++count_;
  uint64_t h = hash(bytes, form);
  size_t mask = slots_.size() - 1;
  size_t i = h & mask;
  while (slots_[i].id >= 0) i = (i + 1) & mask;
  slots_[i] = {static_cast<uint32_t>(h >> 32), id};
  return AddResult::kOk;
}

void Vocab::grow() {
  std::vector<Slot> slots(slots_.size() * 2);
  size_t mask = slots.size() - 1;
  for (int32_t id = 0; id < id_limit(); ++id) {
    if (!has(id)) continue;
    uint64_t h = hash(bytes(id), form(id));
    size_t i = h & mask;
    while (slots[i].id >= 0) i = (i + 1) & mask;
    slots[i] = {static_cast<uint32_t>(h >> 32), id};
  }
  slots_ = std::move(slots);
}

}  // namespace tessera
