#include "parallel/rank_place.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>

#include "core/env.h"
#include "core/error.h"

namespace tessera {
namespace {

// Sets variables for one scope, with every launcher's others unset.
class Variables {
 public:
  Variables(std::initializer_list<std::pair<const char*, const char*>> rows) {
    for (const EnvRow& row : env_rows())
      if (row.id >= Env::kRank) unsetenv(row.name);
    for (auto [name, value] : rows) setenv(name, value, 1);
  }
  ~Variables() {
    for (const EnvRow& row : env_rows())
      if (row.id >= Env::kRank) unsetenv(row.name);
  }
};

std::string refusal() {
  try {
    rank_place_from_env();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(RankPlace, WithoutALauncherThereIsNone) {
  Variables none({});
  EXPECT_FALSE(rank_place_from_env());
  Variables batch_script({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}});
  EXPECT_FALSE(rank_place_from_env());
}

TEST(RankPlace, EachLauncher) {
  {
    Variables torchrun({{"RANK", "3"},
                        {"WORLD_SIZE", "4"},
                        {"LOCAL_RANK", "1"},
                        {"MASTER_ADDR", "h"},
                        {"MASTER_PORT", "77"},
                        {"OMPI_COMM_WORLD_RANK", "0"}});
    RankPlace place = *rank_place_from_env();
    EXPECT_EQ(place.rank, 3);
    EXPECT_EQ(place.size, 4);
    EXPECT_EQ(place.local_rank, 1);
    EXPECT_EQ(place.address, "h");
    EXPECT_EQ(place.port, 77);
    setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
    EXPECT_EQ(rank_place_from_env()->port, 78);
  }
  {
    Variables mpirun({{"OMPI_COMM_WORLD_RANK", "1"},
                      {"OMPI_COMM_WORLD_SIZE", "2"},
                      {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                      {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
    RankPlace place = *rank_place_from_env();
    EXPECT_EQ(place.rank, 1);
    EXPECT_EQ(place.address, "127.0.0.1");
    EXPECT_EQ(place.port, 29500);
    EXPECT_EQ(place.from, "mpirun");
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1", 1);
    EXPECT_EQ(refusal(), "MASTER_ADDR is not set: it must name the host of rank 0 (mpirun -x MASTER_ADDR=HOST)");
  }
  {
    Variables slurm({{"SLURM_PROCID", "5"},
                     {"SLURM_STEP_NUM_TASKS", "8"},
                     {"SLURM_LOCALID", "1"},
                     {"SLURM_STEP_NODELIST", "gpu[03-04,9],x"}});
    RankPlace place = *rank_place_from_env();
    EXPECT_EQ(place.rank, 5);
    EXPECT_EQ(place.local_rank, 1);
    EXPECT_EQ(place.address, "gpu03");
  }
}

TEST(RankPlace, WhatMakesNoSenseIsNamed) {
  {
    Variables v({{"RANK", "4"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "h"}});
    EXPECT_EQ(refusal(), "RANK=4: expected 0 to 3");
  }
  {
    Variables v({{"RANK", "0"}});
    EXPECT_EQ(refusal(), "WORLD_SIZE is not set, though this process is a rank");
  }
  {
    Variables v({{"RANK", "0"}, {"WORLD_SIZE", "many"}});
    EXPECT_EQ(refusal(), "WORLD_SIZE=many is not a whole number");
  }
  {
    Variables v({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "70000"}});
    EXPECT_EQ(refusal(), "MASTER_PORT=70000: expected 1 to 65534");
  }
}

TEST(RankPlace, SlurmLists) {
  EXPECT_EQ(first_slurm_host("one"), "one");
  EXPECT_EQ(first_slurm_host("one,two"), "one");
  EXPECT_EQ(first_slurm_host("node[08-11,15],big1"), "node08");
  EXPECT_EQ(first_slurm_host("node[7]-ib,x"), "node7-ib");
  EXPECT_EQ(first_slurm_host("node[3,5]"), "node3");
  EXPECT_EQ(first_slurm_host("node["), "");
  EXPECT_EQ(first_slurm_host("node[]"), "");
  EXPECT_EQ(first_slurm_host("node[1-"), "");
  EXPECT_EQ(first_slurm_host(""), "");
}

}  // namespace
}  // namespace tessera
