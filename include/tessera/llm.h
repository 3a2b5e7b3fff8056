// Load a language model and generate.
//
//   tessera::Llm llm = tessera::Llm::load("models/glossary");
//   tessera::Chat chat(llm);
//   std::cout << chat.say("What does serendipity mean?").text << "\n";
//
// Errors are tessera::Error. An Llm and its Chats are used by one thread at a time, except where said otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/error.h"
#include "tessera/sampling.h"

namespace tessera {

struct LoadOptions {
  std::string device = "auto";  // auto (a GPU when there is one), cpu, cuda, cuda:N
  std::string dtype =
      "auto";               // auto (the checkpoint's), float32, bfloat16, float16: activations, cache and plain weights
  bool dequantize = false;  // expand MXFP4 experts to bf16
  bool fallback = true;     // do so where a GPU has no kernel for MXFP4; false: that is an error
  std::string dense =
      "auto";  // auto (as stored), fp8 (a GPU with bf16: attention and unembedding in 8 bits, a scale a row)
  std::string cache_dtype = "auto";  // of keys and values: auto (as the activations), fp8 (E4M3: half of bfloat16)
  // On a CPU: a folder for files with weights that loading has to make (bf16 experts, which are transposed, casts,
  // `dequantize`), from which they are mapped the next time; empty: none. They take as much disk as memory.
  std::string arranged_cache;
  // Told, by threads that load but never two at once, some 20 times a second, how many bytes of the weights are in
  // memory, or on the device where that is a GPU; the last call has done == total. What it throws ends the load. Of
  // many ranks, what the first one holds.
  std::function<void(int64_t done, int64_t total)> on_load;
  int threads = 0;  // 0: all cores this process may use
  // Experts off the device: empty: none; "auto": as many layers' as must, to host memory and then to disk; a map of
  // layers, "0-8=gpu,9-30=cpu,31-35=disk"; or a .json as of Hugging Face accelerate. Or the first cpu_moe layers'.
  std::string device_map;
  int64_t cpu_moe = 0;
  int64_t device_memory = 0;  // most bytes of a GPU (each rank's) that are used, with the driver's; 0: all
  std::function<void(const std::string& text)> on_plan;  // gets the placement and its cost before anything is loaded
  int64_t max_context = 0;   // tokens a sequence may have; 0: the model's own limit, cut to 131072
  int64_t cache_memory = 0;  // bytes for keys and values; 0: what a sequence of max_context needs, if it is there;
                             // a max_context of 0 is then cut to what fits
  int64_t page_size = 0;     // tokens in a cache page; 0: 32, fewer for windows under 128
  int64_t max_batch_tokens = 512;  // longest prefill chunk in one step
  std::string use_kernels;  // kernels from the hub: "default", a mapping.json, or LAYER=REPO pairs split by commas,
                            // REPO being a hub id or a folder; empty: the built-in ones only
  std::vector<std::string> trusted_kernels;  // ORG/NAME whose kernels are run whoever publishes them
  // Ranks: max(tp, ep) of them, the larger a multiple of the smaller. 0: not asked for; tp -1: as many as there are
  // GPUs, or ranks in the environment of torchrun, mpirun or Slurm. Ranks are a GPU each, or threads that share the
  // cores.
  int tp = 0;                    // split attention, dense layers and the unembedding over so many
  int ep = 0;                    // and whole experts over so many
  std::string attention = "tp";  // with ep: tp (split over the same ranks) or dp (each sequence on one group)
  std::string experts = "auto";  // tokens of experts elsewhere: all-reduce, dispatch, auto (what fits)
  bool own_cache = true;         // false: for generate_batch() and servers, which bring their own; generate() then
                                 // makes one when it is first called
  bool ignore_window = false;    // keep the whole past of sliding-window layers in the cache (they still see W keys)
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t reasoning_tokens = 0;
  double prefill_seconds = 0;  // until the first token
  double decode_seconds = 0;
};

struct Generation {
  std::vector<int32_t> ids;  // stop tokens included
  std::string text;          // special tokens left out, cut before a stop string
  FinishReason finish_reason = FinishReason::kStop;
  std::vector<TokenLogprob> logprobs;
  Usage usage;
};

// Called for each new piece of text, always whole UTF-8; returns false to cancel.
using TextCallback = std::function<bool(std::string_view piece)>;

class Llm {
 public:
  // MODEL is a folder with config.json, or a hub id (ORG/NAME or ORG/NAME@REVISION): its snapshot in the hub's cache,
  // downloaded when it is not there. Throws kNotFound, kCorrupt, kUnsupported, kOutOfMemory, kIo.
  static Llm load(const std::string& model, const LoadOptions& options = {});

  // parse_special: special tokens spelled in the text are those tokens. add_special: as the tokenizer opens and closes
  // a text, for example with a BOS token.
  std::vector<int32_t> encode(std::string_view text, bool parse_special = true, bool add_special = false) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = true) const;

  // Sampling parameters of the model's generation_config.json.
  SamplingParams default_sampling() const;

  // Plain completion. Throws kInvalidArgument when the prompt is empty or longer than the context.
  Generation generate(const std::vector<int32_t>& prompt, const SamplingParams& params,
                      const TextCallback& on_text = {});
  Generation generate(std::string_view prompt, const SamplingParams& params, const TextCallback& on_text = {});

  // Sum of -log p(ids[i] | ids[0..i)) for i = 1..n-1.
  double negative_log_likelihood(const std::vector<int32_t>& ids);

  // Ends a running generate() or say() after the current token. Safe from any thread and from a signal handler.
  void cancel() noexcept;

  int64_t vocab_size() const;
  int64_t max_context() const;
  // A JSON object: configuration, quantisation, tensors and memory.
  std::string describe() const;
  // A JSON array: for each operation {"op", "rows": [{"name", "device", "summary"}]}, the row tried first first.
  std::string describe_kernels() const;
  // JSON array: for each operation of a step of `tokens` new tokens in `sequences` sequences, the kernel that computes
  // it and why others do not. Throws kInvalidArgument.
  std::string explain_kernels(int64_t tokens, int64_t sequences) const;

  Llm(Llm&&) noexcept;
  Llm& operator=(Llm&&) noexcept;
  ~Llm();

  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  explicit Llm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
