#!/usr/bin/env bash
# Checks and measures Prism on a GPU, from the folder that gpu_bundle.sh makes. A step that fails is recorded, and the rest goes
# on; a stage takes less than ten minutes, and the steps it has no time for are recorded as skipped.
#
#   gpu_suite.sh STAGE... [--out FOLDER] [--target cuda|emu] [--quick]
#
#   kernels   tests of the kernels            speed     prefill and decode of whole models, and what bounds them (prism roofline)
#   tokens    greedy tokens of GPU and CPU    deep      decode at positions 4096 and 32768, prefill of 8192
#   sanitize  small models and some kernels under compute-sanitizer, where it is
#   bench     kernels alone                   profile   time and bytes of each kernel of whole models (needs ncu)
#   hf        transformers, bandwidth         summary   all results so far: results.json and a table
#   all       all of these, one after the other
#
# Results go to FOLDER (default: gpu-results), which later calls add to. NVRTC: $CUDA_HOME or /usr/local/cuda.
#
# The emulated device needs libprism_cpu_jit.so, which a bundle has not: LD_LIBRARY_PATH=build.
# shellcheck disable=SC2317  # stages are called by name
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly stage_seconds=540

usage() { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 2; }

stages=() out=gpu-results target=cuda quick=
while (($#)); do
  case $1 in
    --out | --target) (($# > 1)) || usage ;;&
    --out) out=$2; shift ;;
    --target) target=$2; shift ;;
    --quick) quick=1 ;;
    all) stages+=(kernels tokens sanitize speed deep profile bench hf summary) ;;
    kernels | tokens | sanitize | speed | deep | profile | bench | hf | summary) stages+=("$1") ;;
    *) usage ;;
  esac
  shift
