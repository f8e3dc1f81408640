#!/usr/bin/env bash
# From a fresh Debian 12 to generated text:   ./tools/quickstart.sh "The history of the lighthouse begins"
# Installs packages (as root), builds, gets SmolLM2-135M-Instruct, compiles it to build/smollm2.prx and runs that.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

(($# == 1)) || { say "usage: $0 PROMPT"; exit 2; }

install_packages
build "$root/build" prism --
model=$(get_model smollm2)
prism=$root/build/prism
executable=$root/build/smollm2.prx
if [[ ! $executable -nt $model || ! $executable -nt $prism ]]; then
  "$prism" compile "$model" -o "$executable" --embed-weights >&2
fi
"$prism" run "$executable" -p "$1" -n 128
