#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "hub/cache_scan.h"
#include "hub/content_hash.h"
#include "hub/http.h"
#include "hub/hub_client.h"
#include "hub/hub_id.h"
#include "hub/hub_property.h"
#include "hub/repo_cache.h"
#include "hub/resolve.h"
#include "hub/server_answers.h"

namespace tessera::hub {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr const char* kA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
constexpr const char* kB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

// A cache folder of its own for each test.
class HubCache : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "tessera-hub-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    cache_ = root_ + "/hub";
  }
  void TearDown() override { fs::remove_all(root_); }

  void put_blob(const RepoCache& repo, const std::string& etag, const std::string& text) {
    std::ofstream(repo.blob_path(etag)) << text;
  }
  void add_file(const RepoCache& repo, const std::string& commit, const std::string& name, const std::string& etag) {
    FileLock lock = repo.lock_blob(etag, [] {});
    repo.link(commit, name, etag);
  }
  std::string root_, cache_;
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(HubId, ReadsNamesAndRevisions) {
  auto id = parse_hub_id("openai/gpt-oss-20b");
  ASSERT_TRUE(id);
  EXPECT_EQ(id->repo, "openai/gpt-oss-20b");
  EXPECT_EQ(id->revision, "main");
  EXPECT_EQ(parse_hub_id("a/b@refs/pr/1")->revision, "refs/pr/1");
  EXPECT_EQ(parse_hub_id("gpt2", true)->repo, "gpt2");
  EXPECT_EQ(parse_hub_id("a/b@v1")->text(), "a/b@v1");
}

TEST(HubId, RefusesWhatIsNoName) {
  for (const char* text : {"",       "a",          "/a",      "a/",       "a/b/c", "../b",     "a/..",
                           "./b",    "a/b--c",     "a/b.git", "-a/b",     "a/b.",  "a b/c",    "a/b@",
                           "a/b@..", "a/b@x/../y", "a/b@/x",  "a/b@x//y", "~/b",   "a/b@x\ny", "caf\xc3\xa9/b"})
    EXPECT_FALSE(parse_hub_id(text)) << text;
  EXPECT_FALSE(parse_hub_id(std::string(97, 'a') + "/b"));
  EXPECT_THAT(message_of([] { require_hub_id("a/b/c"); }), HasSubstr("expected ORG/NAME"));
}

TEST(HubId, FileNamesStayInside) {
  for (const char* name : {"config.json", "a/b/c.txt", ".gitattributes", "...", "a..b", "with space"})
    EXPECT_EQ(objection_to_file_name(name), nullptr) << name;
  for (const char* name : {"", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "a//b", "a/", "./a", "a\\b", "a\nb"})
    EXPECT_NE(objection_to_file_name(name), nullptr) << name;
  EXPECT_NE(objection_to_file_name(std::string_view("a\0b", 3)), nullptr);
  EXPECT_NE(objection_to_file_name(std::string(256, 'x')), nullptr);
  EXPECT_EQ(objection_to_file_name(std::string(255, 'x')), nullptr);
}

TEST(HubId, PatternsAreFnmatch) {
  EXPECT_TRUE(matches("*.json", "a/b.json"));
  EXPECT_TRUE(matches("original/", "original/x"));
  EXPECT_TRUE(matches("[!a]*", "b"));
  EXPECT_FALSE(matches("*.json", "b.jsonl"));
}

