#include "tools/write_model.h"

#include <atomic>
#include <mutex>

#include "runtime/fill.h"
#include "runtime/temporary_file.h"
#include "tools/model.h"

namespace prism::tools {

Status write_model(const gguf::File& model, const std::string& path, const std::string& what, unsigned threads) {
  constexpr uint64_t kPieceElements = uint64_t(1) << 19;
  struct Piece {
    const gguf::TensorInfo* tensor;
    uint64_t offset, bytes;
  };
  std::vector<Piece> pieces;
  uint64_t total = 0;
  for (const gguf::TensorInfo& t : model.tensors()) {
    const uint64_t most = kPieceElements / ir::info(t.dtype).block * ir::info(t.dtype).bytes;
    for (uint64_t at = 0; at < t.bytes; at += most) pieces.push_back({&t, at, std::min(most, t.bytes - at)});
    total += t.bytes;
  }
  PRISM_TRY(auto team, rt::ThreadTeam::create(threads));
  PRISM_TRY(auto file, rt::TemporaryFile::create(path));
  PRISM_CHECK(file.reserve(model.size()));
  PRISM_CHECK(file.write(model.bytes()));
  const rt::Progress progress = stderr_progress();
  rt::ProgressCounter counter(progress, what, total);
  std::mutex mutex;
  Status status = ok();
  std::atomic<bool> failed{false};
  rt::parallel_for(*team, pieces.size(), [&](size_t i) {
    if (failed) return;
    thread_local std::vector<uint8_t> buffer;
    const Piece& piece = pieces[i];
    buffer.resize(piece.bytes);
    model.read(*piece.tensor, piece.offset, buffer);
    if (Status written = file.write(buffer, piece.tensor->offset + piece.offset); !written) {
      failed = true;
      std::lock_guard lock(mutex);
      status = written;
      return;
    }
    counter.add(piece.bytes);
  });
  PRISM_CHECK(status);
  return file.commit(/*durable=*/false);  // it can be made again
}

}  // namespace prism::tools
