#include "hub/blob_download.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "core/error.h"
#include "core/log.h"
#include "hub/content_hash.h"

namespace tessera::hub {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kWritebackBytes = int64_t{32} << 20;  // handed to the disk early, so that the last fsync is short
constexpr int kMaxRedirects = 40;                       // without a byte, of all requests together

// The growing file, its hash and its end.
class PrefixFile {
 public:
  explicit PrefixFile(const BlobTask& task) : task_(task), hash_(task.expected_hash, std::max<int64_t>(task.size, 0)) {
    fd_ = open(path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot be opened ({})", path(), std::strerror(errno));
    adopt();
  }
  ~PrefixFile() { close(fd_); }
  PrefixFile(const PrefixFile&) = delete;

  int64_t end() const { return end_; }
  int64_t resumed_from() const { return resumed_from_; }

  void append(const char* data, size_t bytes) {
    hash_.update(data, bytes);
    for (size_t done = 0; done < bytes;) {
      ssize_t n = pwrite(fd_, data + done, bytes - done, end_ + static_cast<int64_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) write_failed(n < 0 ? errno : ENOSPC, end_ + static_cast<int64_t>(done));
      done += static_cast<size_t>(n);
    }
    end_ += static_cast<int64_t>(bytes);
    if (end_ - handed_over_ >= kWritebackBytes) {
      sync_file_range(fd_, handed_over_, end_ - handed_over_, SYNC_FILE_RANGE_WRITE);
      handed_over_ = end_;
    }
    task_.on_bytes(static_cast<int64_t>(bytes));
  }

  void start_again() {
    if (ftruncate(fd_, 0) != 0) fail(ErrorCode::kIo, "{}: cannot be emptied ({})", path(), std::strerror(errno));
    task_.on_kept(-end_);
    end_ = handed_over_ = resumed_from_ = 0;
    hash_ = ContentHash(task_.expected_hash, std::max<int64_t>(task_.size, 0));
  }

  // The content's hash. Call once, when all is there.
  std::string finish() {
    if (task_.size < 0) rehash();
    return hash_.finish();
  }
  const char* hash_kind() const { return hash_.kind(); }

  void sync() {
    if (fdatasync(fd_) != 0) write_failed(errno, end_);
  }

 private:
  const std::string& path() const { return task_.incomplete_path; }

  // Hashes what an earlier run left.
  void adopt() {
    const off_t found = lseek(fd_, 0, SEEK_END);
    if (found <= 0) return;
    if (task_.size < 0 || found > task_.size) {  // of no use: the hash or the end is unknown
      if (ftruncate(fd_, 0) != 0) fail(ErrorCode::kIo, "{}: cannot be emptied ({})", path(), std::strerror(errno));
      return;
    }
    hash_up_to(found);
    task_.on_kept(found);
    end_ = handed_over_ = resumed_from_ = found;
  }

  void hash_up_to(int64_t end) {
    std::string buffer(size_t{1} << 20, 0);
    for (int64_t at = 0; at < end;) {
      task_.check();
      ssize_t n = pread(fd_, buffer.data(), buffer.size(), at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail(ErrorCode::kIo, "{}: cannot be read ({})", path(), std::strerror(n < 0 ? errno : EIO));
      hash_.update(buffer.data(), static_cast<size_t>(n));
      at += n;
    }
  }

  // Git's hash begins with the size, which was not known.
  void rehash() {
    hash_ = ContentHash(task_.expected_hash, end_);
    hash_up_to(end_);
  }

  [[noreturn]] void write_failed(int why, int64_t kept) {
    if (why != ENOSPC && why != EDQUOT && why != EFBIG)
      fail(ErrorCode::kIo, "{}: cannot be written ({})", path(), std::strerror(why));
    fail(ErrorCode::kIo,
         "{}: the disk of {} is full after {} bytes of {} ({}); they are kept: make room and run this again, or set "
         "HF_HUB_CACHE to a larger disk",
         task_.what, std::filesystem::path(path()).parent_path().string(), kept, task_.size, std::strerror(why));
  }

  const BlobTask& task_;
  ContentHash hash_;
  int fd_ = -1;
  int64_t end_ = 0, resumed_from_ = 0, handed_over_ = 0;
};

class BlobDownload;

// One request for a range. The first of them in the file writes straight into it, the others wait with their bytes.
struct Piece {
  BlobDownload* owner = nullptr;
  int64_t begin = 0, end = 0;  // end -1: to the end, whatever it is
  int64_t received = 0;        // bytes, over all attempts
  std::string waiting;         // those not in the file yet
  int attempts = 0;            // in a row without a byte
  Clock::time_point not_before{};
  Clock::time_point heard{};           // when the running request last gave anything
  std::unique_ptr<CurlHandle> handle;  // null: no request is running
  HttpAnswer answer;                   // of the running request
  int64_t skip = 0;                    // bytes of the answer that are in the file already (ranges ignored)
  bool checked = false;                // the answer's headers were

  bool full() const { return end >= 0 && begin + received >= end; }
};

class BlobDownload {
 public:
  BlobDownload(const HubSettings& settings, const BlobTask& task, PrefixFile& file)
      : settings_(settings), task_(task), file_(file), multi_(curl_multi_init()), next_(file.end()) {
    TS_CHECK(multi_);
  }
  ~BlobDownload() {
    for (auto& [begin, piece] : pieces_) drop_request(piece);
    curl_multi_cleanup(multi_);
  }
  BlobDownload(const BlobDownload&) = delete;

  void run() {
    url_ = task_.locate();
    while (!whole()) {
      task_.check();
      plan_pieces();
      start_requests();
      int running = 0;
      TS_CHECK(curl_multi_perform(multi_, &running) == CURLM_OK);
      if (thrown_) std::rethrow_exception(thrown_);
      int left = 0;
      while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
        if (message->msg == CURLMSG_DONE) finished(message->easy_handle, message->data.result);
      }
      end_stalled();
      advance();
      if (!whole()) curl_multi_poll(multi_, nullptr, 0, running > 0 ? 100 : 20, nullptr);
    }
  }

  size_t received(Piece& piece, const char* data, size_t bytes);
  static size_t on_body(char* data, size_t size, size_t count, void* user);
  static size_t on_header(char* data, size_t size, size_t count, void* user);

 private:
  bool whole() const { return done_ || (task_.size >= 0 && file_.end() >= task_.size); }
  bool is_first(const Piece& piece) const { return !pieces_.empty() && &pieces_.begin()->second == &piece; }
  void plan_pieces();
  void start_requests();
  void drop_request(Piece& piece);
  void accept_answer(Piece& piece);
  void finished(CURL* easy, CURLcode code);
  void end_stalled();
  void repeat(Piece& piece, const std::string& why);
  void advance();
  [[noreturn]] void changed(const std::string& found) const;

  const HubSettings& settings_;
  const BlobTask& task_;
  PrefixFile& file_;
  CURLM* multi_;
  std::string url_;
  std::map<int64_t, Piece> pieces_;  // by begin; the first begins where the file ends or has been written to
  int64_t next_;                     // first byte nobody has asked for
  bool one_stream_ = false;          // the server ignores ranges
  bool done_ = false;                // the end came without a known size
  int redirects_ = 0;
  std::exception_ptr thrown_;  // in a callback
};

void BlobDownload::plan_pieces() {
  const bool split = task_.size > settings_.piece_bytes && !one_stream_;
  const int64_t step = split ? settings_.piece_bytes : std::max<int64_t>(task_.size, 1);
  const auto most = static_cast<size_t>(split ? settings_.connections_per_file : 1);
  const int64_t window = step * static_cast<int64_t>(most + 1);  // bounds what waits in memory
  while (pieces_.size() < most && (task_.size < 0 ? pieces_.empty() : next_ < task_.size) &&
         next_ - file_.end() < window) {
    Piece& piece = pieces_[next_];
    piece.owner = this;
    piece.begin = next_;
    piece.end = task_.size < 0 ? -1 : std::min(next_ + step, task_.size);
    next_ = piece.end < 0 ? next_ + 1 : piece.end;
  }
}

void BlobDownload::start_requests() {
  const auto now = Clock::now();
  for (auto& [begin, piece] : pieces_) {
    if (piece.handle || piece.full() || now < piece.not_before) continue;
    piece.handle = std::make_unique<CurlHandle>(settings_);
    piece.heard = now;
    piece.answer = {};
    piece.checked = false;
    piece.skip = 0;
    const int64_t from = piece.begin + piece.received;
    const bool to_the_end = piece.end < 0 || piece.end == task_.size;
    piece.handle->prepare(url_, from, to_the_end && from == 0 ? -1 : piece.end);
    auto* curl = static_cast<CURL*>(piece.handle->get());
    auto set = [&](CURLoption option, auto value) { TS_CHECK(curl_easy_setopt(curl, option, value) == CURLE_OK); };
    set(CURLOPT_HEADERFUNCTION, &BlobDownload::on_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&piece));
    set(CURLOPT_WRITEFUNCTION, &BlobDownload::on_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&piece));
    set(CURLOPT_PRIVATE, static_cast<void*>(&piece));
    TS_CHECK(curl_multi_add_handle(multi_, curl) == CURLM_OK);
  }
}

