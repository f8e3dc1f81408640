// Single elements of a region's values, each computed from elements of the arguments: elementwise ops with broadcasting,
// batch_norm, pooling, plain convolution, reductions, movement. A thread computes an element of the results.
#pragma once

#include "codegen/kernels/region.h"

namespace prism::codegen {

class Elements {
 public:
  /// An element of values of one shape. What was computed there is known from then on.
  struct Place {
    ir::Shape shape;
    std::vector<kir::Ex> at;
    kir::Ex flat;                                                ///< its index, row by row
    std::shared_ptr<std::map<const ir::Value*, kir::Ex>> known;
  };

  explicit Elements(Region& r) : r_(r), b_(r.b) {}

  /// Can its elements be computed one by one?
  static bool computes(const ir::Operation& op);

  Place place(const ir::Shape& shape, std::vector<kir::Ex> at);
  Place place(const ir::Shape& shape, kir::Ex flat);
  /// f32, or i64 of integers. `p` is a place in a value of v's shape.
  Result<kir::Ex> value(const ir::Value* v, const Place& p);
  Result<kir::Ex> value(const ir::Value* v, kir::Ex flat);
  /// What the region returns, at a place all its results have. `anchor`: computed there already, in f32.
  Status store(const Place& p, const ir::Value* anchor = nullptr, kir::Ex computed = {});

  /// Index of a coordinate of an axis whose dims are these, row by row, and back.
  kir::Ex index(llvm::ArrayRef<ir::Dim> shape, const std::vector<kir::Ex>& at);
  std::vector<kir::Ex> coordinates(llvm::ArrayRef<ir::Dim> shape, kir::Ex flat);

 private:
  using Inner = std::function<Status()>;

  Result<kir::Ex> compute(const ir::Operation& op, const Place& p);
  Result<kir::Ex> load(const ir::Value* v, kir::Ex flat);
  Result<kir::Ex> broadcast(const ir::Value* v, const Place& p);
  Result<kir::Ex> cast(const ir::Operation& op, const Place& p);
  Result<kir::Ex> batch_norm(const ir::Operation& op, const Place& p);
  Result<kir::Ex> constant(const ir::Operation& op, const Place& p);
  Result<kir::Ex> concat(const ir::Operation& op, const Place& p);    // movement.cpp
  Result<kir::Ex> moved(const ir::Operation& op, const Place& p);
  Result<kir::Ex> pool(const ir::Operation& op, const Place& p);      // pool.cpp
  Result<kir::Ex> conv(const ir::Operation& op, const Place& p);      // conv.cpp
  Result<kir::Ex> reduce(const ir::Operation& op, const Place& p);    // reduce.cpp

  /// body(kernel row, kernel column, image row, image column) where the window of output (y, x) is inside the image.
  using WindowBody = std::function<Status(kir::Ex, kir::Ex, kir::Ex, kir::Ex)>;
  struct Window {
    int64_t rows, columns;
    std::vector<int64_t> stride, padding, dilation;
  };
  Status window(const Window& w, const ir::Type& image, kir::Ex y, kir::Ex x, const WindowBody& body);  // pool.cpp

  Status if_(kir::Ex condition, const Inner& then);
  Status for_(kir::Ex end, const std::function<Status(kir::Ex)>& body);   ///< from 0

  Region& r_;
  kir::Builder& b_;
  std::map<const ir::Operation*, kir::Buffer> tables_;   ///< of constants
};

inline kir::Ex integer(int64_t v) { return kir::constant({kir::Elem::I32, 1}, double(v)); }
/// A dim plus rounding, over `by`.
inline ir::Dim ceil_div(ir::Dim d, int64_t by) { return ir::Dim::floor_div(d + ir::Dim(by - 1), by); }
ir::Dim elements_of(const ir::Shape& shape);

}  // namespace prism::codegen
