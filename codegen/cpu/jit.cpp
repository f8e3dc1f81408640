#include "codegen/cpu/jit.h"

#include <clang/CodeGen/CodeGenAction.h>
#include <clang/Driver/Compilation.h>
#include <clang/Driver/Driver.h>
#include <clang/Frontend/CompilerInstance.h>
#include <clang/Frontend/CompilerInvocation.h>
#include <clang/Frontend/TextDiagnosticPrinter.h>
#include <lld/Common/Driver.h>
#include <llvm/Object/ELFObjectFile.h>
#include <llvm/Support/CrashRecoveryContext.h>
#include <llvm/Support/FileSystem.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/VirtualFileSystem.h>
#include <llvm/Support/raw_ostream.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

LLD_HAS_DRIVER(elf)

namespace {

using llvm::StringRef;

constexpr char kSourceName[] = "kernel.c";

/// What a stage produced, or why it could not.
template <class T>
struct Outcome {
  std::optional<T> value;
  std::string error;
};

/// Collects diagnostics as lines of text, without the source excerpts: the source is generated.
struct Diagnostics {
  std::string text;
  llvm::raw_string_ostream stream{text};
  llvm::IntrusiveRefCntPtr<clang::DiagnosticOptions> options = new clang::DiagnosticOptions;
  clang::TextDiagnosticPrinter printer{stream, options.get()};

  Diagnostics() {
    options->ShowCarets = 0;
    options->ShowOptionNames = 0;
  }
};

llvm::IntrusiveRefCntPtr<llvm::vfs::FileSystem> file_system_with(StringRef source) {
  auto fs = llvm::makeIntrusiveRefCnt<llvm::vfs::InMemoryFileSystem>();
  fs->addFile(kSourceName, 0, llvm::MemoryBuffer::getMemBufferCopy(source));
  return fs;
}

/// The arguments of the compiler proper (-cc1) for the driver's arguments `flags`. The driver sees an empty file
/// system, so what it answers does not depend on the machine.
Outcome<std::vector<std::string>> compiler_arguments(StringRef flags) {
  std::vector<std::string> words = {"clang"};
  llvm::SmallVector<StringRef> parts;
  flags.split(parts, '\n', -1, /*KeepEmpty=*/false);
  for (StringRef part : parts) words.push_back(part.str());
  words.insert(words.end(), {"-c", kSourceName, "-o", "kernel.o"});
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());

  Diagnostics diagnostics;
  clang::DiagnosticsEngine engine(new clang::DiagnosticIDs, diagnostics.options, &diagnostics.printer,
                                  /*ShouldOwnClient=*/false);
  clang::driver::Driver driver("clang", "x86_64-unknown-linux-gnu", engine, "clang", file_system_with(""));
  std::unique_ptr<clang::driver::Compilation> compilation(driver.BuildCompilation(argv));
  if (!compilation || engine.hasErrorOccurred() || compilation->getJobs().size() != 1)
    return {{}, "compiler flags: " + diagnostics.text};
  std::vector<std::string> arguments;
  for (const char* argument : compilation->getJobs().begin()->getArguments()) arguments.push_back(argument);
  return {std::move(arguments), ""};
}

using Object = llvm::SmallVector<char, 0>;

Outcome<Object> compile_unit(const std::vector<std::string>& arguments, StringRef source) {
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());

  Diagnostics diagnostics;
  clang::CompilerInstance compiler;
  compiler.createDiagnostics(&diagnostics.printer, /*ShouldOwnClient=*/false);
  auto invocation = std::make_shared<clang::CompilerInvocation>();
  if (!clang::CompilerInvocation::CreateFromArgs(*invocation, argv, compiler.getDiagnostics()))
    return {{}, "compiler flags: " + diagnostics.text};
  invocation->getFrontendOpts().DisableFree = false;  // a process that lives on wants its memory back
  invocation->getCodeGenOpts().DisableFree = false;
  invocation->getDiagnosticOpts().ShowCarets = 0;
  compiler.setInvocation(std::move(invocation));
  compiler.createFileManager(file_system_with(source));

  Object object;
  compiler.setOutputStream(std::make_unique<llvm::raw_svector_ostream>(object));
  clang::EmitObjAction action;
  if (!compiler.ExecuteAction(action)) return {{}, diagnostics.text};
  return {std::move(object), ""};
}

