#include "hub/kernel_signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include "core/error.h"
#include "core/json.h"
#include "hub/kernel_metadata.h"

namespace tessera::hub {
namespace {

using testing::HasSubstr;

// Signs as a build workflow does, with a certificate of its own making.
class Signer {
 public:
  explicit Signer(const char* usage = "codeSigning") : key_(EVP_EC_gen("P-256")), certificate_(X509_new()) {
    X509_set_version(certificate_, 2);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), 600);
    X509_set_pubkey(certificate_, key_);
    add("extendedKeyUsage", usage);
    add("1.3.6.1.4.1.57264.1.9", "ASN1:UTF8String:https://host/org/repo/build.yaml@refs/heads/main");
    add("1.3.6.1.4.1.57264.1.12", "ASN1:UTF8String:https://host/org/repo");
    X509_sign(certificate_, key_, EVP_sha256());
  }
  ~Signer() {
    EVP_PKEY_free(key_);
    X509_free(certificate_);
  }
  Signer(const Signer&) = delete;

  Json bundle(const std::string& metadata) const {
    std::string hash(32, '\0'), signature(200, '\0');
    EVP_Digest(metadata.data(), metadata.size(), bytes(hash), nullptr, EVP_sha256(), nullptr);
    EVP_MD_CTX* context = EVP_MD_CTX_new();
    size_t size = signature.size();
    EVP_DigestSignInit(context, nullptr, EVP_sha256(), nullptr, key_);
    EVP_DigestSign(context, bytes(signature), &size, reinterpret_cast<const unsigned char*>(metadata.data()),
                   metadata.size());
    EVP_MD_CTX_free(context);
    signature.resize(size);
    unsigned char* der = nullptr;
    const int length = i2d_X509(certificate_, &der);
    const std::string certificate(reinterpret_cast<char*>(der), static_cast<size_t>(length));
    OPENSSL_free(der);
    return {{"mediaType", "application/vnd.dev.sigstore.bundle.v0.3+json"},
            {"verificationMaterial", {{"certificate", {{"rawBytes", to_base64(certificate)}}}}},
            {"messageSignature",
             {{"messageDigest", {{"algorithm", "SHA2_256"}, {"digest", to_base64(hash)}}},
              {"signature", to_base64(signature)}}}};
  }

 private:
  static unsigned char* bytes(std::string& s) { return reinterpret_cast<unsigned char*>(s.data()); }
  void add(const char* name, const char* value) {
    X509_EXTENSION* extension = X509V3_EXT_conf(nullptr, nullptr, name, value);
    if (!extension) fail(ErrorCode::kIo, "no extension {}", name);
    X509_add_ext(certificate_, extension, -1);
    X509_EXTENSION_free(extension);
  }
  EVP_PKEY* key_;
  X509* certificate_;
};

std::string refusal(const Json& bundle, const std::string& metadata) {
  try {
    check_kernel_signature(bundle.dump(), metadata, "bundle");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
    return e.what();
  }
  return "";
}

TEST(KernelSignature, HoldsAndNamesTheSigner) {
  const Signer signer;
  const std::string metadata = R"({"id": "x"})";
  Json bundle = signer.bundle(metadata);
  const KernelSigner found = check_kernel_signature(bundle.dump(), metadata, "bundle");
  EXPECT_EQ(found.workflow, "https://host/org/repo/build.yaml@refs/heads/main");
  EXPECT_EQ(found.repository, "https://host/org/repo");
  // Older bundles have a chain.
  Json& material = bundle["verificationMaterial"];
  material = {{"x509CertificateChain", {{"certificates", Json::array({material["certificate"]})}}}};
  EXPECT_EQ(refusal(bundle, metadata), "");
}

TEST(KernelSignature, EveryWrongOneIsRefusedByName) {
  const Signer signer, other, server("serverAuth");
  const std::string metadata = R"({"id": "x"})";
  const Json good = signer.bundle(metadata);
  EXPECT_THAT(refusal(good, metadata + " "), HasSubstr("it signs another metadata.json"));
  Json bad = good;
  bad["verificationMaterial"] = other.bundle(metadata)["verificationMaterial"];
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("wrong signature: it is not by the key of its certificate"));
  bad = good;
  bad["messageSignature"]["signature"] = to_base64("not one");
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("wrong signature"));
  EXPECT_THAT(refusal(server.bundle(metadata), metadata), HasSubstr("not for signing code"));
  bad = good;
  bad["messageSignature"]["messageDigest"]["algorithm"] = "SHA1";
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("expected SHA2_256"));
  bad = good;
  bad["verificationMaterial"] = Json::object();
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("has no certificate"));
  bad["verificationMaterial"] = {{"certificate", {{"rawBytes", to_base64("none")}}}};
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("its certificate is none"));
  bad = good;
  bad["mediaType"] = "text/plain";
  EXPECT_THAT(refusal(bad, metadata), HasSubstr("expected a bundle of sigstore"));
  EXPECT_THAT(refusal(Json::object(), metadata), HasSubstr("mediaType"));
}

}  // namespace
}  // namespace tessera::hub