void BlobDownload::drop_request(Piece& piece) {
  if (piece.handle) curl_multi_remove_handle(multi_, static_cast<CURL*>(piece.handle->get()));
  piece.handle.reset();
}

void BlobDownload::changed(const std::string& found) const {
  fail(ErrorCode::kCorrupt,
       "{}: the file changed on the server while it was fetched: {}, expected {} bytes; run this again", task_.what,
       found, task_.size);
}

// Looks at status and headers when the first byte of a body arrives.
void BlobDownload::accept_answer(Piece& piece) {
  piece.checked = true;
  if (piece.answer.status == 206) {
    auto range = parse_content_range(header(piece.answer.headers, "content-range"));
    if (!range || range->begin != piece.begin + piece.received)
      changed(fmt::format("asked for byte {} on and got '{}'", piece.begin + piece.received,
                          shown(header(piece.answer.headers, "content-range"))));
    if (range->total >= 0 && task_.size >= 0 && range->total != task_.size)
      changed(fmt::format("it has {} bytes now", range->total));
  } else if (piece.answer.status == 200) {
    // The whole file: the request was for it, or the server does not know ranges. Then one request does everything.
    piece.skip = piece.begin + piece.received;
    if (piece.skip > 0 || piece.end != task_.size) one_stream_ = true;
    if (one_stream_ && is_first(piece)) piece.end = task_.size;
  }
}

