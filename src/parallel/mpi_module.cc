// Built into libtessera_mpi.so where MPI is found.
#include "parallel/mpi_module.h"

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <cstdio>
#include <cstring>

namespace {

struct Comm {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
};

Comm& of(void* comm) {
  return *static_cast<Comm*>(comm);
}

int start() {
  int there = 0;
  if (int error = MPI_Initialized(&there); error != MPI_SUCCESS || there) return error;
  int level = 0;
  return MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
}
void* world() {
  auto* comm = new Comm;
  MPI_Comm_dup(MPI_COMM_WORLD, &comm->comm);
  MPI_Comm_set_errhandler(comm->comm, MPI_ERRORS_RETURN);
  return comm;
}
int rank(void* comm, int* rank, int* size) {
  const int error = MPI_Comm_rank(of(comm).comm, rank);
  return error != MPI_SUCCESS ? error : MPI_Comm_size(of(comm).comm, size);
}
int split(void* comm, int colour, int key, void** part) {
  auto* made = new Comm;
  *part = made;
  return MPI_Comm_split(of(comm).comm, colour, key, &made->comm);
}
void release(void* comm) {
  int over = 0;
  MPI_Finalized(&over);
  if (!over) MPI_Comm_free(&of(comm).comm);
  delete &of(comm);
}
int gather(void* comm, const void* mine, int bytes, void* all) {
  Comm& c = of(comm);
  return MPI_Iallgather(mine, bytes, MPI_BYTE, all, bytes, MPI_BYTE, c.comm, &c.request);
}
int exchange(void* comm, const void* from, const int* send_bytes, const int* send_at, void* to,
             const int* receive_bytes, const int* receive_at) {
  Comm& c = of(comm);
  return MPI_Ialltoallv(from, send_bytes, send_at, MPI_BYTE, to, receive_bytes, receive_at, MPI_BYTE, c.comm,
                        &c.request);
}
int broadcast(void* comm, void* bytes, int count, int root) {
  return MPI_Ibcast(bytes, count, MPI_BYTE, root, of(comm).comm, &of(comm).request);
}
int barrier(void* comm) {
  return MPI_Ibarrier(of(comm).comm, &of(comm).request);
}
int test(void* comm, int* done) {
  return MPI_Test(&of(comm).request, done, MPI_STATUS_IGNORE);
}
void describe(int error, char* text, int size) {
  char whole[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(error, whole, &length);
  std::snprintf(text, static_cast<size_t>(size), "%s", whole);
}

constexpr TesseraMpi kModule = {start,  MPI_Finalize, world,     rank,    split, release,
                                gather, exchange,     broadcast, barrier, test,  describe};

}  // namespace

extern "C" const TesseraMpi* tessera_mpi() {
  return &kModule;
}
