#include "hub/kernel_signature.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>

#include "core/error.h"
#include "hub/hub_id.h"
#include "hub/json_reader.h"
#include "hub/kernel_metadata.h"

namespace tessera::hub {

namespace {

template <class T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* p) const { kFree(p); }
};
using Certificate = std::unique_ptr<X509, Freed<X509, X509_free>>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, Freed<EVP_MD_CTX, EVP_MD_CTX_free>>;
using ObjectId = std::unique_ptr<ASN1_OBJECT, Freed<ASN1_OBJECT, ASN1_OBJECT_free>>;
using Usage = std::unique_ptr<EXTENDED_KEY_USAGE, Freed<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>>;

// Fulcio's extensions: a DER UTF8String each.
constexpr const char* kBuildSigner = "1.3.6.1.4.1.57264.1.9";
constexpr const char* kSourceRepository = "1.3.6.1.4.1.57264.1.12";

std::string bytes_of(const JsonReader& in, const char* key, const std::string& where) {
  std::optional<std::string> bytes = from_base64(in.string(key));
  if (!bytes || bytes->empty()) fail(ErrorCode::kCorrupt, "{}: \"{}\" is no base64", where, key);
  return *std::move(bytes);
}

const unsigned char* raw(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

std::string sha256(std::string_view text) {
  std::string hash(32, '\0');
  unsigned size = 0;
  const bool done = EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(hash.data()), &size,
                               EVP_sha256(), nullptr) == 1;
  TS_CHECK(done && size == hash.size());
  return hash;
}

// The leaf: bundles since 0.3 have it alone, older ones a chain that begins with it.
Certificate leaf(const JsonReader& material, const std::string& where) {
  std::string der;
  if (const Json* alone = material.find("certificate")) {
    der = bytes_of(JsonReader(*alone, where), "rawBytes", where);
  } else if (const Json* chain = material.find("x509CertificateChain")) {
    const Json* list = JsonReader(*chain, where).list("certificates");
    if (!list || list->empty()) fail(ErrorCode::kCorrupt, "{}: the chain has no certificate", where);
    der = bytes_of(JsonReader(list->front(), where), "rawBytes", where);
  } else {
    fail(ErrorCode::kCorrupt, "{}: has no certificate", where);
  }
  const unsigned char* at = raw(der);
  Certificate certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  if (!certificate || at != raw(der) + der.size()) fail(ErrorCode::kCorrupt, "{}: its certificate is none", where);
  return certificate;
}

bool may_sign_code(X509* certificate) {
  const Usage usage(
      static_cast<EXTENDED_KEY_USAGE*>(X509_get_ext_d2i(certificate, NID_ext_key_usage, nullptr, nullptr)));
  for (int i = 0; usage && i < sk_ASN1_OBJECT_num(usage.get()); ++i)
    if (OBJ_obj2nid(sk_ASN1_OBJECT_value(usage.get(), i)) == NID_code_sign) return true;
  return false;
}

std::string extension_text(X509* certificate, const char* id) {
  const ObjectId object(OBJ_txt2obj(id, 1));
  const int at = object ? X509_get_ext_by_OBJ(certificate, object.get(), -1) : -1;
  const ASN1_OCTET_STRING* value = at < 0 ? nullptr : X509_EXTENSION_get_data(X509_get_ext(certificate, at));
  if (!value) return "";
  const unsigned char* der = ASN1_STRING_get0_data(value);
  const std::unique_ptr<ASN1_UTF8STRING, Freed<ASN1_UTF8STRING, ASN1_UTF8STRING_free>> text(
      d2i_ASN1_UTF8STRING(nullptr, &der, ASN1_STRING_length(value)));
  if (!text) return "";
  return shown(std::string_view(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text.get())),
                                static_cast<size_t>(ASN1_STRING_length(text.get()))));
}

bool signature_fits(X509* certificate, std::string_view signature, std::string_view text) {
  EVP_PKEY* key = X509_get0_pubkey(certificate);
  const DigestContext context(EVP_MD_CTX_new());
  if (!key || !context) return false;
  const EVP_MD* md = EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519 ? nullptr : EVP_sha256();
  return EVP_DigestVerifyInit(context.get(), nullptr, md, nullptr, key) == 1 &&
         EVP_DigestVerify(context.get(), raw(signature), signature.size(), raw(text), text.size()) == 1;
}

}  // namespace

KernelSigner check_kernel_signature(std::string_view bundle, std::string_view metadata, const std::string& where) {
  const Json object = parse_foreign_json(bundle, where, kMaxSignatureBytes);
  const JsonReader in(object, where);
  const std::string type = in.string("mediaType");
  if (!type.starts_with("application/vnd.dev.sigstore.bundle"))
    fail(ErrorCode::kCorrupt, "{}: its mediaType is '{}'; expected a bundle of sigstore", where, shown(type));
  const JsonReader message(in.at("messageSignature"), where), digest(message.at("messageDigest"), where);
  if (const std::string algorithm = digest.string("algorithm"); algorithm != "SHA2_256")
    fail(ErrorCode::kCorrupt, "{}: signs a digest of '{}'; expected SHA2_256", where, shown(algorithm));
  const Certificate certificate = leaf(JsonReader(in.at("verificationMaterial"), where), where);
  if (bytes_of(digest, "digest", where) != sha256(metadata))
    fail(ErrorCode::kCorrupt, "{}: refused, it signs another {}", where, kMetadataFile);
  if (!signature_fits(certificate.get(), bytes_of(message, "signature", where), metadata))
    fail(ErrorCode::kCorrupt, "{}: refused, wrong signature: it is not by the key of its certificate", where);
  if (!may_sign_code(certificate.get()))
    fail(ErrorCode::kCorrupt, "{}: refused, its certificate is not for signing code", where);
  return {extension_text(certificate.get(), kBuildSigner), extension_text(certificate.get(), kSourceRepository)};
}

}  // namespace tessera::hub
