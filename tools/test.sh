#!/usr/bin/env bash
# Builds and runs every test. The last line is "N passed, N failed"; a test that is skipped, or a runner that crashes,
# counts as failed. Reference data: $PRISM_SHARED (default ../shared/reference). Models: $PRISM_MODELS.
#
#   tools/test.sh [--all-models]    also Gemma-3-270M and Qwen2.5-Coder-1.5B: 1.4 GB and an hour more
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

test_models=(smollm2)
case "${1-}" in
  "") ;;
  --all-models) test_models+=(gemma3 qwen2.5) ;;
  *) say "usage: $0 [--all-models]"; exit 2 ;;
esac
export PRISM_TEST_MODELS="${test_models[*]}"

install_packages
build "$root/build" all --
build "$root/build-asan" prism_tests -- -DPRISM_SANITIZE=ON -DCMAKE_CXX_FLAGS_RELEASE=-O1
for name in "${test_models[@]}"; do get_model "$name" >/dev/null; done
get_nvrtc

export PRISM_MODELS=$models
export PRISM_SHARED=${PRISM_SHARED:-$root/../shared/reference}
export PRISM_CACHE=$root/build/test-cache  # empty at first, so that compiling is tested
rm -rf "$PRISM_CACHE" "$root"/build/results-*.json "$root"/build-asan/results-*.json
# What a small bad file may cost: a bound on one allocation and on the whole process.
export ASAN_OPTIONS=max_allocation_size_mb=1024:hard_rss_limit_mb=4096:detect_leaks=1
export UBSAN_OPTIONS=print_stacktrace=1

# run NAME RESULTS COMMAND...: its exit code is looked at by count_tests.py, together with the results it wrote.
runs=()
run() {
  local name=$1 results=$2 status=0
  shift 2
  say "--- $name"
  "$@" >&2 || status=$?
  runs+=("$name" "$results" "$status")
}

# run_units NAME FOLDER ARGUMENTS...: the unit tests in as many processes as there are cores, each with its part and a cache of its own.
run_units() {
  local name=$1 folder=$2 shards part status jobs=()
  shift 2
  shards=$(nproc)
  say "--- $name, in $shards parts"
  for ((part = 0; part < shards; ++part)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$part PRISM_CACHE=$PRISM_CACHE/$part \
      "$folder/prism_tests" --gtest_brief=1 --gtest_output="json:$folder/results-unit-$part.json" "$@" >&2 &
    jobs+=($!)
  done
  for ((part = 0; part < shards; ++part)); do
    status=0
    wait "${jobs[part]}" || status=$?
    runs+=("$name, part $((part + 1))" "$folder/results-unit-$part.json" "$status")
  done
}

run_units "unit tests" "$root/build"
run_units "unit tests, sanitized" "$root/build-asan" --gtest_filter='-*ReferenceEvaluation.*'
run "text tests" "$root/build/results-lit.json" \
  python3 /usr/lib/llvm-19/build/utils/lit/lit.py -q -o "$root/build/results-lit.json" \
  --param build="$root/build" "$root/tests"

exec python3 "$root/tools/count_tests.py" "${runs[@]}"
