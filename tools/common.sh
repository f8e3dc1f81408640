# Sourced by quickstart.sh and test.sh: what both need before anything of Prism exists. Progress goes to stderr.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Debian 12. The runtime and the `prism` command need the libraries; clang and lld are linked into the kernel compiler.
packages=(
  g++ cmake ninja-build pkg-config ccache ca-certificates python3 python3-pip
  llvm-19-dev llvm-19-tools libclang-19-dev liblld-19-dev zlib1g-dev libzstd-dev
  flatbuffers-compiler libflatbuffers-dev libxxhash-dev libcli11-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev
  libgtest-dev libbenchmark-dev
)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# progress WHAT COMMAND...: runs it quietly, saying how long it takes; shows its output if it fails.
progress() {
  local what=$1 log start=$SECONDS job status=0
  shift
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null &
  job=$!
  say "$what ..."
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.2
    (((SECONDS - start) % 10 == 9)) && { say "  ... $((SECONDS - start)) s"; sleep 1; }
  done
  wait "$job" || status=$?
  if ((status != 0)); then
    tail -n 30 "$log" >&2
    rm -f "$log"
    die "$what failed (exit code $status)"
  fi
  rm -f "$log"
}

install_packages() {
  local missing=() package as_root=()
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "run this as root once; Debian packages missing: ${missing[*]}"
    as_root=(sudo)
  fi
  progress "reading Debian's package lists" "${as_root[@]}" apt-get update -q
  progress "installing ${#missing[@]} Debian packages and what they need" \
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# build FOLDER TARGETS -- CMAKE_ARGUMENTS...: a Release build with ninja; prints ninja's progress.
build() {
  local folder=$1 targets=$2
  shift 3
  local launcher=()
  command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  progress "configuring ${folder#"$root"/}" \
    cmake -G Ninja -S "$root" -B "$folder" -DCMAKE_BUILD_TYPE=Release "${launcher[@]}" "$@"
  # shellcheck disable=SC2086  # several targets
  NINJA_STATUS='[%f/%t, %e s] ' ninja -C "$folder" $targets >&2 || die "building ${folder#"$root"/} failed"
}

models=${PRISM_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/prism/models}

# get_model NAME: prints the path of the model file, downloading it if it is not there.
get_model() { python3 "$root/tools/get_model.py" "$1" "$models"; }

# get_nvrtc: the compiler of GPU kernels, which the tests need: the CUDA toolkit's, or else a copy beside the models.
get_nvrtc() {
  [[ -e /usr/local/cuda/lib64/libnvrtc.so.13 ]] && return
  [[ $(ldconfig -p 2>/dev/null) == *libnvrtc.so.1[23]* ]] && return
  local folder=${models%/*}/nvrtc-13.0.88 wanted=$(mktemp)
  printf '%s\n' "nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575" >"$wanted"
  [[ -e $folder/nvidia/cu13/lib/libnvrtc.so.13 ]] ||
    progress "getting NVRTC" python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-cache-dir \
      --only-binary :all: --require-hashes --target "$folder" -r "$wanted"
  rm -f "$wanted"
  export LD_LIBRARY_PATH=$folder/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}
