// Tool declarations as gpt-oss was trained to read them: JSON schemas written as TypeScript types. The layout, with its
// odd corners (unions in arrays without brackets, a string default unescaped), is the openai-harmony library's.
#include <algorithm>
#include <set>

#include "text/harmony.h"
#include "text/json_text.h"

namespace tessera {
namespace {

const OrderedJson* member(const OrderedJson& schema, const char* key) {
  if (!schema.is_object()) return nullptr;
  const auto it = schema.find(key);
  return it == schema.end() ? nullptr : &*it;
}

const std::string* string_member(const OrderedJson& schema, const char* key) {
  const OrderedJson* value = member(schema, key);
  return value != nullptr && value->is_string() ? value->get_ptr<const std::string*>() : nullptr;
}

const OrderedJson* array_member(const OrderedJson& schema, const char* key) {
  const OrderedJson* value = member(schema, key);
  return value != nullptr && value->is_array() ? value : nullptr;
}

enum class EnumDefault { kPlain, kJson };

// "default: ..." or nothing. A string is quoted but not escaped; that of an enumeration is plain or JSON.
std::string default_note(const OrderedJson& schema, EnumDefault style = EnumDefault::kPlain) {
  const OrderedJson* value = member(schema, "default");
  if (value == nullptr) return {};
  if (value->is_string()) {
    const OrderedJson* names = array_member(schema, "enum");
    const bool is_enum = names != nullptr && !names->empty();
    const std::string& text = value->get_ref<const std::string&>();
    if (!is_enum) return "default: \"" + text + "\"";
    if (style == EnumDefault::kPlain) return "default: " + text;
  }
  return "default: " + json_text(*value, JsonStyle::kCompact);
}

std::string type_of(const OrderedJson& schema, const std::string& indent);

std::string nullable_type_of(const OrderedJson& schema, const std::string& indent) {
  std::string type = type_of(schema, indent);
  const OrderedJson* nullable = member(schema, "nullable");
  const bool is_nullable = nullable != nullptr && nullable->is_boolean() && nullable->get<bool>();
  if (is_nullable && type.find("null") == std::string::npos) type += " | null";
  return type;
}

std::string note_of(const std::string* description, const std::string& default_text) {
  if (description == nullptr && default_text.empty()) return {};
  std::string note = " // ";
  if (description != nullptr) note += *description;
  if (description != nullptr && !default_text.empty()) note += " ";
  return note + default_text;
}

// A union that is not the value of a property: each variant on its own line.
std::string union_type(const OrderedJson& variants, const std::string& indent) {
  std::string out;
  for (const OrderedJson& variant : variants) {
    out += "\n" + indent + " | " + nullable_type_of(variant, indent + "   ");
    out += note_of(string_member(variant, "description"), default_note(variant, EnumDefault::kJson));
  }
  return out;
}

std::string union_property(const std::string& name, const OrderedJson& schema, const OrderedJson& variants,
                           const std::string& indent) {
  std::string out;
  const std::string* description = string_member(schema, "description");
  const std::string* first = variants.empty() ? nullptr : string_member(variants.front(), "description");
  const bool above = description != nullptr && !(first != nullptr && *first == *description);
  if (above) out += indent + "// " + *description + "\n";
  const std::string default_text = default_note(schema);
  if (!default_text.empty()) out += indent + "// " + default_text + "\n";
  out += indent + name + ":\n";
  for (size_t i = 0; i < variants.size(); ++i) {
    const OrderedJson& variant = variants[i];
    const std::string* note = string_member(variant, "description");
    if ((i == 0 && above) || (note != nullptr && description != nullptr && *note == *description)) note = nullptr;
    out += indent + " | " + nullable_type_of(variant, indent + "   ") + note_of(note, default_note(variant)) + "\n";
  }
  return out + indent + ",\n";
}

std::string property(const std::string& key, const OrderedJson& schema, bool required, const std::string& indent) {
  std::string out;
  if (const std::string* title = string_member(schema, "title")) {
    out += indent + "// " + *title + "\n" + indent + "//\n";
  }
  const OrderedJson* one_of = member(schema, "oneOf");
  const std::string* description = string_member(schema, "description");
  if (one_of == nullptr && description != nullptr) out += indent + "// " + *description + "\n";
  const OrderedJson* examples = array_member(schema, "examples");
  if (examples != nullptr && !examples->empty()) {
    out += indent + "// Examples:\n";
    for (const OrderedJson& example : *examples) {
      if (example.is_string()) out += indent + "// - \"" + example.get_ref<const std::string&>() + "\"\n";
    }
  }
  const std::string name = key + (required ? "" : "?");
  if (one_of != nullptr && one_of->is_array()) return out + union_property(name, schema, *one_of, indent);
  out += indent + name + ": " + nullable_type_of(schema, indent + "    ") + ",";
  if (one_of == nullptr) {
    const std::string default_text = default_note(schema);
    if (!default_text.empty()) out += " // " + default_text;
  }
  return out + "\n";
}

std::string object_type(const OrderedJson& schema, const std::string& indent) {
  std::string out;
  if (const std::string* description = string_member(schema, "description")) {
    out += indent + "// " + *description + "\n";
  }
  out += "{\n";
  const OrderedJson* properties = member(schema, "properties");
  if (properties != nullptr && properties->is_object()) {
    std::set<std::string> required;
    if (const OrderedJson* names = array_member(schema, "required")) {
      for (const OrderedJson& name : *names) {
        if (name.is_string()) required.insert(name.get<std::string>());
      }
    }
    for (auto it = properties->begin(); it != properties->end(); ++it) {
      out += property(it.key(), it.value(), required.count(it.key()) > 0, indent);
    }
  }
  return out + indent + "}";
}

std::string string_type(const OrderedJson& schema) {
  std::string out;
  if (const OrderedJson* names = array_member(schema, "enum")) {
    for (const OrderedJson& name : *names) {
      if (!name.is_string()) continue;
      if (!out.empty()) out += " | ";
      out += "\"" + name.get_ref<const std::string&>() + "\"";
    }
  }
  return out.empty() ? "string" : out;
}

std::string type_of(const OrderedJson& schema, const std::string& indent) {
  if (const OrderedJson* variants = array_member(schema, "oneOf")) return union_type(*variants, indent);
  if (const OrderedJson* types = array_member(schema, "type")) {
    std::string out;
    bool first = true;
    for (const OrderedJson& type : *types) {
      if (!type.is_string()) continue;
      const std::string& name = type.get_ref<const std::string&>();
      if (!first) out += " | ";
      out += name == "integer" ? "number" : name;
      first = false;
    }
    if (!first) return out;
  }
  const std::string* type = string_member(schema, "type");
  if (type == nullptr) return "any";
  if (*type == "object") return object_type(schema, indent);
  if (*type == "string") return string_type(schema);
  if (*type == "number" || *type == "integer") return "number";
  if (*type == "boolean") return "boolean";
  if (*type == "array") {
    const OrderedJson* items = member(schema, "items");
    return items == nullptr ? "Array<any>" : type_of(*items, indent) + "[]";
  }
  return "any";
}

// Calls `each` for every line: split at \n, a \r before it dropped, no empty line after the last \n.
template <class Each>
void for_lines(std::string_view text, const Each& each) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (end != std::string_view::npos && line.ends_with('\r')) line.remove_suffix(1);
    each(std::string(line));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

std::string namespace_section(const HarmonyNamespace& space) {
  std::string out = "## " + space.name + "\n";
  const std::string comment = space.tools.empty() ? "" : "// ";
  for_lines(space.description, [&](const std::string& line) { out += "\n" + comment + line; });
  if (space.tools.empty()) return out;
  out += "\nnamespace " + space.name + " {\n";
  for (const HarmonyTool& tool : space.tools) {
    for_lines(tool.description, [&](const std::string& line) { out += "\n// " + line; });
    out += "\ntype " + tool.name + " = (";
    if (!tool.parameters.is_null()) {
      check_json_depth(tool.parameters, "the parameters of tool " + tool.name);
      out += "_: " + harmony_typescript(tool.parameters);
    }
    out += ") => any;\n";
  }
  return out + "\n} // namespace " + space.name;
}

}  // namespace

std::string harmony_typescript(const OrderedJson& schema) {
  check_json_depth(schema, "a JSON schema");
  return type_of(schema, "");
}

std::string harmony_tools_section(const std::vector<HarmonyNamespace>& namespaces) {
  std::vector<const HarmonyNamespace*> sorted;
  for (const HarmonyNamespace& space : namespaces) sorted.push_back(&space);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const HarmonyNamespace* a, const HarmonyNamespace* b) { return a->name < b->name; });
  std::string out = "# Tools";
  for (const HarmonyNamespace* space : sorted) out += "\n\n" + namespace_section(*space);
  return out;
}

}  // namespace tessera
