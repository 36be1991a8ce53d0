"""Tensors by llama.cpp's names → by transformers' names, with what its converter did undone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmonnx.compiler.checkpoint.weights import Tensor
from lmonnx.errors import StageError, UnsupportedError

Array = npt.NDArray[Any]
Config = Mapping[str, Any]

# Read as part of the configuration, or derived from it.
NO_WEIGHTS = frozenset({"rope_freqs", "rope_factors_long", "rope_factors_short", "attn_rot_embd"})

_NAME = re.compile(r"(?:blk\.(?P<layer>0|[1-9]\d{0,3})\.)?(?P<stem>\w+)\.(?P<part>weight|bias)")


@dataclass(frozen=True, slots=True)
class RestoredTensor:
    """A tensor of the file, and what makes it the checkpoint's again."""

    stored: Tensor
    shape: tuple[int, ...]
    restore: Callable[[Array], Array]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type it is stored in."""
        return self.stored.dtype

    def read(self) -> Array:
        """Return a new array, float32 for every float type; for a moment it holds two of them."""
        with np.errstate(invalid="ignore"):  # what is no number stays none
            return np.ascontiguousarray(self.restore(self.stored.read()))


@dataclass(frozen=True, slots=True)
class Change:
    """What llama.cpp's converter does to a tensor, undone.

    Attributes:
        restore: The array, the configuration → the array of the checkpoint.
        rows: How many rows it must have for that, None for any.
        flips: The two dimensions change places.
    """

    restore: Callable[[Array, Config], Array]
    rows: Callable[[Config], int] | None = None
    flips: bool = False


def _separate_halves(rows: Array, heads: int) -> Array:
    """Undo the interleaving of each head's rotary halves (llama.cpp, `LlamaModel.permute`)."""
    split = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def _interleave_heads(rows: Array, heads: int) -> Array:
    """Put q, k and v of each head together again (llama.cpp, `GPTNeoXModel`)."""
    split = rows.reshape(3, heads, -1, *rows.shape[1:])
    return split.swapaxes(0, 1).reshape(rows.shape)


def _less_one(weight: Array, config: Config) -> Array:
    weight -= 1
    return weight


_Q = Change(
    lambda rows, config: _separate_halves(rows, config["num_attention_heads"]),
    lambda config: int(config["num_attention_heads"] * config["head_dim"]),
)
_K = Change(
    lambda rows, config: _separate_halves(rows, config["num_key_value_heads"]),
    lambda config: int(config["num_key_value_heads"] * config["head_dim"]),
)
_QKV = Change(
    lambda rows, config: _interleave_heads(rows, config["num_attention_heads"]),
    lambda config: int(3 * config["hidden_size"]),
)
_NORM = Change(_less_one)
_CONV1D = Change(lambda weight, config: weight.T, flips=True)

_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "model.layers.{}.input_layernorm",
    "attn_q": "model.layers.{}.self_attn.q_proj",
    "attn_k": "model.layers.{}.self_attn.k_proj",
    "attn_v": "model.layers.{}.self_attn.v_proj",
    "attn_output": "model.layers.{}.self_attn.o_proj",
    "ffn_norm": "model.layers.{}.post_attention_layernorm",
    "ffn_gate": "model.layers.{}.mlp.gate_proj",
    "ffn_up": "model.layers.{}.mlp.up_proj",
    "ffn_down": "model.layers.{}.mlp.down_proj",
}
_QK_NORMS = {
    "attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "attn_k_norm": "model.layers.{}.self_attn.k_norm",
}
_GEMMA2 = {
    **_LLAMA,
    "post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "post_ffw_norm": "model.layers.{}.post_feedforward_layernorm",
}
_PHI3 = {
    **{stem: name for stem, name in _LLAMA.items() if stem not in ("attn_q", "attn_k", "attn_v")},
    "attn_qkv": "model.layers.{}.self_attn.qkv_proj",
    "ffn_up": "model.layers.{}.mlp.gate_up_proj",
}
_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "transformer.h.{}.ln_1",
    "attn_qkv": "transformer.h.{}.attn.c_attn",
    "attn_output": "transformer.h.{}.attn.c_proj",
    "ffn_norm": "transformer.h.{}.ln_2",
    "ffn_up": "transformer.h.{}.mlp.c_fc",
    "ffn_down": "transformer.h.{}.mlp.c_proj",
}
_GPT_NEOX = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "attn_norm": "gpt_neox.layers.{}.input_layernorm",
    "attn_qkv": "gpt_neox.layers.{}.attention.query_key_value",
    "attn_output": "gpt_neox.layers.{}.attention.dense",
    "ffn_norm": "gpt_neox.layers.{}.post_attention_layernorm",
    "ffn_up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "ffn_down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
