"""What is compared: one Row a line. A new comparison is a new line."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    model: str          # a key of MODELS, or the path of a GGUF file
    phase: str          # "prefill" or "decode"
    tokens: int
    threads: int = 2
    depth: int = 0      # positions in the cache before
    bar: float = 1.0    # the ratio to llama.cpp that is to be reached

    @property
    def name(self):
        model = self.model if self.model in MODELS else self.model.rsplit("/", 1)[-1]
        depth = f" at {self.depth}" if self.depth else ""
        return f"{model} {self.phase} {self.tokens}{depth}, {self.threads} thread{'s' if self.threads > 1 else ''}"


# name -> the model's name in tools/get_model.py, and the type llama-quantize makes of it first
MODELS = {
    "smollm2-q4_1": ("smollm2", None),
    "smollm2-f16": ("smollm2", "F16"),
    "gemma3-f16": ("gemma3", "F16"),
    "qwen2.5-f16": ("qwen2.5", "F16"),
    "smollm2-q8_0": ("smollm2", "Q8_0"),
    "smollm2-q4_0": ("smollm2", "Q4_0"),
    "gemma3-q4_k_m": ("gemma3", None),
    "qwen2.5-q4_k_m": ("qwen2.5", None),
}

SETS = {
    "cpu": [
        Row("smollm2-q4_1", "prefill", 512, bar=10),
        Row("smollm2-q4_1", "decode", 64, bar=3),
        Row("smollm2-q4_1", "prefill", 512, threads=1, bar=9),
        Row("smollm2-q4_1", "decode", 64, threads=1, bar=2.4),
        Row("gemma3-q4_k_m", "prefill", 512, bar=5),
        Row("gemma3-q4_k_m", "decode", 64, bar=2),
        Row("qwen2.5-q4_k_m", "prefill", 512, bar=2.3),
        Row("qwen2.5-q4_k_m", "decode", 64, bar=1.3),
        Row("smollm2-q4_1", "decode", 32, depth=4096, bar=3.3),
        Row("smollm2-q4_1", "prefill", 4096, bar=8),
        Row("smollm2-f16", "decode", 32, bar=1.25),
        Row("smollm2-q8_0", "decode", 32, bar=1.7),
        Row("smollm2-q4_0", "decode", 32, bar=2),
    ],
}

# Every engine built for AVX2, as CPUs without AVX-512 run it: not slower.
SETS["avx2"] = [Row(model, phase, tokens, depth=depth)
                for model, phase, tokens, depth in (
                    ("smollm2-q4_1", "prefill", 512, 0), ("smollm2-q4_1", "decode", 64, 0), ("smollm2-q4_1", "decode", 32, 4096),
                    ("gemma3-q4_k_m", "prefill", 512, 0), ("gemma3-q4_k_m", "decode", 64, 0),
                    ("qwen2.5-q4_k_m", "prefill", 512, 0), ("qwen2.5-q4_k_m", "decode", 64, 0),
                    ("smollm2-f16", "prefill", 512, 0), ("smollm2-f16", "decode", 32, 0),
                    ("smollm2-q8_0", "prefill", 512, 0), ("smollm2-q8_0", "decode", 32, 0),
                    ("smollm2-q4_0", "prefill", 512, 0), ("smollm2-q4_0", "decode", 32, 0))]
ISA_OF_SET = {"avx2": "avx2"}   # of others, this machine's best

# With more threads than cores (twice as many) decoding keeps this part of its speed.
THREADS_OVER = Row("qwen2.5-q4_k_m", "decode", 64, bar=0.9)
