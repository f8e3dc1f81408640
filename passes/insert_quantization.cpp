// insert-quantization: what a linear reads is rounded to fewer bits and widened again, by ops of their own. Nothing is faster for it:
// fold-quantization gives what was inserted to the kernels.
//
// int8: weights to q8_0, with a scale for each block, row or tensor, and inputs to q8a, blocks of 32 with a scale made when they are known.
// Both are rotated first, which changes no product: a channel that stands out of its block would take all of the block's bits, and is
// spread over up to 512 (QuaRot, Ashkboos et al. 2024). f16 and bf16: both rounded to them.
//
// Inputs of int8 may have one scale for all instead, known before they are, from the ranges that calibration saw (Linear's x_min, x_max):
// affine, scale = (max - min) / 255 and zero_point = round(-min / scale), or symmetric, scale = max / 127. They are not rotated.
//
// Protected is what loses most for what it saves: the first and the last layers (a layer: weights whose names are equal up to their first
// number), what makes attention's values, and what `keep` and `only` say by names. Which layers a model should keep is measured by
// prism quality --each-layer.

#include <cmath>

#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/StringSet.h"
#include "passes/util.h"

namespace prism::passes {

using namespace ir;

namespace {

class Inserter {
 public:
  explicit Inserter(const Options& o)
      : type_(o.get("type", "int8")), scales_(o.get("scales", "block")), inputs_are_(o.get("inputs", "block")), rotate_(o.get("rotate", inputs_are_ == "block" ? "yes" : "no") == "yes"),
        protect_(parts(o.get("protect", "first+last+values"), '+')), keep_(parts(o.get("keep", ""), '/')), only_(parts(o.get("only", ""), '/')) {}

  Status run(Module& m) {
    for (const std::string& word : protect_)
      if (word != "none" && word != "first" && word != "last" && word != "values")
        return error("option protect: found '", word, "', expected none, or of first, last and values some, as in first+last");
    if (inputs_are_ != "block" && (rotate_ || type_ != "int8")) return error("option inputs=", inputs_are_, ": found ", rotate_ ? "rotate=yes" : "type=" + type_, ", expected int8 that is not rotated: ranges are those of inputs as they are");
    for (const auto& g : m.graphs) PRISM_CHECK(graph(*g));
    for (const auto& [key, texts] : {std::pair{"keep", &keep_}, {"only", &only_}})
      for (const std::string& text : *texts)
        if (!found_.contains(text)) return error("option ", key, ": found no weight of a linear whose name contains '", text, "'");
    return ok();
  }

 private:
  using Texts = std::vector<std::string>;

  static Texts parts(const std::string& text, char separator) {
    llvm::SmallVector<llvm::StringRef> found;
    llvm::StringRef(text).split(found, separator, -1, false);
    return {found.begin(), found.end()};
  }

  Status graph(Graph& g) {
    llvm::SmallVector<Operation*> linears;
    for (Operation& op : g.ops)
      if (op.op == Op::Linear && op.operand(1)->is_weight() && is_float(op.operand(1)->type.dtype)) linears.push_back(&op);
    const llvm::StringSet<> protected_layers = protect(linears);
    inputs_.clear();
    for (Operation* op : linears)
      if (named(*op) && !protected_layers.contains(layer_of(op->operand(1)->name)) && !(protects("values") && makes_values(*op))) PRISM_CHECK(type_ == "int8" ? int8(*op) : half(*op));
    for (Operation& op : g.ops)   // of no use to later passes, which merge equal linears
      if (op.op == Op::Linear)
        for (const char* bound : {"x_min", "x_max"}) op.attrs.erase(bound);
    return ok();
  }

  bool protects(llvm::StringRef word) const { return llvm::is_contained(protect_, word); }

  /// Is what it computes, perhaps with a bias and in another shape, appended to a cache as values?
  static bool makes_values(const Operation& linear) {
    for (const Operation* op = &linear; op;) {
      const Value* v = op->result();
      op = only_user(v);
      if (op && op->op == Op::KvAppend) return op->operand(2) == v;
      if (op && op->op != Op::Reshape && op->op != Op::Add) return false;
    }
    return false;
  }

