// Lines over a doubling axis, as an SVG that needs no other program.
#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

struct ChartLine {
  std::string name;
  std::vector<double> values;  // one for each x, above 0
};

struct LineChart {
  std::string title, x_label, y_label;
  std::vector<double> x;  // above 0, growing
  std::vector<ChartLine> lines;
};

// Both axes logarithmic: x in powers of 2, y in powers of 10. Pure.
std::string svg_text(const LineChart& chart);

}  // namespace tessera::cli
