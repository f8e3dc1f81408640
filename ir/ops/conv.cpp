// Convolution and pooling, NCHW; padding is [top, left, bottom, right].
#include <algorithm>
#include <limits>

#include "ir/ops/eval_util.h"

namespace prism::ir {
namespace {

/// How a window slides over an image.
struct Window {
  int64_t kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h = 1, dilation_w = 1;

  /// fn(kernel row, kernel column, image row, image column) for the parts of output (y, x)'s window inside the image.
  template <class Fn>
  void each(int64_t y, int64_t x, int64_t height, int64_t width, Fn&& fn) const {
    for (int64_t i = 0; i < kernel_h; ++i) {
      for (int64_t j = 0; j < kernel_w; ++j) {
        const int64_t row = y * stride_h - top + i * dilation_h, column = x * stride_w - left + j * dilation_w;
        if (row >= 0 && row < height && column >= 0 && column < width) fn(i, j, row, column);
      }
    }
  }
};

Window pool_window(const Operation& op) {
  const auto kernel = op.attr<std::vector<int64_t>>("kernel"), stride = op.attr<std::vector<int64_t>>("stride"),
             padding = op.attr<std::vector<int64_t>>("padding");
  return {kernel[0], kernel[1], stride[0], stride[1], padding[0], padding[1]};
}

/// fn(image plane, window, y, x) -> value of the pooled image.
template <class Fn>
Status pool(EvalContext& c, Fn&& fn) {
  const Tensor& in = *c.in[0];
  Tensor& out = c.out[0];
  const Window window = pool_window(c.op);
  const int64_t height = out.shape[2], width = out.shape[3];
  for (int64_t i = 0; i < out.elements(); ++i) {
    const float* plane = in.f.data() + i / (height * width) * in.shape[2] * in.shape[3];
    out.f[i] = float(fn(plane, window, i / width % height, i % width));
  }
  return ok();
}

}  // namespace

Status eval_Conv2d(EvalContext& c) {
  const Tensor &in = *c.in[0], &k = *c.in[1];
  const Tensor* bias = c.in.size() > 2 ? c.in[2] : nullptr;
  Tensor& out = c.out[0];
  const auto stride = c.op.attr<std::vector<int64_t>>("stride"), padding = c.op.attr<std::vector<int64_t>>("padding"),
             dilation = c.op.attr<std::vector<int64_t>>("dilation");
  const int64_t groups = c.op.attr<int64_t>("groups");
  const int64_t in_channels = in.shape[1], height = in.shape[2], width = in.shape[3];
  const int64_t out_channels = k.shape[0], group_in = k.shape[1], group_out = out_channels / groups;
  const int64_t out_h = out.shape[2], out_w = out.shape[3];
  const Window window{k.shape[2], k.shape[3], stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1]};

  const int64_t planes = in.shape[0] * out_channels;
  in_two_threads(planes, out_h * out_w * group_in * k.shape[2] * k.shape[3], [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t image = plane / out_channels, o = plane % out_channels;
      for (int64_t y = 0; y < out_h; ++y) {
        for (int64_t x = 0; x < out_w; ++x) {
          double sum = bias ? double(bias->f[o]) : 0.0;
          for (int64_t i = 0; i < group_in; ++i) {
            const int64_t channel = o / group_out * group_in + i;
            const float* pixels = in.f.data() + (image * in_channels + channel) * height * width;
            const float* weights = k.f.data() + (o * group_in + i) * window.kernel_h * window.kernel_w;
            window.each(y, x, height, width, [&](int64_t ky, int64_t kx, int64_t row, int64_t column) {
              sum += double(weights[ky * window.kernel_w + kx]) * double(pixels[row * width + column]);
            });
          }
          out.f[(plane * out_h + y) * out_w + x] = float(sum);
        }
      }
    }
  });
  return ok();
}

Status eval_MaxPool2d(EvalContext& c) {
  const int64_t height = c.in[0]->shape[2], width = c.in[0]->shape[3];
  return pool(c, [&](const float* plane, const Window& window, int64_t y, int64_t x) {
    float max = -std::numeric_limits<float>::infinity();
    window.each(y, x, height, width, [&](int64_t, int64_t, int64_t row, int64_t column) {
      max = std::max(max, plane[row * width + column]);
    });
    return max;
  });
}

Status eval_AvgPool2d(EvalContext& c) {
  const int64_t height = c.in[0]->shape[2], width = c.in[0]->shape[3];
  const bool count_padding = c.op.attr<bool>("count_padding");
  return pool(c, [&](const float* plane, const Window& window, int64_t y, int64_t x) {
    double sum = 0;
    int64_t count = 0;
    window.each(y, x, height, width, [&](int64_t, int64_t, int64_t row, int64_t column) {
      sum += plane[row * width + column];
      ++count;
    });
    if (count_padding) count = window.kernel_h * window.kernel_w;
    return count ? sum / double(count) : 0.0;
  });
}

}  // namespace prism::ir