  llvm::StringSet<> protect(llvm::ArrayRef<Operation*> linears) const {
    llvm::StringSet<> layers;
    if (linears.empty()) return layers;
    const auto name = [](const Operation* op) { return llvm::StringRef(op->operand(1)->name); };
    if (protects("first")) layers.insert(layer_of(name(linears.front())));
    if (!protects("last")) return layers;
    layers.insert(layer_of(name(linears.back())));
    for (const Operation* op : llvm::reverse(linears))  // what makes logits of it is not the last layer of a stack
      if (layer_of(name(op)).size() < name(op).size()) {
        layers.insert(layer_of(name(op)));
        break;
      }
    return layers;
  }

  /// Do `keep` and `only` let it be rounded?
  bool named(const Operation& linear) {
    const auto any = [&](const Texts& texts) {
      bool found = false;
      for (const std::string& text : texts)
        if (llvm::StringRef(linear.operand(1)->name).contains(text)) {
          found_.insert(text);
          found = true;
        }
      return found;
    };
    const bool keep = any(keep_), only = any(only_);
    return !keep && (only || only_.empty());
  }

  Status int8(Operation& linear) {
    const std::optional<int64_t> k = linear.operand(0)->type.dim(-1).constant();
    if (linear.operand(0)->type.dtype != DType::F32 || !k || *k % int64_t(info(DType::Q8A).block)) return ok();
    Builder b(linear.parent, &linear);
    const auto round = [&](Value* v, AttrMap attrs) {
      const std::string name = v->name;
      if (rotate_) v = b.Hadamard({v}, {}, name + ".rotated");
      return b.Dequantize({b.Quantize({v}, std::move(attrs), name + ".int8")}, {}, name + ".rounded");
    };
    Value*& x = inputs_[linear.operand(0)];
    if (!x && inputs_are_ == "block") x = round(linear.operand(0), {{"format", std::string("q8a")}});
    if (!x) {
      PRISM_TRY(x, static_input(b, linear));
    }
    AttrMap format = {{"format", std::string("q8_0")}};
    if (scales_ != "block") format.emplace("scales", scales_);
    Value* w = round(linear.operand(1), std::move(format));
    PRISM_CHECK(b.status());
    linear.set_operand(0, x);
    linear.set_operand(1, w);
    return ok();
  }

  /// Its input by the range that calibration saw.
  Result<Value*> static_input(Builder& b, const Operation& linear) const {
    const double seen_min = linear.attr<double>("x_min"), seen_max = linear.attr<double>("x_max");
    if (!(seen_min < seen_max)) return error("option inputs=", inputs_are_, ": found no range of what @", linear.operand(1)->name, " reads, expected one from a calibration file (option ranges)");
    const double least = std::min(seen_min, 0.0), most = std::max(seen_max, 0.0);   // 0 is a value
    const bool affine = inputs_are_ == "affine";
    const double scale = affine ? (most - least) / 255 : std::max(-least, most) / 127;
    const int64_t zero = affine ? int64_t(std::nearbyint(-least / scale)) : 0;
    const std::string name = linear.operand(0)->name;
    Value* q = b.Quantize({linear.operand(0)}, {{"format", std::string(affine ? "u8" : "i8")}, {"scale", scale}, {"zero_point", zero}}, name + ".int8");
    return b.Dequantize({q}, {{"scale", scale}, {"zero_point", zero}}, name + ".rounded");
  }

  Status half(Operation& linear) {
    if (linear.operand(0)->type.dtype != DType::F32) return ok();
    Builder b(linear.parent, &linear);
    const DType type = *dtype_from_name(type_);
    Value*& x = inputs_[linear.operand(0)];
    if (!x) {
      const std::string name = linear.operand(0)->name;
      x = b.Cast({b.Cast({linear.operand(0)}, {{"to", type_}}, name + "." + type_)}, {{"to", std::string("f32")}}, name + ".rounded");
    }
    Value* w = linear.operand(1);
    if (w->type.dtype != type) w = b.Cast({w}, {{"to", type_}}, w->name + "." + type_);
    PRISM_CHECK(b.status());
    linear.set_operand(0, x);
    linear.set_operand(1, w);
    return ok();
  }

  const std::string type_, scales_, inputs_are_;
  const bool rotate_;
  const Texts protect_, keep_, only_;
  llvm::StringSet<> found_;   // of the texts of keep_ and only_
  llvm::DenseMap<Value*, Value*> inputs_;  // rounded once for all that read them
};

}  // namespace

Status insert_quantization(Module& m, const Options& options) { return Inserter(options).run(m); }

}  // namespace prism::passes
