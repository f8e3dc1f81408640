#!/usr/bin/env python3
"""Hugging Face transformers on this machine's GPU, to compare with: Llama models of random bf16 weights, batch 1.

    gpu_hf.py --out FILE [--quick] [--only bandwidth] [--seconds N]

Decode as it comes (dynamic cache) and with a static cache and torch.compile; prefill; bandwidth of memory; a matrix product.
Medians of 5. What fails or has no time left is recorded with its reason.
"""
import argparse
import gc
import json
import statistics
import time

# hidden, intermediate, layers, heads, kv_heads, head_size, vocab, rope base, tied; seconds it may take
SHAPES = {
    "llama-3.2-1b": ((2048, 8192, 16, 32, 8, 64, 128256, 5e5, True), 140),
    "llama-3.1-8b": ((4096, 14336, 32, 32, 8, 128, 128256, 5e5, False), 220),
    "smollm2-135m": ((576, 1536, 30, 9, 3, 64, 49152, 1e5, True), 100),
}
TOTAL_SECONDS = 490
COMPILE_SECONDS = 60   # torch.compile's, of which nothing would be known if the time ran out
PROMPT = 16    # before what is decoded
REPEATS = 5


def reason(error):
    return f"{type(error).__name__}: {str(error).strip()[:400]}"


class Budget:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


def summary(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "samples": values}


def seconds_of(torch, function, repeats=REPEATS, warm=2, budget=None):
    """Seconds of each of several calls, or of fewer when the time is up, but one at the least."""
    for _ in range(warm):
        function()
    samples = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        samples.append(1e-3 * start.elapsed_time(end))
        if budget and budget.left() < 2 * max(samples):
            break
    return samples


def bandwidth(torch, quick):
    size = (1 if quick else 8) * 10**9
    source = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    samples = seconds_of(torch, lambda: target.copy_(source))
    return {"bytes": size, "bytes_per_second": summary([2 * size / s for s in samples])}


def product(torch, quick):
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    c = torch.empty_like(a)
    samples = seconds_of(torch, lambda: [torch.mm(a, b, out=c) for _ in range(10)])
    return {"n": n, "flops_per_second": summary([10 * 2 * n**3 / s for s in samples])}


def make_model(torch, shape):
    from transformers import LlamaConfig, LlamaForCausalLM
    hidden, intermediate, layers, heads, kv_heads, head_size, vocab, base, tied = shape
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_size, vocab_size=vocab, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": base}, rms_norm_eps=1e-5, tie_word_embeddings=tied,
        attn_implementation="sdpa")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def decode_rates(torch, model, ids, count, budget, cache_of, step):
    """Tokens/s of several rounds of greedy decoding after a prompt; the first round, not counted, warms up."""
    rates = []
    for turn in range(REPEATS + 1):
        cache = cache_of()
        token = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
        position = torch.tensor([[ids.shape[1]]], device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count if turn else min(count, 8)):
            token = step(token, cache, position)
            position = position + 1
        torch.cuda.synchronize()
        if turn:
            rates.append(count / (time.perf_counter() - start))
            if budget.left() < 1.5 * count / rates[-1]:
                break
    return rates


def measure_model(torch, shape, budget, quick):
    from transformers import DynamicCache, StaticCache
    result = {"cut": []}
    count, long = (8, 128) if quick else (128, 2048)
    start = time.monotonic()
    model = make_model(torch, shape)
    torch.cuda.synchronize()
    result["load_seconds"] = time.monotonic() - start
    result["parameters"] = sum(p.numel() for p in model.parameters())
    ids = torch.randint(0, shape[6], (1, PROMPT), device="cuda")

    def forward(token, cache, position):
        return model(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

    def part(name, function, least=5):
        if budget.left() < least:
            result["cut"].append(f"{name}: no time left")
            return
        try:
            values = function()
            result[name] = {"tokens": long if name == "prefill" else count, "depth": 0 if name == "prefill" else PROMPT,
                            **summary(values)}
            if len(values) < REPEATS:
                result["cut"].append(f"{name}: {len(values)} of {REPEATS} rounds")
        except Exception as error:  # recorded: the rest can still be measured
            result[name] = {"error": reason(error)}

    def prefill():
        prompt = torch.randint(0, shape[6], (1, long), device="cuda")
        call = lambda: model(input_ids=prompt, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)
        return [long / s for s in seconds_of(torch, call, budget=budget)]

    def compiled():
        static = StaticCache(config=model.config, max_cache_len=PROMPT + count + 8)
        fast = torch.compile(forward, mode="reduce-overhead", fullgraph=False)

        def cache_of():
            static.reset()
            return static

        def step(token, cache, position):
            torch.compiler.cudagraph_mark_step_begin()
            return fast(token, cache, position).clone()
        decode_rates(torch, model, ids, min(count, 8), Budget(0), cache_of, step)  # compiles
        return decode_rates(torch, model, ids, count, budget, cache_of, step)

    with torch.inference_mode():
        part("decode_eager", lambda: decode_rates(torch, model, ids, count, budget, lambda: DynamicCache(config=model.config), forward))
        part("prefill", prefill)
    with torch.no_grad():  # compiled code may not change tensors of inference mode
        part("decode_compiled", compiled, 5 if quick else COMPILE_SECONDS)
    return result


def measure(options, result):
    try:
        import torch
    except ImportError as error:
        result["skipped"] = f"no torch: {error}"
        return
    result["torch"] = torch.__version__
    if not torch.cuda.is_available():
        result["skipped"] = "torch finds no CUDA device"
        return
    result["device"] = torch.cuda.get_device_name()
    for name, function in (("bandwidth", bandwidth), ("product", product)):
        if options.only in (None, name):
            try:
                result[name] = function(torch, options.quick)
            except Exception as error:
                result[name] = {"error": reason(error)}
            torch.cuda.empty_cache()
    if options.only:
        return
    try:
        import transformers
    except ImportError as error:
        result["skipped"] = f"no transformers: {error}"
        return
    result["transformers"] = transformers.__version__
    result["models"] = {}
    total = Budget(options.seconds)
    share = options.seconds / TOTAL_SECONDS
    for name, (shape, seconds) in SHAPES.items():
        if options.quick and name != "smollm2-135m":
            continue
        try:
            result["models"][name] = measure_model(torch, shape, Budget(min(share * seconds, total.left())), options.quick)
        except Exception as error:
            result["models"][name] = {"error": reason(error)}
        write(options.out, result)
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


def write(path, result):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="only the smallest model, few tokens")
    parser.add_argument("--only", choices=["bandwidth", "product"], help="only this")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="that all models may take; default: %(default)s")
    options = parser.parse_args()
    start = time.monotonic()
    result = {}
    measure(options, result)
    result["seconds"] = time.monotonic() - start
    write(options.out, result)
    print(json.dumps({k: result[k] for k in ("skipped", "device", "seconds") if k in result}))


if __name__ == "__main__":
    main()
