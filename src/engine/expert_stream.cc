#include "engine/expert_stream.h"

#include <algorithm>
#include <atomic>

#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

// As many as fill the link; two blocks each (see place_weights).
constexpr int64_t kMostLanes = 16;

}  // namespace

int64_t ExpertStream::device_bytes(int64_t layer_bytes) {
  return layer_bytes + kMostLanes * 2 * kUploadBlockBytes + (int64_t{1} << 16);
}

ExpertStream::ExpertStream(DeviceContext& context, ThreadPool& pool, const Kernels& kernels,
                           const ArrangeOptions& options, ReadBytes read, int64_t layer_bytes)
    : context_(context),
      pool_(pool),
      moe_(kernels.moe),
      options_(options),
      read_(std::move(read)),
      place_(context, layer_bytes + (int64_t{1} << 16)) {
  for (int64_t i = 0; i < std::min<int64_t>(pool.size(), kMostLanes); ++i)
    lanes_.push_back(make_upload_lane(context, kUploadBlockBytes, true));
}

// The same args with the experts in their place on the device.
MoeArgs ExpertStream::staged(const MoeArgs& a, std::vector<UploadPiece>& pieces) {
  place_.rewind(0);
  float* scales = nullptr;
  MoeArgs d = a;
  d.gate_up = cuda_arrange(a.gate_up, options_, place_, scales, pieces);
  d.down = cuda_arrange(a.down, options_, place_, scales, pieces);
  d.gate_up.hosted = d.down.hosted = false;
  if (a.gate_up_bias.defined()) d.gate_up_bias = cuda_place(a.gate_up_bias, place_, pieces);
  if (a.down_bias.defined()) d.down_bias = cuda_place(a.down_bias, place_, pieces);
  return d;
}

Verdict ExpertStream::supports(const MoeArgs& a) {
  if (a.x.dim(0) < kStreamTokens) return {"too few tokens to be worth moving a layer's experts"};
  if (context_.recording()) return {"moving experts cannot be recorded"};
  std::vector<UploadPiece> pieces;
  if (moe_.choose(staged(a, pieces)) == nullptr) return {"no kernel of the GPU accepts them"};
  return kAccepted;
}

int64_t ExpertStream::workspace(const MoeArgs& a) {
  std::vector<UploadPiece> pieces;
  const MoeArgs d = staged(a, pieces);
  const KernelRow<MoeArgs>* row = moe_.choose(d);
  return row != nullptr && row->workspace ? row->workspace(d) : 0;
}

void ExpertStream::run(const MoeArgs& a, Stream& stream) {
  std::vector<UploadPiece> pieces;
  const MoeArgs d = staged(a, pieces);
  const KernelRow<MoeArgs>* row = moe_.choose(d);
  TS_CHECK(row != nullptr);
  context_.synchronize();  // the layer before has been computed from the same place
  send(pieces);
  row->launch(d, stream);
}

void ExpertStream::send(const std::vector<UploadPiece>& pieces) {
  std::atomic<size_t> next{0};
  parallel_tasks(pool_, static_cast<int64_t>(lanes_.size()), [&](int64_t which) {
    context_.make_current();
    UploadLane& lane = *lanes_[static_cast<size_t>(which)];
    for (size_t i = next++; i < pieces.size(); i = next++) {
      const UploadPiece& piece = pieces[i];
      const UploadLane::Block block = lane.begin();
      read_(piece.values, piece.value_bytes, block.host);
      if (piece.scales) read_(piece.scales, piece.scale_bytes, block.host + (piece.value_bytes + 255) / 256 * 256);
      cuda_send(piece, block, lane);
      lane.end();
    }
    lane.finish();
  });
}

}  // namespace tessera
