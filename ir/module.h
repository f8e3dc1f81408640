// The dataflow graph: Module -> Graph -> Operation -> Value.
//
// A Value is a graph argument, an operation's result or a weight; operations refer to values by pointer and
// values know their uses. `kernel` operations hold a body graph whose arguments match their operands.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "ir/type.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/ADT/ilist.h"
#include "llvm/ADT/ilist_node.h"
#include "runtime/base/result.h"

namespace prism::ir {

class Graph;
class Module;
class Operation;

enum class Op : uint16_t {
#define OP(id, Name, mnemonic, signature, attrs, traits, from, to, tolerance) Name = id,
#include "ir/ops.def"
};

/// How far a module has been lowered; an op is legal from its `from` to its `to` level.
enum class Level : uint8_t { Graph, Fused, Kernel, Plan };
std::string_view level_name(Level l);

/// int, float, bool, string, ints, floats, dtype. Text: 3, 1e-5, true, "x" or a bare word, [1,2], [1.0,2.0], q8a is a string.
using Attr = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>>;
using AttrMap = std::map<std::string, Attr, std::less<>>;

struct Use {
  Operation* op;
  unsigned operand;
};

class Value {
 public:
  enum class Kind : uint8_t { Argument, Result, Weight };
  Kind kind;
  Type type;
  std::string name;          ///< without '%' or '@'; unique within its graph / module
  Operation* def = nullptr;  ///< for results
  Graph* graph = nullptr;    ///< for arguments
  unsigned index = 0;        ///< result or argument number
  std::vector<Use> uses;

  bool is_weight() const { return kind == Kind::Weight; }
  bool has_one_use() const { return uses.size() == 1; }
  void replace_all_uses_with(Value* other);
  template <class Fn>  ///< Fn(const Use&) -> bool: which uses to replace
  void replace_uses_if(Value* other, Fn&& pick);
};

class Operation : public llvm::ilist_node<Operation> {
 public:
  Op op;
  AttrMap attrs;
  std::vector<std::unique_ptr<Value>> results;
  std::unique_ptr<Graph> body;  ///< only `kernel`
  Graph* parent = nullptr;

  ~Operation();
  Operation(const Operation&) = delete;

  llvm::ArrayRef<Value*> operands() const { return operands_; }
  Value* operand(unsigned i) const { return operands_[i]; }
  Value* result(unsigned i = 0) const { return results[i].get(); }
  void set_operand(unsigned i, Value* v);
  void append_operand(Value* v);
  void drop_operands();

  bool has(llvm::StringRef key) const { return attrs.find(std::string_view(key)) != attrs.end(); }
  /// Value of an attribute, or the op table's default. T: int64_t, double, bool, std::string, std::vector<...>.
  template <class T>
  T attr(std::string_view key) const;

  /// Unlinks and destroys; no result may have uses.
  void erase();

 private:
  friend class Graph;
  explicit Operation(Op o) : op(o) {}
  std::vector<Value*> operands_;
};

class Graph {
 public:
  std::string name;  ///< empty for bodies
  Module* module;
  std::vector<std::unique_ptr<Value>> args;
  llvm::ilist<Operation> ops;      ///< in execution order: definitions before uses
  std::vector<Value*> returns;     ///< not in `uses`; replace_all_uses_with updates them too

  explicit Graph(Module* m) : module(m) {}
  ~Graph();
  Value* add_arg(Type type, llvm::StringRef name);
  /// Appends (or inserts before `before`) an operation with its result types given; no inference. Used by parser, builder and passes.
  Operation* insert(Op op, llvm::ArrayRef<Value*> operands, AttrMap attrs, llvm::ArrayRef<Type> results, Operation* before = nullptr);
  bool returned(const Value* v) const { return llvm::is_contained(returns, v); }
  /// A name not yet used in this graph, derived from `base`.
  std::string unique_name(llvm::StringRef base);
  /// Gives a result or argument of this graph a name derived from `base` (`base` itself if it is free).
  void rename(Value* v, llvm::StringRef base);

 private:
  std::map<std::string, unsigned, std::less<>> name_counts_;
};

/// What is done to the rows of a weight's sources, each on its own, before they are put together.
struct Conversion {
  bool hadamard = false;            ///< they are multiplied by the matrix of the op hadamard
  Scales scales = Scales::Block;    ///< where the weight's type is another than theirs: of q8_0
  friend bool operator==(const Conversion&, const Conversion&) = default;
};

/// A named constant tensor: `values`, or bytes that are either `data` (row-major, may be unset in modules that came from text)
/// or the concatenation of `sources` along axis 0, converted to the type and packed into its layout.
struct Weight {
  Value value;                        ///< kind Weight; the name and type
  const void* data = nullptr;         ///< not owned, `bytes` long
  size_t bytes = 0;
  std::vector<std::string> sources;   ///< names of weights this one is made from; empty = a tensor of the model file
  int64_t interleave = 0;             ///< with sources: rows alternate in groups of this many (gate/up); 0 = plain concatenation
  Conversion conversion;              ///< with sources
  std::vector<double> values;         ///< of an f32 weight that no model file has; empty: it is none
};

class Module {
 public:
  std::string name;
  Level level = Level::Graph;
  std::map<std::string, Range, std::less<>> dims;            ///< symbol -> range
  std::vector<std::pair<std::string, Attr>> attrs;           ///< model facts: "context_length", ...
  std::vector<std::unique_ptr<Weight>> weights;              ///< in order of declaration
  std::vector<std::unique_ptr<Graph>> graphs;
  std::vector<std::shared_ptr<void>> keep_alive;             ///< owners of the weights' bytes

  Graph* graph(llvm::StringRef name) const;                  ///< nullptr if absent
  Weight* weight(llvm::StringRef name) const;
  Weight* weight_of(const Value* v) const { return weight(v->name); }
  Weight* add_weight(llvm::StringRef name, Type type);
  void erase_weight(Weight* w);                              ///< it may have no uses
  Graph* add_graph(llvm::StringRef name);
  Dim::Ranges ranges() const;                                ///< for Dim::bounds

 private:
  std::map<std::string, Weight*, std::less<>> weight_index_;
};

/// Deep copy of a graph (its bodies too) into `into`, with dims substituted in every type.
/// Returns the map from old values to new ones through `map` if given.
std::unique_ptr<Graph> clone_graph(const Graph& g, Module& into, const Dim::Subst& subst = {},
                                   std::map<const Value*, Value*>* map = nullptr);

template <class Fn>
void Value::replace_uses_if(Value* other, Fn&& pick) {
  const auto before = uses;  // set_operand edits `uses`
  for (const Use& u : before)
    if (pick(u)) u.op->set_operand(u.operand, other);
}

}  // namespace prism::ir
