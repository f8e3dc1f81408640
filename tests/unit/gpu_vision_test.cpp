// GPU kernels of vision models and of what is not rows, on the emulated device against the reference evaluator.
#include "codegen/kernels/gpu/gpu.h"
#include "gpu_fixture.h"
#include "gpu_compiles.h"
#include "ir/op_info.h"
#include "kir_mutate.h"

namespace prism {
namespace {

/// Graphs of one kind of op: their text, and how far off the results may be.
struct Suite {
  std::string weights;
  struct Entry {
    std::string name, args, body, results;   ///< the body returns %y
  };
  std::vector<Entry> entries;

  void add(const std::string& args, const std::string& body, const std::string& result) {
    entries.push_back({"g" + std::to_string(entries.size()), args, body + " : " + result, result});
  }
  std::string text() const {
    std::string s = "module @vision level=graph {\n  dim ?n in [1,8]\n" + weights;
    for (const Entry& e : entries) s += "  graph @" + e.name + "(" + e.args + ") -> (" + e.results + ") {\n    " + e.body + "\n    return %y\n  }\n";
    return s + "}\n";
  }
};

double tolerance_of(std::string_view mnemonic) { return ir::info(*ir::op_from_mnemonic(mnemonic)).tolerance; }

/// Random values of a type: as the evaluator takes them and as bytes.
std::pair<ir::Tensor, std::vector<uint8_t>> random_input(const ir::Type& t, const std::map<std::string, int64_t>& dims, unsigned seed) {
  ir::Tensor tensor;
  for (ir::Dim d : t.shape) tensor.shape.push_back(*d.evaluate([&](std::string_view s) { return std::optional(dims.at(std::string(s))); }));
  int64_t n = 1;
  for (int64_t d : tensor.shape) n *= d;
  std::vector<uint8_t> bytes(size_t(n) * ir::info(t.dtype).bytes);
  auto put = [&](int64_t i, auto value) { memcpy(bytes.data() + size_t(i) * sizeof value, &value, sizeof value); };
  if (ir::is_float(t.dtype)) {
    tensor.f = normal_floats(size_t(n), seed);
    for (int64_t i = 0; i < n; ++i) {
      float& x = tensor.f[size_t(i)];
      if (t.dtype == DType::F16) {
        put(i, f32_to_f16(x));
        x = f16_to_f32(f32_to_f16(x));
      } else if (t.dtype == DType::BF16) {
        put(i, f32_to_bf16(x));
        x = bf16_to_f32(f32_to_bf16(x));
      } else if (t.dtype == DType::F64) put(i, double(x));
      else put(i, x);
    }
    return {tensor, bytes};
  }
  std::mt19937 rng(seed);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t v = int64_t(rng() % 2001) - 1000;
    switch (t.dtype) {
      case DType::I8: put(i, int8_t(v)); tensor.i.push_back(int8_t(v)); break;
      case DType::U8: put(i, uint8_t(v)); tensor.i.push_back(uint8_t(v)); break;
      case DType::I16: put(i, int16_t(v)); tensor.i.push_back(v); break;
      case DType::I32: put(i, int32_t(v)); tensor.i.push_back(v); break;
      default: put(i, v); tensor.i.push_back(v);
    }
  }
  return {tensor, bytes};
}

/// "" or what is wrong. Integers are equal; floats as near as the tolerance, 0: equal.
std::string compare(const std::vector<uint8_t>& bytes, const ir::Type& t, const ir::Tensor& want, double tolerance) {
  std::vector<float> got;
  const size_t each = ir::info(t.dtype).bytes;
  for (size_t i = 0; i * each < bytes.size(); ++i) {
    const uint8_t* p = bytes.data() + i * each;
    auto as = [&](auto v) { memcpy(&v, p, sizeof v); return v; };
    if (ir::is_float(t.dtype)) {
      got.push_back(t.dtype == DType::F16 ? f16_to_f32(as(uint16_t())) : t.dtype == DType::BF16 ? bf16_to_f32(as(uint16_t())) :
                    t.dtype == DType::F64 ? float(as(double())) : as(float()));
      continue;
    }
    const int64_t v = t.dtype == DType::I8 ? as(int8_t()) : t.dtype == DType::U8 ? as(uint8_t()) : t.dtype == DType::I16 ? as(int16_t()) :
                      t.dtype == DType::I32 ? as(int32_t()) : as(int64_t());
    if (v != want.i.at(i)) return "element " + std::to_string(i) + ": found " + std::to_string(v) + ", expected " + std::to_string(want.i.at(i));
  }
  if (!ir::is_float(t.dtype)) return "";
  if (tolerance == 0) return got == want.f ? "" : "not equal";
  const double error = largest_relative_error(got, want.f);
  return error <= tolerance ? "" : "relative error " + std::to_string(error);
}

void check_graph(GpuKernelFixture& f, const std::string& name, const std::map<std::string, int64_t>& dims, double tolerance, const std::string& what) {
  const ir::Graph& g = *f.original().graph(name);
  std::map<std::string, ir::Tensor> inputs;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<const void*> pointers;
  for (const auto& a : g.args) {
    auto [tensor, raw] = random_input(a->type, dims, unsigned(bytes.size() + 1));
    inputs[a->name] = std::move(tensor);
    bytes.push_back(std::move(raw));
  }
  for (const auto& b : bytes) pointers.push_back(b.data());
  auto want = ir::Evaluator(f.original()).run(g, inputs, dims);
  ASSERT_TRUE(want) << what << ": " << want.message();
  const auto got = f.run(name, pointers, dims);
  ASSERT_TRUE(got) << what << ": " << got.message();
  for (size_t i = 0; i < want->size(); ++i) EXPECT_EQ(compare((*got)[i], g.returns[i]->type, (*want)[i], tolerance), "") << what;
}

void check(const Suite& s, double tolerance) {
  auto fixture = GpuKernelFixture::create(s.text(), GpuRows::Few);
  ASSERT_TRUE(fixture) << fixture.message();
  expect_compiles(**fixture);
  for (const Suite::Entry& e : s.entries)
    for (int64_t n : (e.args + e.body).find('?') == std::string::npos ? std::vector<int64_t>{1} : std::vector<int64_t>{1, 3, 8})
      check_graph(**fixture, e.name, {{"n", n}}, tolerance, e.body + ", n = " + std::to_string(n));
}

TEST(GpuVision, Conv2d) {
  Suite s;
  const auto conv = [&](const std::string& x, const std::string& k, const std::string& out, const std::string& attrs, int64_t bias = 0) {
    const std::string id = std::to_string(s.entries.size());
    s.weights += "  weight @k" + id + " : f32[" + k + "]\n" + (bias ? "  weight @b" + id + " : f32[" + std::to_string(bias) + "]\n" : "");
    s.add("%x: f32[" + x + "]", "%y = conv2d(%x, @k" + id + (bias ? ", @b" + id : "") + ") {" + attrs + "}", "f32[" + out + "]");
  };
  conv("1,3,9,11", "16,3,3,3", "1,16,9,11", "stride=[1,1], padding=[1,1,1,1], dilation=[1,1]");
  conv("2,8,7,5", "24,8,1,1", "2,24,4,3", "stride=[2,2], padding=[0,0,0,0], dilation=[1,1]", 24);
  conv("1,5,13,10", "9,5,3,2", "1,9,7,11", "stride=[2,1], padding=[2,0,1,3], dilation=[1,2]", 9);
  conv("2,6,8,8", "6,1,3,3", "2,6,8,7", "stride=[1,1], padding=[0,1,2,0], dilation=[1,1], groups=6", 6);
  conv("1,8,6,6", "32,4,3,3", "1,32,6,6", "stride=[1,1], padding=[1,1,1,1], dilation=[1,1], groups=2");
  conv("1,4,5,5", "12,2,3,3", "1,12,3,3", "stride=[2,2], padding=[1,1,1,1], dilation=[1,1], groups=2", 12);
  conv("1,3,20,20", "33,3,7,7", "1,33,10,10", "stride=[2,2], padding=[3,3,3,3], dilation=[1,1]");
  conv("1,2,2,3", "10,2,4,4", "1,10,2,3", "stride=[1,1], padding=[2,2,1,1], dilation=[1,1]");
  conv("?n,4,6,5", "8,4,3,3", "?n,8,2,1", "stride=[1,1], padding=[0,0,0,0], dilation=[2,2]");
  conv("?n,3,4,4", "3,1,2,2", "?n,3,2,2", "stride=[2,2], padding=[0,0,0,0], dilation=[1,1], groups=3");
  conv("6,16,56,56", "64,16,1,1", "6,64,56,56", "stride=[1,1], padding=[0,0,0,0], dilation=[1,1]");  // large tiles
  check(s, tolerance_of("conv2d"));
}

TEST(GpuVision, MaxPool2d) {
  Suite s;
  const auto pool = [&](const std::string& x, const std::string& out, const std::string& attrs) { s.add("%x: f32[" + x + "]", "%y = max_pool2d(%x) {" + attrs + "}", "f32[" + out + "]"); };
  pool("1,3,8,8", "1,3,4,4", "kernel=[2,2], stride=[2,2], padding=[0,0,0,0]");
  pool("2,3,9,7", "2,3,5,4", "kernel=[3,3], stride=[2,2], padding=[1,1,1,1]");
  pool("1,1,5,6", "1,1,5,3", "kernel=[2,3], stride=[1,2], padding=[0,0,1,1]");
  pool("1,2,1,1", "1,2,2,2", "kernel=[2,2], stride=[1,1], padding=[1,1,1,1]");
  pool("?n,5,4,4", "?n,5,1,1", "kernel=[4,4], stride=[4,4], padding=[0,0,0,0]");
  pool("1,2,7,300", "1,2,3,150", "kernel=[3,4], stride=[2,2], padding=[0,1,0,1]");
  check(s, tolerance_of("max_pool2d"));
}

TEST(GpuVision, AvgPool2d) {
  Suite s;
  const auto pool = [&](const std::string& x, const std::string& out, const std::string& attrs) { s.add("%x: f32[" + x + "]", "%y = avg_pool2d(%x) {" + attrs + "}", "f32[" + out + "]"); };
  pool("1,3,8,8", "1,3,4,4", "kernel=[2,2], stride=[2,2], padding=[0,0,0,0]");
  pool("2,3,9,7", "2,3,5,4", "kernel=[3,3], stride=[2,2], padding=[1,1,1,1]");
  pool("2,3,9,7", "2,3,5,4", "kernel=[3,3], stride=[2,2], padding=[1,1,1,1], count_padding=true");
  pool("1,2,1,1", "1,2,2,2", "kernel=[2,2], stride=[1,1], padding=[1,1,1,1]");
  pool("?n,40,7,7", "?n,40,1,1", "kernel=[7,7], stride=[1,1], padding=[0,0,0,0]");
  pool("1,2,6,50", "1,2,4,17", "kernel=[3,4], stride=[2,3], padding=[2,1,1,2], count_padding=true");
  check(s, tolerance_of("avg_pool2d"));
}

TEST(GpuVision, BatchNorm) {
  Suite s;
  int id = 0;
  for (const auto& [shape, c] : std::vector<std::pair<std::string, std::string>>{{"1,1,1,1", "1"}, {"2,3,5,7", "3"}, {"1,64,2,2", "64"}, {"?n,7,3,3", "7"}, {"1,5,40,33", "5"}}) {
    const std::string i = std::to_string(id++);
    for (const char* w : {"w", "b", "m", "v"}) s.weights += "  weight @" + std::string(w) + i + " : f32[" + c + "]\n";
    s.add("%x: f32[" + shape + "]", "%v = exp(@v" + i + ") : f32[" + c + "]\n    %y = batch_norm(%x, @w" + i + ", @b" + i + ", @m" + i + ", %v) {eps=1e-3}", "f32[" + shape + "]");
  }
  check(s, tolerance_of("batch_norm"));
}

TEST(GpuVision, Reduce) {
  Suite s;
  const auto reduce = [&](const std::string& x, const std::string& out, const std::string& attrs) { s.add("%x: f32[" + x + "]", "%y = reduce(%x) {" + attrs + "}", "f32[" + out + "]"); };
  for (const char* kind : {"sum", "mean", "max"}) {
    const std::string k = "kind=" + std::string(kind) + ", ";
    reduce("2,3,17,33", "2,3", k + "axes=[2,3]");
    reduce("2,3,17,33", "3,33", k + "axes=[0,2]");
    reduce("2,3,17,33", "2,1,17,1", k + "axes=[3,1], keep_dims=true");
    reduce("2,3,17,33", "2,3,17", k + "axes=[3]");
    reduce("4,1,5", "", k + "axes=[0,1,2]");
    reduce("3,5000", "3", k + "axes=[1]");
    reduce("700,3", "3", k + "axes=[0]");
    reduce("?n,6", "6", k + "axes=[0]");
    reduce("5,?n", "5", k + "axes=[1]");
    reduce("7", "", k + "axes=[0]");
  }
  check(s, tolerance_of("reduce"));
}

TEST(GpuVision, Movement) {
  Suite s;
  const auto move = [&](const std::string& args, const std::string& body, const std::string& out) { s.add(args, "%y = " + body, out); };
  move("%x: f32[5,7]", "transpose(%x) {perm=[1,0]}", "f32[7,5]");
  move("%x: f32[2,3,4,5]", "transpose(%x) {perm=[0,2,3,1]}", "f32[2,4,5,3]");
  move("%x: f16[2,3,4,5]", "transpose(%x) {perm=[3,1,0,2]}", "f16[5,3,2,4]");
  move("%x: i32[?n,33,2]", "transpose(%x) {perm=[2,0,1]}", "i32[2,?n,33]");
  move("%x: i64[9,?n]", "transpose(%x) {perm=[1,0]}", "i64[?n,9]");
  move("%x: f32[9,4]", "slice(%x) {axis=0, begin=3, end=8}", "f32[5,4]");
  move("%x: f32[2,9,4]", "slice(%x) {axis=1, begin=8, end=9}", "f32[2,1,4]");
  move("%x: i8[3,70]", "slice(%x) {axis=1, begin=1, end=68}", "i8[3,67]");
  move("%x: bf16[?n,8,6]", "slice(%x) {axis=2, begin=2, end=6}", "bf16[?n,8,4]");
  move("%x: u8[11]", "slice(%x) {axis=0, begin=4, end=11}", "u8[7]");
  move("%a: f32[2,3], %b: f32[1,3], %c: f32[4,3]", "concat(%a, %b, %c) {axis=0}", "f32[7,3]");
  move("%a: f32[2,3,5], %b: f32[2,1,5]", "concat(%a, %b) {axis=1}", "f32[2,4,5]");
  move("%a: i16[6,40], %b: i16[6,1], %c: i16[6,29]", "concat(%a, %b, %c) {axis=1}", "i16[6,70]");
  move("%a: f32[?n,4], %b: f32[3,4]", "concat(%a, %b) {axis=0}", "f32[?n+3,4]");
  move("%a: f64[5]", "concat(%a) {axis=0}", "f64[5]");
  move("%x: f32[2,3,4]", "reshape(%x) {shape=\"4,6\"}", "f32[4,6]");
  move("%x: f32[?n,3,4]", "reshape(%x) {shape=\"?n,12\"}", "f32[?n,12]");
  move("%x: i32[24]", "reshape(%x) {shape=\"1,2,3,4\"}", "i32[1,2,3,4]");
  move("%x: f32[1]", "reshape(%x) {shape=\"\"}", "f32[]");
  move("%x: f32[?n,2,5]", "reshape(%x) {shape=\"?n*2,5\"}", "f32[?n*2,5]");
  s.add("%x: f32[2,3,4]", "%c = constant() {values=[1.0,2.5,-3.0], shape=\"3\"} : f32[3]\n    %z = transpose(%x) {perm=[0,2,1]} : f32[2,4,3]\n    %y = add(%z, %c)", "f32[2,4,3]");
  move("", "positions() {start=\"?n\", count=\"?n*2\"}", "i32[?n*2]");
  move("", "constant() {values=[1.5,-2.0,3.0,4.0,1e-20,6.0], shape=\"2,3\"}", "f32[2,3]");
  move("", "constant() {values=[1.0,-2.0,70000.0], shape=\"3\", dtype=\"i32\"}", "i32[3]");
  move("%x: f32[20,6]", "tail(%x) {rows=\"5\"}", "f32[5,6]");
  check(s, 0);
}

TEST(GpuVision, Casts) {
  Suite s;
  for (const char* from : {"f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64"})
    for (const char* to : {"f32", "f16", "bf16", "f64", "i8", "u8", "i16", "i32", "i64"})
      if (std::string(from) != to) {
        s.add("%x: " + std::string(from) + "[3,41]", "%y = cast(%x) {to=" + std::string(to) + "}", std::string(to) + "[3,41]");
      }
  // what is no number, too large or too small
  s.add("%x: f32[5,9]", "%s = scale(%x) {by=1e30} : f32[5,9]\n    %y = cast(%s) {to=i64}", "i64[5,9]");
  s.add("%x: f32[5,9]", "%s = scale(%x) {by=1e30} : f32[5,9]\n    %y = cast(%s) {to=i32}", "i32[5,9]");
  s.add("%x: f32[5,9]", "%s = scale(%x) {by=100.0} : f32[5,9]\n    %y = cast(%s) {to=u8}", "u8[5,9]");
  s.add("%x: f32[5,9]", "%s = sqrt(%x) : f32[5,9]\n    %y = cast(%s) {to=i16}", "i16[5,9]");
  check(s, 0);
}

TEST(GpuVision, AffineQuantization) {
  Suite s;
  for (const char* format : {"i8", "u8"})
    for (const char* attrs : {"scale=0.05, zero_point=3", "scale=0.5, zero_point=128", "scale=0.001"}) {
      const std::string f = format, a = attrs;
      s.add("%x: f32[7,33]", "%y = quantize(%x) {format=" + f + ", " + a + "}", f + "[7,33]");
      s.add("%x: " + f + "[2,3,4]", "%y = dequantize(%x) {" + a + "}", "f32[2,3,4]");
      s.add("%x: f32[?n,10]", "%r = scale(%x) {by=4.0} : f32[?n,10]\n    %i = cast(%r) {to=i32} : i32[?n,10]\n    %h = cast(%i) {to=f32} : f32[?n,10]\n    %t = scale(%h) {by=0.25} : f32[?n,10]\n    %y = quantize(%t) {format=" + f + ", scale=0.5}", f + "[?n,10]");
    }
  check(s, tolerance_of("dequantize"));
}

TEST(GpuVision, ElementwiseWithBroadcasting) {
  Suite s;
  const auto add = [&](const std::string& args, const std::string& body, const std::string& out) { s.add(args, "%y = " + body, out); };
  for (const char* op : {"add", "sub", "mul", "div"}) {
    const std::string o = op;
    add("%a: f32[2,1,4], %b: f32[3,1]", o + "(%a, %b)", "f32[2,3,4]");
    add("%a: f32[5], %b: f32[5]", o + "(%a, %b)", "f32[5]");
    add("%a: f32[], %b: f32[3,300]", o + "(%a, %b)", "f32[3,300]");
    add("%a: f32[?n,4,1], %b: f32[1,6]", o + "(%a, %b)", "f32[?n,4,6]");
    add("%a: f32[1,1], %b: f32[1]", o + "(%a, %b)", "f32[1,1]");
    add("%a: f16[2,3,1,5], %b: f32[3,2,1]", o + "(%a, %b)", "f32[2,3,2,5]");
  }
  check(s, tolerance_of("add"));
}

TEST(GpuVision, ElementwiseOfAnyRank) {
  for (const char* op : {"neg", "exp", "sqrt", "relu", "silu", "gelu", "tanh", "sigmoid", "maximum", "minimum"}) {
    Suite s;
    const std::string o = op;
    for (const char* shape : {"", "1", "7", "2,3,4,5", "?n,257", "1,1,1,9"}) {
      const std::string t = "f32[" + std::string(shape) + "]";
      if (o == "maximum" || o == "minimum") s.add("%a: " + t + ", %b: " + t, "%y = " + o + "(%a, %b)", t);
      else if (o == "sqrt") s.add("%a: " + t, "%p = mul(%a, %a) : " + t + "\n    %y = sqrt(%p)", t);
      else s.add("%a: " + t, "%y = " + o + "(%a)", t);
    }
    check(s, tolerance_of(op));
  }
}

TEST(GpuVision, Matmul) {
  Suite s;
  const auto product = [&](const std::string& a, const std::string& b, const std::string& out, bool transposed) {
    s.add("%a: f32[" + a + "], %b: f32[" + b + "]", std::string("%y = matmul(%a, %b) {transpose_b=") + (transposed ? "true}" : "false}"), "f32[" + out + "]");
  };
  product("33,17", "17,65", "33,65", false);
  product("1,100", "7,100", "1,7", true);
  product("2,3,20,9", "2,3,9,40", "2,3,20,40", false);
  product("?n,1,8,31", "?n,1,33,31", "?n,1,8,33", true);
  product("5,?n,16", "5,16,3", "5,?n,3", false);
  product("1,1", "1,1", "1,1", false);
  product("90,70", "130,70", "90,130", true);
  product("300,130,70", "300,70,4", "300,130,4", false);  // large tiles
  check(s, tolerance_of("matmul"));
}

// A small residual network, whole

std::string residual_network() {
  std::string weights, body;
  int bns = 0;
  const auto conv = [&](const std::string& name, int o, int i, int k) { weights += "  weight @" + name + " : f32[" + std::to_string(o) + "," + std::to_string(i) + "," + std::to_string(k) + "," + std::to_string(k) + "]\n"; };
  const auto norm = [&](const std::string& to, const std::string& from, int c, const std::string& type) {
    const std::string id = std::to_string(bns++), n = std::to_string(c);
    for (const char* w : {"w", "b", "m", "v"}) weights += "  weight @" + std::string(w) + id + " : f32[" + n + "]\n";
    body += "    %v" + id + " = exp(@v" + id + ") : f32[" + n + "]\n    %s" + id + " = scale(@w" + id + ") {by=3.0, plus=1.0} : f32[" + n + "]\n    %" + to +
            " = batch_norm(%" + from + ", %s" + id + ", @b" + id + ", @m" + id + ", %v" + id + ") {eps=1e-5} : " + type + "\n";
  };
  const auto line = [&](const std::string& text) { body += "    " + text + "\n"; };
  const std::string first = "f32[?n,16,16,16]", pooled = "f32[?n,16,8,8]", deep = "f32[?n,40,4,4]";
  conv("c0", 16, 3, 7);
  conv("c1", 16, 16, 3);
  conv("c2", 16, 16, 3);
  conv("c3", 40, 16, 3);
  conv("c4", 40, 40, 3);
  conv("c5", 40, 16, 1);
  line("%a = conv2d(%x, @c0) {stride=[2,2], padding=[3,3,3,3], dilation=[1,1]} : " + first);
  norm("b", "a", 16, first);
  line("%c = relu(%b) : " + first);
  line("%d = max_pool2d(%c) {kernel=[3,3], stride=[2,2], padding=[1,1,1,1]} : " + pooled);
  line("%e = conv2d(%d, @c1) {stride=[1,1], padding=[1,1,1,1], dilation=[1,1]} : " + pooled);
  norm("f", "e", 16, pooled);
  line("%g = relu(%f) : " + pooled);
  line("%h = conv2d(%g, @c2) {stride=[1,1], padding=[1,1,1,1], dilation=[1,1]} : " + pooled);
  norm("i", "h", 16, pooled);
  line("%j = add(%i, %d) : " + pooled);
  line("%k = relu(%j) : " + pooled);
  line("%l = conv2d(%k, @c3) {stride=[2,2], padding=[1,1,1,1], dilation=[1,1]} : " + deep);
  norm("m", "l", 40, deep);
  line("%o = relu(%m) : " + deep);
  line("%p = conv2d(%o, @c4) {stride=[1,1], padding=[1,1,1,1], dilation=[1,1]} : " + deep);
  norm("q", "p", 40, deep);
  line("%r = conv2d(%k, @c5) {stride=[2,2], padding=[0,0,0,0], dilation=[1,1]} : " + deep);
  norm("s", "r", 40, deep);
  line("%t = add(%q, %s) : " + deep);
  line("%u = relu(%t) : " + deep);
  line("%w = reduce(%u) {kind=mean, axes=[2,3]} : f32[?n,40]");
  line("%z = matmul(%w, @fc) {transpose_b=true} : f32[?n,10]");
  line("%aa = add(%z, @bias) : f32[?n,10]");
  line("%y = softmax(%aa) : f32[?n,10]");
  return "module @residual level=graph {\n  dim ?n in [1,8]\n" + weights + "  weight @fc : f32[10,40]\n  weight @bias : f32[10]\n" +
         "  graph @classify(%x: f32[?n,3,32,32]) -> (f32[?n,10]) {\n" + body + "    return %y\n  }\n}\n";
}

TEST(GpuVision, AResidualNetworkThroughTheGpuPipeline) {
  auto fixture = GpuKernelFixture::create(residual_network(), GpuRows::Few, "gpu");
  ASSERT_TRUE(fixture) << fixture.message();
  GpuKernelFixture& f = **fixture;
  expect_compiles(f);
  // Each convolution takes along the norm, the sum and the relu after it; 6 norms' scale and variance; pool, mean, product, softmax.
  std::map<std::string, int> launches;
  for (const rt::Launch& l : f.program().entries[0].launches) {
    const std::string& symbol = f.program().kernels[l.kernel].symbol;
    ++launches[symbol.substr(0, symbol.find('_'))];
  }
  EXPECT_EQ(launches["conv2d"], 6);
  EXPECT_EQ(launches["matmul"], 1);
  EXPECT_EQ(launches["rows"], 6 * 2 + 3);
  for (int64_t n : {1, 3}) check_graph(f, "classify", {{"n", n}}, 1e-4, "classify");
}

// Mutants of a convolution

codegen::LoweredKernel lowered(const std::string& text) {
  auto module = ir::parse(text, "text");
  EXPECT_TRUE(module) << module.message();
  auto steps = passes::parse_pipeline("gpu");
  const Status passed = passes::Manager().run(**module, *steps);
  EXPECT_TRUE(passed) << passed.message();
  auto k = codegen::lower_gpu_kernel((*module)->graphs[0]->ops.front(), "mutant", {});
  EXPECT_TRUE(k) << k.message();
  return std::move(*k);
}

TEST(GpuVision, MutantsOfAConvolutionAreCaught) {
  const std::string text = R"(module @m level=graph {
  graph @conv(%x: f32[1,20,9,8], %k: f32[40,20,3,3]) -> (f32[1,40,7,6]) {
    %y = conv2d(%x, %k) {stride=[2,1], padding=[4,0,4,2], dilation=[2,2]} : f32[1,40,7,6]
    return %y
  }
})";
  auto module = ir::parse(text, "text");
  ASSERT_TRUE(module) << module.message();
  auto x = normal_floats(20 * 9 * 8, 1), k = normal_floats(40 * 20 * 9, 2);
  auto want = ir::Evaluator(**module).run(*(*module)->graphs[0], {{"x", tensor_of({1, 20, 9, 8}, x)}, {"k", tensor_of({40, 20, 3, 3}, k)}}, {});
  ASSERT_TRUE(want) << want.message();
  const auto wrong = [&](const std::function<void(kir::Kernel&)>& mutate) -> bool {
    codegen::LoweredKernel l = lowered(text);
    mutate(l.kernel);
    gpu_test::Emulated emulated(l.kernel, false);
    std::vector<float> y((*want)[0].f.size());
    for (uint64_t seed : {1, 2, 3}) {
      if (!emulated.run(*l.tasks.constant(), {gpu_test::memory(x), gpu_test::memory(k), gpu_test::memory(y)}, {}, seed).empty()) return true;
      if (!(largest_relative_error(y, (*want)[0].f) <= tolerance_of("conv2d"))) return true;
    }
    return false;
  };
  EXPECT_FALSE(wrong([](kir::Kernel&) {}));
  const auto constants = [](kir::Kind kind, int64_t from, int64_t to) {  // the second operand of an operation
    return [=](kir::Kernel& kernel) {
      int changes = 0;
      kernel = kir::rewritten(kernel, [&](const kir::Ref& r) -> kir::Ref {
        if (r->kind != kind || r->args[1]->kind != kir::Kind::IntConst || r->args[1]->ival != from) return nullptr;
        auto other = std::make_shared<kir::Node>(*r);
        other->args[1] = kir::constant(r->args[1]->ty, double(to)).node;
        ++changes;
        return other;
      });
      EXPECT_GT(changes, 0);
    };
  };
  EXPECT_TRUE(wrong(constants(kir::Kind::Sub, 4, 3)));   // padding
  EXPECT_TRUE(wrong(constants(kir::Kind::Mod, 3, 2)));   // column in the window
  EXPECT_TRUE(wrong(constants(kir::Kind::Lt, 8, 9)));    // one column of the image too many
  const auto barriers = kir::of_kind(kir::Stmt::Kind::Barrier);
  for (int n : {0, 1})
    EXPECT_TRUE(wrong([&](kir::Kernel& kernel) {
      EXPECT_LT(n, kir::count(kernel, barriers));
      kernel = kir::without(kernel, barriers, n);
    })) << n;
}

TEST(GpuVision, WhatIsNotSupportedIsOneClearLine) {
  auto fixture = GpuKernelFixture::create(R"(module @m level=graph {
  weight @w : q4_0[8,64]
  graph @g() -> (f32[8,64]) {
    %y = dequantize(@w) : f32[8,64]
    return %y
  }
})", GpuRows::Few);
  ASSERT_FALSE(fixture);
  EXPECT_EQ(fixture.message(), "kernel rows_0: dequantize: has no row-wise lowering");
}

}  // namespace
}  // namespace prism
