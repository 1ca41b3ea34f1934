"""Writes a random-weight checkpoint of a model's shape, and rows of random tokens, for the comparison with PyTorch.

usage: checkpoint.py SHAPE FOLDER [f32|bf16|f16]   config.json and model.safetensors
       checkpoint.py SHAPE FILE ROWS TOKENS LABELLED      JSON lines; labels on the last share LABELLED of each row
Speed depends on shapes, not on values.
"""
import json
import os
import struct
import sys

import numpy as np

COMMON = {"tie_word_embeddings": True, "hidden_act": "silu"}
SHAPES = {
    "smol": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
             "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
             "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000, **COMMON},
    "qwen": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
             "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
             "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000, **COMMON},
    "llama7b": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
                "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000, **COMMON,
                "tie_word_embeddings": False},
}
STD = 0.03


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    width, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv_width = width // config["num_attention_heads"] * config["num_key_value_heads"]
    linears = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv_width, width),
               "self_attn.v_proj": (kv_width, width), "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width),
               "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, width)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = shapes[prefix + "post_attention_layernorm.weight"] = (width,)
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config["model_type"] == "qwen2" and name[10:] in ("q_proj", "k_proj", "v_proj"):
                shapes[f"{prefix}{name}.bias"] = shape[:1]
    return shapes


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even; the values are finite."""
    bits = values.view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


# Name in config.json, bytes of an element, and how values are stored.
DTYPES = {"f32": ("float32", 4, lambda values: values), "bf16": ("bfloat16", 2, to_bf16),
          "f16": ("float16", 2, lambda values: values.astype(np.float16))}


def write_checkpoint(config: dict, folder: str, dtype: str) -> None:
    config_name, size, store = DTYPES[dtype]
    shapes, header, end = tensor_shapes(config), {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + size * int(np.prod(shape))
        header[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config | {"torch_dtype": config_name}, file, indent=1)
    partial = os.path.join(folder, "model.safetensors.partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = np.ones(shape, np.float32) if "norm" in name else rng.standard_normal(shape, np.float32) * STD
            file.write(store(values).tobytes())
    os.replace(partial, os.path.join(folder, "model.safetensors"))


def write_rows(config: dict, path: str, rows: int, tokens: int, labelled: float) -> None:
    rng = np.random.default_rng(1)
    without = tokens - round(tokens * labelled)
    with open(path, "w") as file:
        for _ in range(rows):
            ids = rng.integers(0, config["vocab_size"], tokens).tolist()
            print(json.dumps({"input_ids": ids, "labels": [-100] * without + ids[without:]}), file=file)


if __name__ == "__main__":
    dtypes = sys.argv[3:] or ["f32"]
    if len(sys.argv) > 2 and len(dtypes) == 1 and dtypes[0] in DTYPES:
        write_checkpoint(SHAPES[sys.argv[1]], sys.argv[2], dtypes[0])
    elif len(sys.argv) == 6:
        write_rows(SHAPES[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
    else:
        sys.exit(__doc__)
