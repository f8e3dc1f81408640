#include "ir/kv_pages.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace prism::ir {

Result<KvBits> KvBits::parse(std::string_view text) {
  const auto digit = [&](size_t i) { return text[i] - '0'; };
  const auto known = [](int bits) { return bits >= rt::kKvLeastBits && bits <= rt::kKvMostBits && bits != 7; };  // 7 would need three planes
  if (text.size() != 4 || text[0] != 'k' || text[2] != 'v' || !known(digit(1)) || !known(digit(3)))
    return error("bits of keys and values as in k4v3, each 2 to 6 or 8, in place of '", text.substr(0, 40), "'");
  if (digit(1) < digit(3)) return error("at least as many bits for keys as for values, in place of '", text, "'");
  return KvBits{uint8_t(digit(1)), uint8_t(digit(3))};
}

rt::KvPlane kv_plane(const Type& kv, bool keys) {
  return {*kv.dim(1).constant(), *kv.dim(2).constant(), int64_t(info(kv.dtype).bytes), keys ? kv.key_bits : kv.value_bits, keys};
}

namespace {

/// Takes the mean of each channel, in 8 bits, from the page; it is returned.
std::vector<float> take_means(float* page, int64_t stride, int64_t size) {
  std::vector<float> means(size);
  float most = 0;
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t p = 0; p < rt::kKvPage; ++p) sum += page[p * stride + i];
    means[i] = float(sum / rt::kKvPage);
    most = std::max(most, std::abs(means[i]));
  }
  const float base = most / 127;
  for (int64_t i = 0; i < size; ++i) {
    means[i] = base > 0 ? base * std::nearbyint(means[i] / base) : 0;
    for (int64_t p = 0; p < rt::kKvPage; ++p) page[p * stride + i] -= means[i];
  }
  return means;
}

int code(float x, float scale, int most) { return std::clamp(int(std::nearbyint(x / scale + float(most) / 2)), 0, most); }

/// The scale of values x[0, n) that leaves the least squared error, of the clips that are tried.
float best_scale(const float* x, int64_t n, int most) {
  float largest = 0, best = 0, gained = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
  if (largest == 0) return 0;
  for (float clip : kKvClips) {
    const float scale = clip * largest / (float(most) / 2);
    double products = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double level = code(x[i], scale, most) - double(most) / 2;
      products += x[i] * level;
      squares += level * level;
    }
    const float gain = float(products * products / squares);  // of the sum of squares
    if (gain > gained) {
      gained = gain;
      best = float(products / squares);
    }
  }
  return best;
}

}  // namespace

void demote_page(float* page, int64_t stride, int64_t size, int bits, bool keys) {
  const int64_t group = rt::kv_scale_group(size), groups = rt::kv_scales(size);
  const int most = (1 << bits) - 1;
  std::vector<float> means(size);
  if (keys) means = take_means(page, stride, size);
  std::vector<float> scales;
  float largest = 0;
  for (int64_t p = 0; p < rt::kKvPage; ++p)
    for (int64_t g = 0; g < groups; ++g) {
      scales.push_back(best_scale(page + p * stride + g * group, group, most));
      largest = std::max(largest, scales.back());
    }
  const float base = largest / (255.0f * 255.0f);
  for (int64_t p = 0; p < rt::kKvPage; ++p)
    for (int64_t i = 0; i < size; ++i) {
      const float byte = base > 0 ? std::nearbyint(std::sqrt(scales[size_t(p * groups + i / group)] / base)) : 0;
      const float scale = base * byte * byte;
      float& x = page[p * stride + i];
      x = (scale > 0 ? scale * (float(code(x, scale, most)) - float(most) / 2) : 0) + means[size_t(i)];
    }
}

}  // namespace prism::ir