size_t BlobDownload::received(Piece& piece, const char* data, size_t bytes) {
  piece.heard = Clock::now();
  const size_t all = bytes;
  if (!piece.checked) accept_answer(piece);
  if (piece.answer.status != 200 && piece.answer.status != 206) return bytes;  // an error's text
  if (one_stream_ && !is_first(piece)) return 0;                               // the first one brings these too
  const size_t skipped = std::min<size_t>(bytes, static_cast<size_t>(piece.skip));
  data += skipped;
  bytes -= skipped;
  piece.skip -= static_cast<int64_t>(skipped);
  if (piece.end >= 0 && piece.begin + piece.received + static_cast<int64_t>(bytes) > piece.end)
    changed("more bytes came than there should be");
  if (bytes == 0) return all;
  piece.attempts = redirects_ = 0;
  piece.received += static_cast<int64_t>(bytes);
  if (is_first(piece)) {
    file_.append(data, bytes);
  } else {
    piece.waiting.append(data, bytes);
  }
  return all;
}

size_t BlobDownload::on_body(char* data, size_t size, size_t count, void* user) {
  auto& piece = *static_cast<Piece*>(user);
  try {
    return piece.owner->received(piece, data, size * count);
  } catch (...) {
    piece.owner->thrown_ = std::current_exception();
    return 0;
  }
}

size_t BlobDownload::on_header(char* data, size_t size, size_t count, void* user) {
  auto& answer = static_cast<Piece*>(user)->answer;
  std::string_view line(data, size * count);
  if (line.starts_with("HTTP/")) {
    answer.headers.clear();
    size_t space = line.find(' ');
    answer.status = space == line.npos ? 0 : std::atol(std::string(line.substr(space + 1, 3)).c_str());
  }
  add_header_line(answer.headers, line);
  return line.size();
}