TEST(ContentHash, IsWhatGitAndSha256sumPrint) {
  ContentHash sha(std::string(64, '0'), 6), git(std::string(40, '0'), 6), none("W-abc", 6);
  for (ContentHash* hash : {&sha, &git, &none}) hash->update("hello\n", 6);
  EXPECT_EQ(sha.finish(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  EXPECT_EQ(git.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(none.finish(), "");
}

std::string listing_of(const std::string& siblings) {
  return fmt::format(R"({{"sha": "{}", "siblings": [{}]}})", kA, siblings);
}

TEST(ServerAnswers, ListingsAreRead) {
  RepoListing listing = parse_listing(listing_of(fmt::format(R"({{"rfilename": "b", "size": 7, "blobId": "{}"}},
                             {{"rfilename": "a", "size": 9, "blobId": "{}", "lfs": {{"sha256": "{}", "size": 9}}}})",
                                                             kB, kA, std::string(64, 'c'))),
                                      "here");
  EXPECT_EQ(listing.commit, kA);
  ASSERT_EQ(listing.files.size(), 2u);
  EXPECT_EQ(listing.files[0].etag(), std::string(64, 'c'));
  EXPECT_EQ(listing.files[1].etag(), kB);
  EXPECT_EQ(listing.files[1].size, 7);
}

TEST(ServerAnswers, HostileListingsAreRefused) {
  auto refused = [](const std::string& json) { return message_of([&] { parse_listing(json, "here"); }); };
  EXPECT_THAT(refused(listing_of(R"({"rfilename": "../../x"})")), HasSubstr("leaves its folder"));
  EXPECT_THAT(refused(listing_of(R"({"rfilename": "/x"})")), HasSubstr("absolute"));
  EXPECT_THAT(refused(listing_of(R"({"rfilename": ")" + std::string(2000, 'x') + R"("})")), HasSubstr("longer than"));
  EXPECT_THAT(refused(listing_of(R"({"rfilename": "a"}, {"rfilename": "a"})")), HasSubstr("twice"));
  EXPECT_THAT(refused(listing_of(R"({"rfilename": "a"}, {"rfilename": "a/b"})")), HasSubstr("as a folder"));
  EXPECT_THAT(refused(listing_of("7")), HasSubstr("no object"));
  EXPECT_THAT(refused(R"({"sha": "../../x", "siblings": []})"), HasSubstr("expected a commit"));
  EXPECT_THAT(refused("<html>"), HasSubstr("JSON object"));
  EXPECT_THAT(refused("[]"), HasSubstr("JSON object"));
  EXPECT_THAT(refused(std::string(100'000, '[')), StartsWith("here"));
  EXPECT_THAT(refused(R"({"sha": 7})"), HasSubstr("expected a commit"));
}

TEST(ServerAnswers, FileHeaders) {
  FileFacts facts;
  add_file_headers(facts,
                   {{"x-repo-commit", kA},
                    {"x-linked-etag", "\"" + std::string(64, 'd') + "\""},
                    {"x-linked-size", "123"},
                    {"etag", "\"other\""},
                    {"content-length", "0"}},
                   true, "f");
  EXPECT_EQ(facts.etag, std::string(64, 'd'));
  EXPECT_EQ(facts.size, 123);
  add_file_headers(facts, {{"etag", "\"s3\""}, {"content-length", "99"}}, false, "f");
  EXPECT_EQ(facts.etag, std::string(64, 'd'));
  EXPECT_EQ(facts.size, 123);
  EXPECT_EQ(normal_etag("W/\"abc\""), "abc");
  EXPECT_THAT(message_of([] {
                FileFacts f;
                add_file_headers(f, {{"etag", "\"../x\""}}, false, "f");
              }),
              HasSubstr("ETag"));
  EXPECT_THAT(message_of([] {
                FileFacts f;
                add_file_headers(f, {{"x-repo-commit", "../x"}}, false, "f");
              }),
              HasSubstr("X-Repo-Commit"));
  EXPECT_THAT(message_of([] {
                FileFacts f;
                add_file_headers(f, {{"x-linked-size", "-1"}}, false, "f");
              }),
              HasSubstr("size"));
}

TEST(ServerAnswers, RangesAndPauses) {
  auto range = parse_content_range("bytes 5-9/20");
  ASSERT_TRUE(range);
  EXPECT_THAT(std::tie(range->begin, range->end, range->total), testing::FieldsAre(5, 10, 20));
  EXPECT_EQ(parse_content_range("bytes 0-0/*")->total, -1);
  for (const char* bad : {"", "bytes", "bytes 9-5/20", "bytes 5-30/20", "bytes -5/20", "items 1-2/3", "bytes 1-2"})
    EXPECT_FALSE(parse_content_range(bad)) << bad;
  EXPECT_EQ(parse_retry_after("7"), 7.0);
  EXPECT_EQ(parse_retry_after("100000"), 300.0);
  EXPECT_FALSE(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"));
}

TEST(ServerAnswers, AnyBytes) {
  std::mt19937 random(7);
  const std::vector<std::string> seeds = {
      listing_of(R"({"rfilename": "a/b", "size": 3, "blobId": "00", "lfs": {"sha256": "1", "size": 2}})"),
      "HTTP/1.1 200 OK\r\nETag: \"../a\"\r\nX-Linked-Size: 12\r\nContent-Range: bytes 1-2/3\r\nLocation: //x/../y\r\n",
      R"({"weight_map": {"a": "model-1.safetensors", "b": "../x"}})", "org/name@refs/../x"};
  for (int round = 0; round < 20'000; ++round) {
    std::string text = seeds[static_cast<size_t>(round) % seeds.size()];
    for (unsigned i = 0; i < 1 + random() % 6; ++i) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.insert(at, "../");
          break;
        case 2:
          text.erase(at, 1 + random() % 3);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 8));
      }
      if (text.empty()) text = "x";
    }
    text.insert(text.begin(), static_cast<char>(round % 4));
    check_server_answer(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

TEST(Http, OriginsAndRedirects) {
  EXPECT_EQ(origin_of("https://Hub.Test/x"), "https://hub.test:443");
  EXPECT_NE(origin_of("http://hub.test:81/"), origin_of("http://hub.test/"));
  EXPECT_EQ(origin_of("file:///etc/passwd"), "");
  EXPECT_EQ(origin_of("https://hub.test@evil.test/"), "https://evil.test:443");
  EXPECT_EQ(follow("https://a.test/x/y", "/z"), "https://a.test/z");
  EXPECT_EQ(follow("https://a.test/x", "https://b.test/z?q=1"), "https://b.test/z?q=1");
  EXPECT_EQ(follow("https://a.test/x", "http://a.test/z"), "") << "no way back from https";
  EXPECT_EQ(follow("https://a.test/x", "file:///etc/passwd"), "");
  EXPECT_EQ(follow("https://a.test/x", ""), "");
  EXPECT_EQ(url_escape("refs/pr/1 \xc3\xa9"), "refs%2Fpr%2F1%20%C3%A9");
}

TEST(Http, RefusalsSayWhatToDo) {
  HubSettings anonymous, named;
  named.token = "hf_x";
  named.token_source = "HF_TOKEN";
  auto refusal = [](const HubSettings& settings, long status, const char* code) {
    HttpAnswer answer{.status = status};
    if (*code) answer.headers["x-error-code"] = code;
    return message_of([&] { refuse(settings, "a/b", "a/b", answer); });
  };
  EXPECT_THAT(refusal(anonymous, 401, ""), HasSubstr("set HF_TOKEN"));
  EXPECT_THAT(refusal(anonymous, 401, "GatedRepo"), HasSubstr("ask for access at https://huggingface.co/a/b"));
  EXPECT_THAT(refusal(named, 403, "GatedRepo"), HasSubstr("accept the conditions"));
  EXPECT_THAT(refusal(named, 401, ""), HasSubstr("wrong, expired or revoked"));
  EXPECT_THAT(refusal(named, 403, ""), HasSubstr("permissions"));
  EXPECT_THAT(refusal(named, 404, "RevisionNotFound"), HasSubstr("no such revision"));
  EXPECT_THAT(refusal(named, 404, "EntryNotFound"), HasSubstr("no such file"));
  EXPECT_THROW(refuse(named, "a/b", "a/b", {.status = 503}), Unreachable);
  EXPECT_THAT(refusal(named, 418, ""), HasSubstr("418"));
}

TEST_F(HubCache, LayoutIsThePublishedOne) {
  RepoCache repo(cache_, "org/name");
  repo.prepare(kA);
  put_blob(repo, "e1", "one");
  add_file(repo, kA, "top.json", "e1");
  add_file(repo, kA, "sub/deep/x", "e1");
  repo.write_ref("refs/pr/1", kA);
  EXPECT_EQ(fs::read_symlink(cache_ + "/models--org--name/snapshots/" + kA + "/top.json"), "../../blobs/e1");
  EXPECT_EQ(fs::read_symlink(repo.file_path(kA, "sub/deep/x")), "../../../../blobs/e1");
  EXPECT_EQ(read_text_file(repo.folder() + "/refs/refs/pr/1"), kA);
  EXPECT_EQ(repo.commit_of("refs/pr/1"), kA);
  EXPECT_EQ(repo.commit_of("main"), std::nullopt);
  EXPECT_EQ(repo.file_size(kA, "top.json"), 3);
  EXPECT_TRUE(fs::exists(cache_ + "/.locks/models--org--name/e1.lock"));
  EXPECT_THAT(read_text_file(cache_ + "/CACHEDIR.TAG"), StartsWith("Signature: 8a477f597d28d172789f06886806bc55"));
  put_blob(repo, "e2", "two!");
  add_file(repo, kA, "top.json", "e2");
  EXPECT_EQ(repo.file_size(kA, "top.json"), 4) << "a link to another blob is replaced";
  EXPECT_FALSE(repo.known_absent(kA, "nothing"));
  repo.note_absent(kA, "nothing");
  EXPECT_TRUE(repo.known_absent(kA, "nothing"));
}

TEST_F(HubCache, TreesAreKeptOnlyWhenWhole) {
  RepoCache repo(cache_, "org/name");
  repo.prepare(kA);
  repo.write_tree({kA, {{.name = "a", .size = -1}}});
  EXPECT_FALSE(repo.read_tree(kA));
  repo.write_tree(
      {kA, {{.name = "a", .size = 3, .blob_id = kB}, {.name = "b", .size = 4, .blob_id = kA, .sha256 = "s"}}});
  auto tree = repo.read_tree(kA);
  ASSERT_TRUE(tree);
  EXPECT_EQ(tree->files[1].etag(), "s");
  std::ofstream(repo.folder() + "/trees/" + kB + ".json") << R"({"format_version": 1, "files": {"../x": {}}})";
  EXPECT_FALSE(repo.read_tree(kB));
}

TEST_F(HubCache, LocksKeepThreadsAndProcessesOut) {
  RepoCache repo(cache_, "org/name");
  std::atomic<int> inside{0}, worst{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 3; ++k) {
        FileLock lock = repo.lock_blob("e", [] {});
        worst = std::max<int>(worst, ++inside);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        --inside;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(worst, 1);
  auto lock = std::make_unique<FileLock>(repo.lock_blob("e", [] {}));
  struct Stop {};
  EXPECT_THROW(repo.lock_blob("e", [] { throw Stop{}; }), Stop);
  lock.reset();
  repo.lock_blob("e", [] { FAIL() << "it is free"; });
}

TEST_F(HubCache, ScanCountsAsTheHubsToolDoes) {
  RepoCache repo(cache_, "org/name"), other(cache_, "zed");
  repo.prepare(kA);
  repo.prepare(kB);
  put_blob(repo, "shared", "12345");
  put_blob(repo, "only-a", "123");
  add_file(repo, kA, "x", "shared");
  add_file(repo, kA, "sub/y", "only-a");
  add_file(repo, kB, "x", "shared");
  repo.write_ref("main", kB);
  repo.write_ref("v1", kB);
  std::ofstream(repo.blob_path("e.incomplete")) << "part";
  other.prepare(kA);
  fs::create_directories(cache_ + "/nonsense");
  fs::create_directories(cache_ + "/datasets--d/snapshots/" + std::string(kA));
  fs::create_symlink("../../blobs/gone", cache_ + "/datasets--d/snapshots/" + kA + "/x");

  CacheReport report = scan_cache(cache_);
  ASSERT_EQ(report.repos.size(), 2u);
  const CachedRepo& first = report.repos[0];
  EXPECT_EQ(first.id, "org/name");
  EXPECT_EQ(first.type, "model");
  EXPECT_EQ(first.files, 2);
  EXPECT_EQ(first.bytes, 8);
  ASSERT_EQ(first.revisions.size(), 2u);
  EXPECT_EQ(first.revisions[0].bytes, 8);
  EXPECT_THAT(first.revisions[0].refs, IsEmpty());
  EXPECT_THAT(first.revisions[1].refs, ElementsAre("main", "v1"));
  EXPECT_EQ(report.incomplete_bytes, 4);
  EXPECT_THAT(report.warnings, testing::UnorderedElementsAre(HasSubstr("nonsense"), HasSubstr("broken link")));
  EXPECT_TRUE(scan_cache(root_ + "/absent").repos.empty());
  EXPECT_EQ(short_size(999), "999.0");
  EXPECT_EQ(short_size(116'300), "116.3K");
  EXPECT_EQ(short_size(3'400'000'000), "3.4G");
}

TEST_F(HubCache, DeletingARevisionKeepsWhatOthersUse) {
  RepoCache repo(cache_, "org/name");
  repo.prepare(kA);
  repo.prepare(kB);
  put_blob(repo, "shared", "12345");
  put_blob(repo, "only-a", "123");
  add_file(repo, kA, "x", "shared");
  add_file(repo, kA, "y", "only-a");
  add_file(repo, kB, "x", "shared");
  repo.write_ref("refs/pr/1", kA);
  repo.write_ref("main", kB);
  auto plans = plan_deletion(scan_cache(cache_), cache_, {"org/name@aaaaaaa"});
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_EQ(plans[0].bytes, 3);
  EXPECT_EQ(delete_from_cache(plans[0]), 3);
  CacheReport after = scan_cache(cache_);
  EXPECT_THAT(after.warnings, IsEmpty());
  ASSERT_EQ(after.repos.size(), 1u);
  EXPECT_EQ(after.repos[0].revisions.size(), 1u);
  EXPECT_EQ(repo.file_size(kB, "x"), 5);
  EXPECT_FALSE(fs::exists(repo.folder() + "/refs/refs"));
  delete_from_cache(plan_deletion(after, cache_, {"org/name"})[0]);
  EXPECT_FALSE(fs::exists(repo.folder()));
  EXPECT_THAT(message_of([&] { plan_deletion(after, cache_, {"org/name@v9"}); }), HasSubstr("not in the cache"));
}

TEST_F(HubCache, ADownloadThatLinksMeanwhileKeepsItsBlob) {
  RepoCache repo(cache_, "org/name");
  repo.prepare(kA);
  put_blob(repo, "e", "123");
  add_file(repo, kA, "x", "e");
  auto plans = plan_deletion(scan_cache(cache_), cache_, {"org/name"});
  repo.prepare(kB);
  add_file(repo, kB, "x", "e");  // after the plan was made
  EXPECT_EQ(delete_from_cache(plans[0]), 0);
  EXPECT_EQ(repo.file_size(kB, "x"), 3);
}

class Resolve : public HubCache {
 protected:
  void SetUp() override {
    HubCache::SetUp();
    settings_.cache = cache_;
    settings_.offline = true;
    repo_ = std::make_unique<RepoCache>(cache_, "org/name");
    repo_->prepare(kA);
    put("config.json", "{}");
    put("tokenizer.json", "{}");
  }
  void put(const std::string& name, const std::string& text) {
    const std::string etag = "blob-" + std::to_string(count_++);
    put_blob(*repo_, etag, text);
    add_file(*repo_, kA, name, etag);
  }
  HubSettings settings_;
  std::unique_ptr<RepoCache> repo_;
  int count_ = 0;
};

TEST_F(Resolve, FoldersAreTakenAsTheyAre) {
  EXPECT_EQ(locate_model(root_, Need::kModel), root_);
  EXPECT_EQ(locate_model("no/such/folder/at/all", Need::kModel), "no/such/folder/at/all");
}

TEST_F(Resolve, AWholeSnapshotNeedsNoNetwork) {
  put("model.safetensors", "weights");
  EXPECT_FALSE(find_in_cache(settings_, {"org/name"}, Need::kModel)) << "no ref yet";
  repo_->write_ref("main", kA);
  EXPECT_EQ(find_or_download(settings_, {"org/name"}, Need::kModel), repo_->snapshot_path(kA));
  EXPECT_EQ(find_or_download(settings_, {"org/name", kA}, Need::kModel), repo_->snapshot_path(kA));
  EXPECT_THAT(message_of([&] {
                find_or_download(settings_, {"org/name", "v2"}, Need::kModel);
              }),
              HasSubstr("HF_HUB_OFFLINE"));
}

TEST_F(Resolve, APartialSnapshotIsNoModel) {
  repo_->write_ref("main", kA);
  auto missing = [&] { return message_of([&] { find_or_download(settings_, {"org/name"}, Need::kModel); }); };
  EXPECT_THAT(missing(), HasSubstr("model.safetensors is not in the cache"));
  EXPECT_EQ(find_or_download(settings_, {"org/name"}, Need::kConfig), repo_->snapshot_path(kA));
  put(kShardIndex, R"({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})");
  put("m-1.safetensors", "1");
  EXPECT_THAT(missing(), HasSubstr("m-2.safetensors is not"));
  put("m-2.safetensors", "2");
  EXPECT_EQ(find_or_download(settings_, {"org/name"}, Need::kModel), repo_->snapshot_path(kA));
  repo_->write_tree(
      {kA, {{.name = "config.json", .size = 2, .blob_id = kA}, {.name = "m-2.safetensors", .size = 9, .blob_id = kA}}});
  EXPECT_THAT(missing(), HasSubstr("m-2.safetensors is not")) << "its size is not the one of the list";
}

}  // namespace
}  // namespace tessera::hub