/// Kernels see no library but libc's memory functions, which the loader resolves from the running program.
std::string check_undefined_symbols(llvm::MemoryBufferRef image) {
  auto file = llvm::object::ObjectFile::createELFObjectFile(image);
  if (!file) return "linked object: " + llvm::toString(file.takeError());
  for (const auto& symbol : llvm::cast<llvm::object::ELFObjectFileBase>(**file).getDynamicSymbolIterators()) {
    auto flags = symbol.getFlags();
    auto name = symbol.getName();
    if (!flags || !name) return "linked object: unreadable symbol table";
    if (!(*flags & llvm::object::SymbolRef::SF_Undefined) || name->empty()) continue;
    if (*name != "memcpy" && *name != "memmove" && *name != "memset")
      return "undefined symbol '" + name->str() + "', expected none but memcpy, memmove and memset";
  }
  return "";
}

/// A folder of its own, removed with everything in it: lld reads and writes real files.
struct TemporaryFolder {
  llvm::SmallString<128> path;
  std::error_code error = llvm::sys::fs::createUniqueDirectory("prism-link", path);

  ~TemporaryFolder() {
    if (!error) llvm::sys::fs::remove_directories(path);
  }
};

Outcome<std::string> link_objects(const std::vector<Object>& objects) {
  static std::mutex one_link_at_a_time;  // lld keeps its state in globals
  static bool broken = false;            // a fatal error left that state behind
  std::lock_guard lock(one_link_at_a_time);
  if (broken) return {{}, "the linker met a fatal error earlier in this process"};

  TemporaryFolder folder;
  if (folder.error) return {{}, "cannot create a temporary folder: " + folder.error.message()};
  std::vector<std::string> words = {"ld.lld",    "-shared",  "--gc-sections", "-znow", "--hash-style=gnu",
                                    "--threads=1", "-o", (folder.path + "/kernels.so").str()};
  const std::string output = words.back();
  for (size_t i = 0; i < objects.size(); ++i) {
    words.push_back((folder.path + "/" + llvm::Twine(i) + ".o").str());
    std::error_code error;
    llvm::raw_fd_ostream file(words.back(), error);
    if (!error) {
      file.write(objects[i].data(), objects[i].size());
      file.close();
      error = file.error();
      file.clear_error();
    }
    if (error) return {{}, "cannot write '" + words.back() + "': " + error.message()};
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());

  std::string messages;
  llvm::raw_string_ostream stream(messages);
  llvm::CrashRecoveryContext::Enable();  // makes lld's fatal errors return instead of ending the process
  const lld::Result result = lld::lldMain(argv, stream, stream, {{lld::Gnu, &lld::elf::link}});
  llvm::CrashRecoveryContext::Disable();
  broken = !result.canRunAgain;
  if (result.retCode != 0) return {{}, messages.empty() ? "the linker failed" : messages};

  auto image = llvm::MemoryBuffer::getFile(output, /*IsText=*/false, /*RequiresNullTerminator=*/false);
  if (!image) return {{}, "cannot read '" + output + "': " + image.getError().message()};
  if (std::string error = check_undefined_symbols(**image); !error.empty()) return {{}, error};
  return {(*image)->getBuffer().str(), ""};
}

Outcome<std::string> compile(llvm::ArrayRef<const char*> units, StringRef flags, unsigned threads) {
  static const bool initialized = [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();  // inline assembly in kernels
    return true;
  }();
  (void)initialized;

  auto arguments = compiler_arguments(flags);
  if (!arguments.value) return {{}, arguments.error};

  std::vector<Outcome<Object>> compiled(units.size());
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < units.size();) compiled[i] = compile_unit(*arguments.value, units[i]);
  };
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min<size_t>(threads, units.size()); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();

  std::vector<Object> objects;
  for (auto& unit : compiled) {
    if (!unit.value) return {{}, unit.error};
    objects.push_back(std::move(*unit.value));
  }
  return link_objects(objects);
}

char* copy(StringRef bytes) {
  char* result = static_cast<char*>(std::malloc(bytes.size() + 1));
  if (!result) std::abort();
  std::memcpy(result, bytes.data(), bytes.size());
  result[bytes.size()] = 0;
  return result;
}

}  // namespace

extern "C" int prism_cpu_jit_compile(const char* const* units, size_t unit_count, const char* flags, unsigned threads,
                                     uint8_t** object, size_t* object_bytes, char** error) {
  auto outcome = compile({units, unit_count}, flags, threads);
  if (!outcome.value) {
    *error = copy(StringRef(outcome.error).rtrim());
    return 1;
  }
  *object = reinterpret_cast<uint8_t*>(copy(*outcome.value));
  *object_bytes = outcome.value->size();
  return 0;
}
