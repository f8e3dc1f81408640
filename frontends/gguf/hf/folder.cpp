#include "frontends/gguf/hf/folder.h"

#include <cstring>
#include <filesystem>

#include "frontends/gguf/hf/config.h"
#include "frontends/gguf/hf/vocabulary.h"

namespace prism::gguf::hf {
namespace {

namespace fs = std::filesystem;

/// Elements of the tensor that follow each other in its source, too.
struct Run {
  uint64_t from, count;
};

/// The run that begins with element i.
Run run_at(const Recipe& r, uint64_t i) {
  const auto rows = uint64_t(r.shape[0]), columns = r.shape.size() == 1 ? 1 : uint64_t(r.shape[1]);
  const uint64_t row = i / columns, column = i % columns;
  switch (r.order) {
    case Recipe::Order::Same:
      return {i, rows * columns - i};
    case Recipe::Order::Transposed:
      return {column * rows + row, 1};
    case Recipe::Order::Interleaved: {
      const uint64_t size = rows / uint64_t(r.heads), head = row / size, place = row % size;
      return {(head * size + place % 2 * (size / 2) + place / 2) * columns + column, columns - column};
    }
  }
  return {i, 1};
}

void make(const Recipe& r, uint64_t offset, std::span<uint8_t> out) {
  if (!r.from) {
    std::memcpy(out.data(), reinterpret_cast<const uint8_t*>(r.values.data()) + offset, out.size());
    return;
  }
  const ir::DType source = *dtype_of(*r.from);
  const uint64_t bytes = ir::info(source).bytes, first = offset / ir::info(r.dtype).bytes, count = out.size() / ir::info(r.dtype).bytes;
  std::vector<uint8_t> other(r.dtype == source ? 0 : count * bytes);
  uint8_t* gathered = r.dtype == source ? out.data() : other.data();
  for (uint64_t done = 0; done < count;) {
    const Run run = run_at(r, first + done);
    const uint64_t n = std::min(run.count, count - done);
    std::memcpy(gathered + done * bytes, r.from->data.data() + run.from * bytes, n * bytes);
    done += n;
  }
  if (r.dtype == source && r.add == 0) return;
  std::vector<float> values(count);  // r.dtype is F32
  ir::dequantize_row(source, gathered, values.data(), count);
  for (float& v : values) v += r.add;
  std::memcpy(out.data(), values.data(), out.size());
}

/// llama.cpp's number for "mostly of this type".
int64_t file_type(ir::DType t) { return t == ir::DType::F32 ? 0 : t == ir::DType::F16 ? 1 : 32; }

/// What a folder's files become.
struct Source {
  Weights weights;
  std::map<std::string, Recipe, std::less<>> recipes;
};

}  // namespace

bool is_folder(const std::string& path) {
  std::error_code ec;
  return fs::is_directory(path, ec) && fs::exists(path + "/config.json", ec);
}

Result<std::shared_ptr<File>> open_folder(const std::string& path) {
  const std::string folder = path.substr(0, std::max<size_t>(path.find_last_not_of('/') + 1, 1));
  const std::string config_path = folder + "/config.json";
  auto source = std::make_shared<Source>();
  PRISM_TRY(source->weights, Weights::open(folder));
  PRISM_TRY(const Json json, read_json(config_path));
  PRISM_TRY(const Object object, Object::of(json, config_path));
  HeaderWriter w;
  PRISM_TRY(Config config, read_config(object, source->weights, w));
  std::error_code ec;
  w.string("general.type", "model");
  w.string("general.name", fs::canonical(folder, ec).filename().string());
  w.u32("general.file_type", file_type(config.tensors.front().dtype));
  w.u32("general.quantization_version", 2);
  PRISM_CHECK(write_vocabulary(folder, object, config.vocab, w));
  for (Recipe& r : config.tensors) {
    w.tensor(r.name, r.dtype, r.shape);
    source->recipes.emplace(r.name, std::move(r));
  }
  auto paths = source->weights.paths;
  const auto maker = [source](const TensorInfo& t, uint64_t offset, std::span<uint8_t> out) { make(source->recipes.find(t.name)->second, offset, out); };
  return File::made(w.finish(), folder, maker, std::move(paths));
}

}  // namespace prism::gguf::hf