done
((${#stages[@]})) || usage
[[ $target == cuda || $target == emu ]] || usage
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)

export PRISM_GPU_TARGET=$target
export PRISM_CACHE=${PRISM_CACHE:-$out/cache}
if [[ -z ${CUDA_HOME-} && -d /usr/local/cuda ]]; then export CUDA_HOME=/usr/local/cuda; fi
with_libraries=(env LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
prism=("${with_libraries[@]}" "$here/bin/prism")
threads=$(nproc)

# step NAME SECONDS COMMAND...: standard output to NAME.out, the rest to NAME.log; how it went to NAME.step.
step() {
  local name=$1 seconds=$2 left=$((stage_end - SECONDS)) start=$SECONDS status=0
  shift 2
  rm -f "$out/$name".{out,log,step}
  if ((left < 5)); then
    printf 'skipped 0 no time left in the stage\n' >"$out/$name.step"
    printf '%-36s skipped: no time left in the stage\n' "$name" >&2
    return 1
  fi
  timeout --kill-after=5 "$((seconds < left ? seconds : left))" "$@" >"$out/$name.out" 2>"$out/$name.log" </dev/null || status=$?
  local word=ok
  ((status == 0)) || word=failed
  ((status != 124 && status != 137)) || word="out-of-time"
  printf '%s %d exit code %d\n' "$word" "$((SECONDS - start))" "$status" >"$out/$name.step"
  printf '%-36s %s, %d s\n' "$name" "$word" "$((SECONDS - start))" >&2
  ((status == 0)) || tail -n 3 "$out/$name.log" >&2
  return "$status"
}

# In many processes at once: most of the time goes to compiling.
stage_kernels() {
  rm -f "$out"/kernels-*
  local suites='GpuRows.*:GpuGemv.*:GpuGemm.*:GpuFlash.*:GpuAttention.*:GpuVision.*:GpuSample.*:*GpuCompressed*:*GpuEvicting*' processes=$threads i
  [[ -z $quick ]] || suites='GpuRows.*' processes=1
  ((processes <= 12)) || processes=12
  # Left out: what changes kernels to see tests fail, which is of the emulated device, and what compiles for the CPU.
  for ((i = 0; i < processes; ++i)); do
    GTEST_TOTAL_SHARDS=$processes GTEST_SHARD_INDEX=$i step "kernels-$i" 240 "${with_libraries[@]}" "$here/bin/prism_tests" --gtest_brief=1 \
      --gtest_filter="$suites-*Mistakes*:*Mutants*:*SessionsOfAllDevices*" --gtest_output="json:$out/kernels-$i.tests" &
  done
  wait
}

stage_tokens() {
  local shape=smollm2-135m count=64 type
  [[ -z $quick ]] || { shape=tiny-llama count=8; }
  local common=(-p "The history of the lighthouse begins" -n "$count" -t "$threads" --ignore-eos --json)
  # With bf16 weights both compute in f32; with quantized ones a value that falls between two bytes may fall either way, and random weights make near ties.
  for type in bf16 q4_k; do
    step "tokens-$type-cpu" 120 "${prism[@]}" run "$here/$shape-$type.prx" "${common[@]}"
    step "tokens-$type-graph" 180 "${prism[@]}" run "synth:$shape:$type" --target "$target" "${common[@]}"
    step "tokens-$type-persistent" 180 "${prism[@]}" run "synth:$shape:$type" --target "$target" --persistent "${common[@]}"
  done
}

# What compute-sanitizer looks for in a step: accesses out of bounds and of nothing written, races in shared memory.
stage_sanitize() {
  local sanitizer tool
  sanitizer=$(command -v compute-sanitizer || find /usr/local/cuda -maxdepth 3 -name compute-sanitizer 2>/dev/null | head -n 1)
  [[ -n $sanitizer ]] || { printf 'compute-sanitizer is not here\n' >&2; return; }
  for tool in memcheck racecheck initcheck; do
    step "sanitize-$tool-model" 120 "${with_libraries[@]}" "$sanitizer" --tool "$tool" --error-exitcode 3 \
      "$here/bin/prism" run synth:tiny-llama:q4_k --target "$target" -t "$threads" -p "The history of the lighthouse begins" -n 8 --ignore-eos --kv k4v3
    step "sanitize-$tool-kernels" 120 "${with_libraries[@]}" "$sanitizer" --tool "$tool" --error-exitcode 3 \
      "$here/bin/prism_tests" --gtest_brief=1 --gtest_filter='GpuAttention.*:GpuGemv.NormsOfOneRow:GpuRows.*'
  done
}

# deep_steps NAME MODEL KV...: decoding far into a context, with each kind of cache; and a long prompt.
deep_steps() {
  local name=$1 model=$2 kv depths=4096,32768 prompt=8192
  shift 2
  [[ -z $quick ]] || depths=300 prompt=20
  for kv in "$@"; do
    step "speed-$name-deep-$kv" 90 "${prism[@]}" bench "$model" --target "$target" -t "$threads" --json -r 3 -p 0 -n 32 -d "$depths" --kv "$kv"
  done
  step "speed-$name-long" 60 "${prism[@]}" bench "$model" --target "$target" -t "$threads" --json -r 3 -p "$prompt" -n 0
}

stage_deep() {
  if [[ -n $quick ]]; then
    deep_steps tiny-q4_k synth:tiny-llama:q4_k f16 k4v3
    return
  fi
  deep_steps 8b-q4_k synth:llama-3.1-8b:q4_k f16 k8v8 k4v3
  deep_steps 1b-bf16 synth:llama-3.2-1b:bf16 f16 k4v3
  local type
  for type in bf16 q8_0; do deep_steps "8b-$type" "synth:llama-3.1-8b:$type" f16 k4v3; done
}

# speed_steps NAME MODEL: two steps, because a model is made anew for each.
speed_steps() {
  local common=("${prism[@]}" bench "$2" --target "$target" -t "$threads" --json)
  local prompts=512,2048 count=128 depths=0,4096 repeats=5 at_once=8,16
  [[ -z $quick ]] || { prompts=8,16 count=4 depths=0,16 repeats=1 at_once=4; }
  common+=(-r "$repeats" -d "$depths")
  [[ $target == emu ]] || step "roofline-$1" 60 "${prism[@]}" roofline "$2" --json -d "$depths" -p 2048
  step "speed-$1-graph" 120 "${common[@]}" -p "$prompts" -n "$count" --verify "$at_once"
  step "speed-$1-persistent" 120 "${common[@]}" -p 0 -n "$count" --persistent
}

stage_speed() {
  rm -f "$out/speed-bandwidth.result"
  step speed-bandwidth 60 python3 "$here/gpu_hf.py" --only bandwidth --out "$out/speed-bandwidth.result"
  if [[ -n $quick ]]; then
    speed_steps tiny-q4_k synth:tiny-llama:q4_k
    return
  fi
  speed_steps 1b-bf16 synth:llama-3.2-1b:bf16
  local type
  for type in q4_k bf16 q8_0 q4_k_m; do speed_steps "8b-$type" "synth:llama-3.1-8b:$type"; done
}

# profile_step NAME FIRST COUNT MODEL ARGUMENTS...: COUNT launches after the first FIRST.
profile_step() {
  local name=$1 first=$2 count=$3 model=$4
  shift 4
  step "profile-$name" 60 "${with_libraries[@]}" "$ncu" --clock-control none --csv --launch-skip "$first" --launch-count "$count" \
    --metrics gpu__time_duration.sum,dram__bytes.sum "$here/bin/prism" bench "$model" --target "$target" -t "$threads" -r 1 "$@"
}

stage_profile() {
  local ncu
  ncu=$(command -v ncu || find /usr/local/cuda/bin /opt/nvidia -maxdepth 3 -name ncu 2>/dev/null | head -n 1)
  [[ -n $ncu ]] || { printf 'ncu is not here\n' >&2; return; }
  profile_step 1b-bf16-decode 400 120 synth:llama-3.2-1b:bf16 -p 0 -n 8
  profile_step 8b-q4_k-decode 800 220 synth:llama-3.1-8b:q4_k -p 0 -n 8
  profile_step 8b-q4_k-decode-deep 800 220 synth:llama-3.1-8b:q4_k -p 0 -n 8 -d 4096
  profile_step 1b-bf16-prefill 0 120 synth:llama-3.2-1b:bf16 -p 2048 -n 0
  profile_step 8b-q4_k-prefill 0 220 synth:llama-3.1-8b:q4_k -p 2048 -n 0
}

stage_bench() {
  # A step for each group: making the weights takes longer than the measurement.
  local groups=(attention_prefill attention_decode linear/{bf16,q8_0,q4_k,f16,q6_k,q4_0,q5_k,q4_1,q5_0,q5_1,iq4_xs,iq4_nl,q3_k,q2_k,f32}) group
  [[ -z $quick ]] || groups=(linear/bf16)
  for group in "${groups[@]}"; do
    step "bench-${group/\//-}" 180 "${with_libraries[@]}" "$here/bin/prism_bench_gpu_kernels" --benchmark_format=json \
      --benchmark_min_time=0.1 --benchmark_filter="^$group/"
  done
}

stage_hf() { rm -f "$out/hf.result"; step hf 535 python3 "$here/gpu_hf.py" --out "$out/hf.result" ${quick:+--quick}; }

stage_summary() { python3 "$here/gpu_summary.py" "$out" --commit "$(cat "$here/commit" 2>/dev/null || echo unknown)" --target "$target"; }

status=0
for stage in "${stages[@]}"; do
  printf -- '--- %s\n' "$stage" >&2
  stage_end=$((SECONDS + stage_seconds))
  "stage_$stage" || { [[ $stage != summary ]] || status=1; }
done
exit "$status"
