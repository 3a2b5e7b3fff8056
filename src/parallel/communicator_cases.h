// What tests do with every kind of communicator: random calls, compared with plain loops over all ranks' data.
#pragma once

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "parallel/communicator.h"

namespace tessera::testing {

inline Tensor view(std::vector<char>& bytes, DType dtype, Shape shape) {
  Tensor t{.data = bytes.data(), .shape = shape, .dtype = dtype, .device = {}};
  bytes.resize(static_cast<size_t>(t.bytes()));
  t.data = bytes.data();
  return t;
}

// What rank r holds at element i in round `seed`: any rank can compute everyone's.
inline float value_of(uint32_t seed, int r, int64_t i) {
  uint32_t h = seed * 2654435761u + static_cast<uint32_t>(r) * 40503u + static_cast<uint32_t>(i) * 2246822519u;
  h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
  return static_cast<float>(static_cast<int32_t>(h)) * 1e-8f;
}
inline void put(const Tensor& t, int64_t i, float v) {
  if (t.dtype == DType::kF32)
    t.as<float>()[i] = v;
  else
    t.as<uint16_t>()[i] = float_to_bf16(v);
}
inline float get(const Tensor& t, int64_t i) {
  return t.dtype == DType::kF32 ? t.as<float>()[i] : bf16_to_float(t.as<uint16_t>()[i]);
}
inline float stored(DType dtype, float v) {
  return dtype == DType::kF32 ? v : bf16_to_float(float_to_bf16(v));
}

inline void one_sum(Communicator& c, uint32_t seed, DType dtype, int64_t n) {
  std::vector<char> bytes;
  Tensor x = view(bytes, dtype, {n});
  for (int64_t i = 0; i < n; ++i) put(x, i, value_of(seed, c.rank(), i));
  const int64_t before = c.traffic().all_reduce;
  c.all_reduce(x, nullptr);
  for (int64_t i = 0; i < n; ++i) {
    float sum = stored(dtype, value_of(seed, 0, i));
    for (int r = 1; r < c.size(); ++r) sum += stored(dtype, value_of(seed, r, i));
    ASSERT_EQ(get(x, i), stored(dtype, sum)) << "element " << i << " of " << n << " on rank " << c.rank();
  }
  // In two steps every rank sends each slice once and its own sum to all; in one step everything to all.
  const int64_t sent = c.traffic().all_reduce - before, others = c.size() - 1;
  if (n % c.size() == 0) {
    EXPECT_TRUE(sent == 2 * x.bytes() * others / c.size() || sent == x.bytes() * others) << sent;
  }
}

inline void one_gather(Communicator& c, uint32_t seed, int64_t n) {
  std::vector<char> mine_bytes, all_bytes;
  Tensor mine = view(mine_bytes, DType::kF32, {n}), all = view(all_bytes, DType::kF32, {c.size(), n});
  for (int64_t i = 0; i < n; ++i) put(mine, i, value_of(seed, c.rank(), i));
  c.all_gather(mine, all, nullptr);
  for (int r = 0; r < c.size(); ++r)
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(get(all, r * n + i), value_of(seed, r, i));
}

// Rank r sends rows_of(seed, r, to) rows of three values to rank `to`.
inline int64_t rows_of(uint32_t seed, int from, int to) {
  return static_cast<int64_t>((seed * 31 + static_cast<uint32_t>(from * 7 + to * 3)) % 6) - (seed % 5 == 0 ? 0 : 1) > 0
             ? static_cast<int64_t>((seed + static_cast<uint32_t>(from * 5 + to)) % 9)
             : 0;
}
inline void one_exchange(Communicator& c, uint32_t seed) {
  std::vector<int64_t> send_rows(c.size()), receive_rows(c.size());
  int64_t sent = 0, received = 0, elsewhere = 0;
  for (int r = 0; r < c.size(); ++r) {
    sent += send_rows[r] = rows_of(seed, c.rank(), r);
    received += receive_rows[r] = rows_of(seed, r, c.rank());
    if (r != c.rank()) elsewhere += send_rows[r];
  }
  std::vector<char> send_bytes, receive_bytes;
  Tensor send = view(send_bytes, DType::kF32, {sent, 3}), receive = view(receive_bytes, DType::kF32, {received, 3});
  int64_t row = 0;
  for (int r = 0; r < c.size(); ++r)
    for (int64_t i = 0; i < send_rows[r]; ++i, ++row)
      for (int j = 0; j < 3; ++j)
        put(send, row * 3 + j, value_of(seed + static_cast<uint32_t>(r), c.rank(), i * 3 + j));
  const int64_t before = c.traffic().all_to_all;
  c.all_to_all(send, send_rows, receive, receive_rows, nullptr);
  row = 0;
  for (int r = 0; r < c.size(); ++r)
    for (int64_t i = 0; i < receive_rows[r]; ++i, ++row)
      for (int j = 0; j < 3; ++j)
        ASSERT_EQ(get(receive, row * 3 + j), value_of(seed + static_cast<uint32_t>(c.rank()), r, i * 3 + j));
  if (c.size() > 1) {
    EXPECT_EQ(c.traffic().all_to_all - before, elsewhere * 12);
  }
}

inline void one_broadcast(Communicator& c, uint32_t seed, int root, int64_t n) {
  std::vector<char> bytes;
  Tensor x = view(bytes, DType::kBF16, {n});
  for (int64_t i = 0; i < n; ++i) put(x, i, value_of(seed, c.rank(), i));
  c.broadcast(x, root, nullptr);
  for (int64_t i = 0; i < n; ++i) ASSERT_EQ(get(x, i), stored(DType::kBF16, value_of(seed, root, i)));
}

// Random calls, the same on every rank.
inline void random_calls(Communicator& c, uint32_t seed, int rounds) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    const uint32_t s = random();
    const int64_t n = random() % 7 == 0 ? random() % 20000 : random() % 70;
    switch (random() % 6) {
      case 0:
        one_sum(c, s, DType::kF32, n);
        break;
      case 1:
        one_sum(c, s, DType::kBF16, n);
        break;
      case 2:
        one_gather(c, s, n);
        break;
      case 3:
        one_exchange(c, s);
        break;
      case 4:
        one_broadcast(c, s, static_cast<int>(random() % static_cast<uint32_t>(c.size())), n);
        break;
      default:
        c.barrier();
    }
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace tessera::testing