void BlobDownload::repeat(Piece& piece, const std::string& why) {
  if (++piece.attempts >= settings_.attempts) {
    const std::string kept =
        file_.end() > 0 ? fmt::format("; {} bytes of {} are kept for the next time", file_.end(), task_.size) : "";
    if (piece.answer.status >= 400 && !is_passing_trouble(piece.answer))
      refuse(settings_, task_.what, task_.repo, piece.answer);
    throw Unreachable(
        fmt::format("{}: gave up after {} attempts without a byte ({}){}", task_.what, piece.attempts, why, kept));
  }
  const double seconds = backoff_seconds(settings_, std::max(piece.attempts, 1), piece.answer.headers);
  log::log(seconds > kLongPause ? log::level::warn : log::level::info, "{}: {} at byte {}; again in {:.1f} s",
           task_.what, why, piece.begin + piece.received, seconds);
  piece.not_before = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void BlobDownload::finished(CURL* easy, CURLcode code) {
  void* user = nullptr;
  curl_easy_getinfo(easy, CURLINFO_PRIVATE, &user);
  auto& piece = *static_cast<Piece*>(user);
  const std::string error = piece.handle->error_text(code);
  drop_request(piece);
  const long status = piece.answer.status;
  const bool content = status == 200 || status == 206;
  if (content && code == CURLE_OK && (piece.full() || piece.end < 0)) {
    if (piece.end < 0) done_ = true;
    return;
  }
  if (content && one_stream_ && !is_first(piece)) return;  // dropped by advance()
  if (code == CURLE_OK && status >= 300 && status < 400) {
    std::string target = follow(url_, header(piece.answer.headers, "location"));
    if (target.empty() || ++redirects_ > kMaxRedirects)
      fail(ErrorCode::kCorrupt, "{}: redirected to '{}' ({} times); refused", task_.what,
           shown(header(piece.answer.headers, "location")), redirects_);
    url_ = target;
    return;
  }
  if (code == CURLE_OK && status == 416) changed("there is nothing at the place asked for (416)");
  if (code == CURLE_OK && (status == 401 || status == 403 || status == 404 || status == 410)) {
    // A signed address lives for a while only. When the hub itself refuses now, locate() says why.
    repeat(piece, fmt::format("status {}", status));
    url_ = task_.locate();
    return;
  }
  if (code == CURLE_OK && status >= 400 && !is_passing_trouble(piece.answer))
    refuse(settings_, task_.what, task_.repo, piece.answer);
  std::string why = error;
  if (code == CURLE_OK) why = content ? "the connection ended too early" : fmt::format("status {}", status);
  repeat(piece, why);
}

// libcurl averages a connection's speed over seconds; this notices the last byte.
void BlobDownload::end_stalled() {
  const auto limit = Clock::now() - std::chrono::seconds(settings_.timeout_s);
  for (auto& [begin, piece] : pieces_) {
    if (!piece.handle || piece.full() || piece.heard > limit) continue;
    drop_request(piece);
    repeat(piece, fmt::format("no byte for {} s", settings_.timeout_s));
  }
}

// Moves on to the next pieces in the file when the first is complete.
void BlobDownload::advance() {
  if (one_stream_ && pieces_.size() > 1) {
    for (auto it = std::next(pieces_.begin()); it != pieces_.end(); it = pieces_.erase(it)) drop_request(it->second);
    pieces_.begin()->second.end = task_.size;
    next_ = std::max<int64_t>(task_.size, 0);
  }
  while (!pieces_.empty() && pieces_.begin()->second.full() && !pieces_.begin()->second.handle) {
    pieces_.erase(pieces_.begin());
    if (pieces_.empty()) return;
    Piece& first = pieces_.begin()->second;
    file_.append(first.waiting.data(), first.waiting.size());
    first.waiting = {};
  }
}

}  // namespace

void download_blob(const HubSettings& settings, const BlobTask& task) {
  PrefixFile file(task);
  for (;;) {
    if (task.size < 0 || file.end() < task.size) BlobDownload(settings, task, file).run();
    const std::string kind = file.hash_kind() ? file.hash_kind() : "";
    const std::string found = file.finish();
    if (task.expected_hash.empty() || found == task.expected_hash) break;
    if (file.resumed_from() == 0) {
      std::error_code ignored;
      std::filesystem::remove(task.incomplete_path, ignored);
      fail(ErrorCode::kCorrupt,
           "{}: what came has the {} {}, the hub promised {}; thrown away. Run this again; if it "
           "stays, a proxy or mirror changes the file",
           task.what, kind, found, task.expected_hash);
    }
    log::warn("{}: the part kept from an earlier run does not fit; fetching it again", task.what);
    file.start_again();
  }
  file.sync();
}

}  // namespace tessera::hub
