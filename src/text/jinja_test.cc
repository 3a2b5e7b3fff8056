#include "text/jinja.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "text/jinja_property.h"

namespace tessera {
namespace {

std::string render(std::string_view source, const OrderedJson& variables = OrderedJson::object(),
                   const jinja::RenderOptions& options = {}) {
  return jinja::Template::parse(source, "t").render(variables, options);
}

struct Failure {
  ErrorCode code = ErrorCode::kCancelled;
  std::string message;
};

Failure failure(std::string_view source, const OrderedJson& variables = OrderedJson::object(),
                const jinja::RenderOptions& options = {}) {
  try {
    return {ErrorCode::kCancelled, "rendered: " + render(source, variables, options)};
  } catch (const Error& e) {
    return {e.code(), e.what()};
  }
}

OrderedJson read_cases(const std::string& name) {
  return OrderedJson::parse(read_text_file(std::string(TESSERA_TEST_DATA "/jinja/") + name));
}

jinja::RenderOptions options_of(const OrderedJson& cases) {
  jinja::RenderOptions options;
  std::tm now{};
  now.tm_year = cases["now"][0].get<int>() - 1900;
  now.tm_mon = cases["now"][1].get<int>() - 1;
  now.tm_mday = cases["now"][2];
  now.tm_hour = cases["now"][3];
  now.tm_min = cases["now"][4];
  now.tm_sec = cases["now"][5];
  options.now = now;
  return options;
}

// Every statement, filter, test, method and operator, as jinja2 renders it; made by tools/compare_jinja.py golden.
TEST(JinjaGolden, Snippets) {
  OrderedJson cases = read_cases("snippets.json");
  jinja::RenderOptions options = options_of(cases);
  ASSERT_GT(cases["cases"].size(), 1000u);
  for (const OrderedJson& c : cases["cases"]) {
    std::string source = c[0];
    try {
      std::string text = render(source, cases["variables"], options);
      EXPECT_EQ(c[1], "text") << source << "\nrenders " << text;
      EXPECT_EQ(text, c[2].get<std::string>()) << source;
    } catch (const Error& e) {
      EXPECT_NE(c[1], "text") << source << "\n" << e.what();
      EXPECT_EQ(e.code(), c[1] == "syntax" ? ErrorCode::kCorrupt : ErrorCode::kInvalidArgument) << source << "\n"
                                                                                                << e.what();
    }
  }
}

TEST(Jinja, ErrorsNameTemplateAndLine) {
  EXPECT_EQ(failure("a\n{{ x").code, ErrorCode::kCorrupt);
  EXPECT_EQ(failure("a\n\n{% endif %}").message, "t:3: Encountered unknown tag 'endif'.");
  EXPECT_EQ(failure("a\n{{ raise_exception('no ' ~ 1) }}").message, "t:2: no 1");
  EXPECT_EQ(failure("{{ 1 }}\n\n{{ a.b }}").message, "t:3: 'a' is undefined");
  EXPECT_EQ(failure("{{ m.zz.y }}", {{"m", {{"a", 1}}}}).message, "t:1: 'dict object' has no attribute 'zz'");
  EXPECT_EQ(failure("{{ a.b }}").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure("\n{% include 'x' %}").code, ErrorCode::kUnsupported);
  EXPECT_EQ(failure("{% block a %}{% endblock %}").message, "t:1: {% block %} is not supported in a chat template");
  EXPECT_EQ(failure("\xff").code, ErrorCode::kCorrupt);
  EXPECT_EQ(failure("{{ a }}", {{"a", "\xff"}}).code, ErrorCode::kInvalidArgument);
}

TEST(Jinja, IntegersOverflowAsErrors) {
  EXPECT_EQ(render("{{ 2 ** 126 }}"), "85070591730234615865843651857942052864");
  EXPECT_EQ(failure("{{ 2 ** 127 }}").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure("{{ (2 ** 126) * 4 }}").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure("{{ -(2 ** 126) - 2 ** 126 - 1 }}").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(failure("{{ 170141183460469231731687303715884105728 }}").code, ErrorCode::kCorrupt);
  EXPECT_EQ(failure("{{ ('9' * 40) | int }}").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(render("{{ 7 // -1 }} {{ 7 % -1 }} {{ 0 ** 99999999999 }} {{ 1 ** 99999999999 }}"), "-7 0 0 1");
  EXPECT_EQ(failure("{{ (-1) ** 99999999999999 * 3 ** 99999999999999 }}").code, ErrorCode::kInvalidArgument);
}

TEST(Jinja, LimitsEndHostileTemplates) {
  auto refused = [](const std::string& source) {
    Failure f = failure(source);
    EXPECT_EQ(f.code, ErrorCode::kInvalidArgument) << source << "\n" << f.message.substr(0, 200);
    return f.message;
  };
  std::string loops = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
  EXPECT_NE(refused(loops).find("steps"), std::string::npos);
  refused("{{ 'a' * 1000000000000 }}");
  refused("{{ [0] * 1000000000000 }}");
  refused("{{ 'a'.ljust(9999999999) }}");
  refused("{{ '%9999999999d' % 1 }}");
  refused("{{ '{:9999999999}'.format(1) }}");
  refused("{{ '{:09999999,}'.format(1) | length * '{:099999999,}'.format(1) }}");
  refused("{{ '%.999999999f' % 1.5 }}");
  refused("{{ [1] | batch(9999999999999, 0) | list }}");
  refused("{{ '\\t'.expandtabs(9999999999999) }}");
  refused("{{ [{}] | tojson(indent=1000000000) }}");
  refused("{{ ('a' * 50000000) ~ ('a' * 50000000) }}");
  refused("{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}");
  refused("{% set ns = namespace(x=[0]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
  refused("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}");
  refused("{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}");
  refused(
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [ns.x] "
      "}}");
  refused(
      "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}");
  refused(
      "{% set ns = namespace(x=()) %}{% for i in range(5000) %}{% set ns.x = (ns.x,) %}{% endfor %}{{ {ns.x: 1} }}");
  refused(
      "{% set ns = namespace(x=[1]) %}{% for i in range(5000) %}{% set ns.x = ns.x | map('string') %}{% endfor %}{{ "
      "ns.x | list }}");
  refused("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}");
  EXPECT_EQ(failure(std::string(10000, '(')).message, "rendered: " + std::string(10000, '('));
  EXPECT_EQ(failure("{{ " + std::string(10000, '(') + "1").code, ErrorCode::kCorrupt);
  std::string chain = "{{ 1";
  for (int i = 0; i < 10000; ++i) chain += " + 1";
  EXPECT_EQ(failure(chain + " }}").code, ErrorCode::kCorrupt);
  std::string ifs;
  for (int i = 0; i < 10000; ++i) ifs += "{% if 1 %}";
  EXPECT_EQ(failure(ifs).code, ErrorCode::kCorrupt);
  EXPECT_EQ(failure(std::string((1 << 20) + 1, 'a')).code, ErrorCode::kCorrupt);
}

TEST(Jinja, DeepVariablesAreAnError) {
  OrderedJson deep = 1;
  for (int i = 0; i < 100000; ++i) {
    OrderedJson outer = OrderedJson::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  OrderedJson variables = OrderedJson::object();
  variables["x"] = std::move(deep);
  EXPECT_EQ(failure("{{ x }}", variables).code, ErrorCode::kInvalidArgument);
}

// Marks: 'i' for text that came from variables, '.' for the template's own.
std::string marks(std::string_view source, const OrderedJson& variables,
                  const OrderedJson& own = OrderedJson::object()) {
  jinja::RenderOptions options;
  options.trusted_values = {{"role", "user"}};
  std::vector<jinja::Variable> all;
  for (const auto& item : variables.items()) all.push_back({item.key(), &item.value()});
  for (const auto& item : own.items()) all.push_back({item.key(), &item.value(), true});
  jinja::Text text = jinja::Template::parse(source, "t").render(all, options);
  std::string out;
  size_t begin = 0;
  for (const jinja::Text::Run& run : text.runs()) {
    bool input = (run.marks & jinja::kFromInput) != 0;
    bool generated = (run.marks & jinja::kGenerated) != 0;
    out.append(run.end - begin, input ? (generated ? 'I' : 'i') : (generated ? 'g' : '.'));
    begin = run.end;
  }
  return out;
}

TEST(JinjaMarks, FollowTextThroughOperations) {
  OrderedJson v = {{"x", "abc"}, {"d", {{"k", "v"}}}, {"n", 12}, {"m", {{"role", "user"}, {"name", "user"}}}};
  EXPECT_EQ(marks("<{{ x }}>", v), ".iii.");
  EXPECT_EQ(marks("{{ '<' + x + '>' ~ x }}", v), ".iii.iii");
  EXPECT_EQ(marks("{{ ('<' + x + '>')[::-1] }}", v), ".iii.");
  EXPECT_EQ(marks("{{ ('<' + x + '>')[1:3] }}", v), "ii");
  EXPECT_EQ(marks("{{ ('<' + x) | upper | trim }}", v), ".iii");
  EXPECT_EQ(marks("{{ 'a-b'.replace('-', x) }}", v), ".iii.");
  EXPECT_EQ(marks("{{ x.replace('b', '--') }}", v), "i..i");
  EXPECT_EQ(marks("{{ x.split('b') | join('<>') }}", v), "i..i");
  EXPECT_EQ(marks("{{ d | tojson }}", v), "..i....i..");  // {"k": "v"}
  EXPECT_EQ(marks("{{ d }}", v), "..i....i..");
  EXPECT_EQ(marks("{{ '%s|%5s' % (x, x) }}", v), "iii...iii");
  EXPECT_EQ(marks("{{ '{}|{:>5}'.format(x, x) }}", v), "iii...iii");
  EXPECT_EQ(marks("{% set y %}<{{ x }}>{% endset %}{{ y | indent(2, true) }}", v), "...iii.");
  EXPECT_EQ(marks("{% macro m(a) %}({{ a }}){% endmacro %}{{ m(x) }}", v), ".iii.");
  EXPECT_EQ(marks("{{ n }}{{ x | length }}", v), "...");
  EXPECT_EQ(marks("{{ m.role }}{{ m.name }}", v), "....iiii");  // a known role is as good as the template's own
  EXPECT_EQ(marks("{{ bos }}{{ x }}", v, {{"bos", "<s>"}}), "...iii");
  EXPECT_EQ(marks("{% generation %}<{{ x }}{% endgeneration %}>", v), "gIII.");
  EXPECT_EQ(marks("{% for c in x %}{{ c }},{% endfor %}", v), "i.i.i.");
}

TEST(Jinja, TemplatesAreSharedBetweenRenders) {
  jinja::Template t = jinja::Template::parse("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + x %}{{ ns.n }}", "t");
  EXPECT_EQ(t.render({{"x", 1}}), "1");
  EXPECT_EQ(t.render({{"x", 2}}), "2");
}

TEST(Jinja, ClockIsTheMachinesUnlessGiven) {
  std::string year = render("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(year, "2024");
}

// The fuzz target's property on mutations of the snippets.
TEST(JinjaProperty, AnyBytesRenderOrFailCleanly) {
  OrderedJson cases = read_cases("snippets.json");
  std::mt19937 rng(7);
  auto pick = [&](size_t n) { return static_cast<size_t>(rng() % n); };
  for (int round = 0; round < 4000; ++round) {
    std::string source = cases["cases"][pick(cases["cases"].size())][0];
    for (size_t edits = pick(4); edits > 0; --edits) {
      std::string other = cases["cases"][pick(cases["cases"].size())][0];
      size_t at = pick(source.size() + 1);
      switch (pick(4)) {
        case 0:
          source.insert(at, other.substr(pick(other.size() + 1), pick(12)));
          break;
        case 1:
          source.erase(at, pick(8));
          break;
        case 2:
          source.insert(at, 1, static_cast<char>(rng()));
          break;
        default:
          source = source.substr(0, at) + other;
      }
    }
    EXPECT_EQ(check_template(source), "") << source;
  }
}

}  // namespace
}  // namespace tessera