_ROTATED = {"attn_q.weight": _Q, "attn_q.bias": _Q, "attn_k.weight": _K, "attn_k.bias": _K}
_GEMMA_NORMS = {
    f"{stem}.weight": _NORM
    for stem in (
        *("output_norm", "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"),
        *_QK_NORMS,
    )
}
_CONV1DS = {f"{stem}.weight": _CONV1D for stem in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")}

_Table = tuple[Mapping[str, str], Mapping[str, Change]]
_TABLES: dict[str, _Table] = {
    "llama": (_LLAMA, _ROTATED),
    "smollm3": (_LLAMA, _ROTATED),
    "granite": (_LLAMA, _ROTATED),
    "qwen2": (_LLAMA, {}),
    "qwen3": (_LLAMA | _QK_NORMS, {}),
    "gemma": (_LLAMA, _GEMMA_NORMS),
    "gemma2": (_GEMMA2, _GEMMA_NORMS),
    "gemma3": (_GEMMA2 | _QK_NORMS, _GEMMA_NORMS),
    "phi3": (_PHI3, {}),
    "gpt2": (_GPT2, _CONV1DS),
    "gptneox": (_GPT_NEOX, {"attn_qkv.weight": _QKV, "attn_qkv.bias": _QKV}),
}


def restored_tensors(
    path: Path, architecture: str, tensors: Mapping[str, Tensor], config: Config
) -> dict[str, Tensor]:
    """Return the tensors under transformers' names; no number is read.

    Args:
        path: The file, for errors.
        architecture: As llama.cpp spells it, one of `gguf_config.FAMILIES`.
        tensors: By the names of the file.
        config: config.json.

    Raises:
        UnsupportedError: A tensor has no counterpart: the graph would leave it out.
        StageError: A tensor's shape does not fit the configuration.
    """
    names, changes = _TABLES[architecture]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parsed = _NAME.fullmatch(name)
        if parsed and parsed["stem"] in NO_WEIGHTS:
            continue
        template = names.get(parsed["stem"]) if parsed else None
        layer = parsed["layer"] if parsed else None
        if (
            parsed is None
            or template is None
            or ("{}" in template) != (layer is not None)
            or (layer is not None and int(layer) >= layers)
        ):
            raise UnsupportedError(
                f"{path} has the tensor {name}, for which {architecture} of {layers} layers has no"
                " place; export the original checkpoint instead"
            )
        change = changes.get(f"{parsed['stem']}.{parsed['part']}")
        found[f"{template.format(layer)}.{parsed['part']}"] = _restored(
            path, name, tensor, change, config
        )
    return found


def _restored(
    path: Path, name: str, tensor: Tensor, change: Change | None, config: Config
) -> Tensor:
    if change is None:
        return tensor
    shape = tensor.shape
    if change.rows is not None and shape[0] != change.rows(config):
        raise StageError(
            f"{path}: tensor {name} has {shape[0]} rows, where the keys say {change.rows(config)};"
            " the file is damaged, download it again"
        )
    flipped = shape[::-1] if change.flips else shape
    return RestoredTensor(tensor, flipped, lambda array: change.restore(array, config))
