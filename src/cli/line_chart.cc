#include "cli/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tessera::cli {

namespace {

constexpr double kWidth = 720, kHeight = 440, kLeft = 80, kRight = 20, kTop = 50, kBottom = 60;
constexpr const char* kColours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd"};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

// A logarithmic axis of the page from `from` to `to`.
struct Axis {
  double low, high, from, to;
  double at(double value) const {
    const double part = high > low ? std::log(value / low) / std::log(high / low) : 0.5;
    return from + part * (to - from);
  }
};

std::string text_at(double x, double y, const char* anchor, std::string_view words, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     escaped(words));
}

std::string grid(const LineChart& chart, const Axis& x, const Axis& y) {
  std::string out;
  for (const double value : chart.x) {
    const double at = x.at(value);
    out += fmt::format("<path d=\"M{0:.1f} {1}V{2}\" stroke=\"#ddd\"/>\n", at, kTop, kHeight - kBottom);
    out += text_at(at, kHeight - kBottom + 20, "middle", fmt::format("{:g}", value));
  }
  for (double power = std::pow(10, std::floor(std::log10(y.low))); power <= y.high; power *= 10) {
    for (const int digit : {1, 2, 5}) {
      const double value = power * digit;
      if (value < y.low || value > y.high) continue;
      out += fmt::format("<path d=\"M{0} {1:.1f}H{2}\" stroke=\"#ddd\"/>\n", kLeft, y.at(value), kWidth - kRight);
      out += text_at(kLeft - 8, y.at(value) + 4, "end", fmt::format("{:g}", value));
    }
  }
  return out;
}

std::string line(const LineChart& chart, size_t which, const Axis& x, const Axis& y) {
  const ChartLine& l = chart.lines[which];
  const char* colour = kColours[which % std::size(kColours)];
  std::string path, dots;
  for (size_t i = 0; i < chart.x.size(); ++i) {
    path += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", x.at(chart.x[i]), y.at(l.values[i]));
    dots += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x.at(chart.x[i]),
                        y.at(l.values[i]), colour);
  }
  const double legend = kTop + 18 + 18 * static_cast<double>(which);
  return fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", path, colour) + dots +
         fmt::format("<path d=\"M{} {}h24\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", kLeft + 12, legend - 4, colour) +
         text_at(kLeft + 42, legend, "start", l.name);
}

}  // namespace

std::string svg_text(const LineChart& chart) {
  TS_CHECK(!chart.x.empty() && !chart.lines.empty());
  double low = chart.lines[0].values.at(0), high = low;
  for (const ChartLine& l : chart.lines) {
    TS_CHECK(l.values.size() == chart.x.size());
    low = std::min(low, *std::ranges::min_element(l.values));
    high = std::max(high, *std::ranges::max_element(l.values));
  }
  TS_CHECK(low > 0 && chart.x.front() > 0);
  const Axis x{chart.x.front(), chart.x.back(), kLeft + 10, kWidth - kRight - 10};
  const Axis y{low / 1.2, high * 1.2, kHeight - kBottom, kTop};
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  out += text_at(kWidth / 2, 26, "middle", chart.title, " font-size=\"15\"");
  out += grid(chart, x, y);
  out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>\n", kLeft,
                     kTop, kWidth - kLeft - kRight, kHeight - kTop - kBottom);
  for (size_t i = 0; i < chart.lines.size(); ++i) out += line(chart, i, x, y);
  out += text_at((kLeft + kWidth - kRight) / 2, kHeight - 16, "middle", chart.x_label);
  out += text_at(0, 0, "middle", chart.y_label,
                 fmt::format(" transform=\"translate(20 {}) rotate(-90)\"", (kTop + kHeight - kBottom) / 2).c_str());
  return out + "</svg>\n";
}

}  // namespace tessera::cli
