// Reference mixture of experts: token by token, slot by slot; the inner values stay in F32.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const MoeArgs& a) {
  if (Verdict v = require_cpu_floats({&a.x, &a.gate_up_bias, &a.down_bias, &a.out}); !v) return v;
  if (Verdict v = require_cpu_weight(a.gate_up); !v) return v;
  return require_cpu_weight(a.down);
}

// The inner values [I] of one token, and its sums [H].
int64_t workspace(const MoeArgs& a) {
  return (a.down.k + a.down.n) * static_cast<int64_t>(sizeof(float));
}

// Row `row` of the gate_up product of expert e with token t.
float gate_up(const MoeArgs& a, int64_t t, int64_t e, int64_t row) {
  double sum = 0;
  for (int64_t i = 0; i < a.gate_up.k; ++i) {
    sum += static_cast<double>(get(a.x, t * a.gate_up.k + i)) * weight_at(a.gate_up, e, row, i);
  }
  float value = static_cast<float>(sum);
  return a.gate_up_bias.defined() ? value + get(a.gate_up_bias, e * a.gate_up.n + row) : value;
}

float inner(const MoeArgs& a, int64_t t, int64_t e, int64_t i) {
  if (a.activation == MoeActivation::kSilu) {
    float gate = gate_up(a, t, e, i), up = gate_up(a, t, e, a.down.k + i);
    return gate * sigmoid(gate) * up;
  }
  float gate = gate_up(a, t, e, 2 * i), up = gate_up(a, t, e, 2 * i + 1);
  gate = gate > a.limit ? a.limit : gate;
  up = clamp(up, -a.limit, a.limit);
  return (up + 1.0f) * (gate * sigmoid(1.702f * gate));
}

void launch(const MoeArgs& a, Stream& stream) {
  int64_t active = a.indices.dim(1), h = a.down.n, n = a.down.k;
  float* values = static_cast<float*>(stream.workspace);
  float* sums = values + n;
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    std::fill(sums, sums + h, 0.0f);
    for (int64_t slot = 0; slot < active; ++slot) {
      int64_t e = a.indices.i32()[t * active + slot] - a.first_expert;
      if (e < 0 || e >= a.gate_up.experts) continue;
      for (int64_t i = 0; i < n; ++i) values[i] = inner(a, t, e, i);
      for (int64_t row = 0; row < h; ++row) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]) * weight_at(a.down, e, row, i);
        float value = static_cast<float>(sum);
        if (a.down_bias.defined()) value += get(a.down_bias, e * h + row);
        sums[row] += a.weights.f32()[t * active + slot] * value;
      }
    }
    for (int64_t row = 0; row < h; ++row) put(a.out, t * h + row, sums[row]);
  }
}

}  // namespace

KernelRow<MoeArgs> moe_row() {
  return {"moe_any_any_ref", DeviceType::kCpu, "plain loops, any float types and weight formats",
          supports,          workspace,        launch};
}

}  // namespace tessera::reference
