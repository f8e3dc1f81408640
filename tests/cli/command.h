// Runs the `prism` command as a user would.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "tests/cli/tiny_model.h"
#include "tests/unit/tiny_program.h"

namespace prism::cli {

using rt::testing::read_bytes;
using rt::testing::TemporaryFolder;
using rt::testing::write_bytes;

struct Outcome {
  int exit_code = -1;
  std::vector<std::string> writes;  ///< to standard output, one by one
  std::string out, err;
};

/// A folder with the tiny model, a cache for what is compiled, and the command.
class Workshop {
 public:
  Workshop() { write_bytes(folder / "tiny.gguf", tiny_model().bytes()); }

  TemporaryFolder folder;
  std::string binary = PRISM_BINARY_DIR "/prism";
  std::string output;  ///< where standard output goes if not here
  std::vector<std::string> variables;  ///< more of the environment: "NAME=value"

  std::string path(const std::string& name) const { return folder / name; }

  Outcome run(const std::vector<std::string>& arguments, const std::string& input = "") const {
    Outcome o;
    write_text("stdin", input);
    int sockets[2];  // keeps the boundaries of writes
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, path("stdin").c_str(), O_RDONLY, 0);
    if (output.empty()) posix_spawn_file_actions_adddup2(&files, sockets[1], 1);
    else posix_spawn_file_actions_addopen(&files, 1, output.c_str(), O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, 2, path("stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    std::vector<char*> argv = {const_cast<char*>("prism")};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    std::string cache = "PRISM_CACHE=" + path("cache");
    std::vector<char*> environment = {cache.data()};  // no PATH: the command needs no toolchain
    for (const std::string& v : variables) environment.push_back(const_cast<char*>(v.c_str()));
    environment.push_back(nullptr);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, binary.c_str(), &files, nullptr, argv.data(), environment.data()), 0) << binary;
    posix_spawn_file_actions_destroy(&files);
    close(sockets[1]);
    std::string buffer(1 << 20, 0);
    for (ssize_t n; (n = recv(sockets[0], buffer.data(), buffer.size(), 0)) > 0;) o.writes.push_back(buffer.substr(0, size_t(n)));
    close(sockets[0]);
    int status = 0;
    waitpid(child, &status, 0);
    o.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    for (const std::string& w : o.writes) o.out += w;
    o.err = read_text("stderr");
    return o;
  }

  /// The standard output of a command that must succeed.
  std::string must(const std::vector<std::string>& arguments, const std::string& input = "") const {
    const Outcome o = run(arguments, input);
    EXPECT_EQ(o.exit_code, 0) << arguments[0] << ": " << o.err;
    return o.out;
  }

  /// The command fails with one line on stderr that has all of these in it, prints nothing else and leaves no file.
  void must_fail(const std::vector<std::string>& arguments, const std::vector<std::string>& fragments) const {
    const std::set<std::string> before = names();
    const Outcome o = run(arguments);
    std::string trace = "prism";
    for (const std::string& a : arguments) trace += " " + a;
    SCOPED_TRACE(trace + "\n" + o.err);
    EXPECT_EQ(o.exit_code, 1);
    EXPECT_EQ(o.out, "");
    EXPECT_TRUE(o.err.starts_with("prism: "));
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1);
    EXPECT_TRUE(o.err.ends_with("\n"));
    for (const std::string& f : fragments) EXPECT_NE(o.err.find(f), std::string::npos) << "lacks: " << f;
    EXPECT_EQ(names(), before);
  }

  std::string read_text(const std::string& name) const {
    const auto bytes = read_bytes(path(name));
    return {bytes.begin(), bytes.end()};
  }
  void write_text(const std::string& name, const std::string& text) const {
    write_bytes(path(name), {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

 private:
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) all.insert(entry.path().filename());
    all.insert({"stdin", "stderr", "cache"});
    return all;
  }
};

}  // namespace prism::cli
