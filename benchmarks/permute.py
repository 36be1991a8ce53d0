"""Writes a copy of a Llama checkpoint that computes the same function with its weights reordered.

Weights that once came from 4-bit blocks lie on the blocks' grid, and quantize to it again without a
loss. Here hidden units, FFN units, heads and the dimensions of values are permuted, and each rotary
pair is turned by a random number of quarters, so that no block of the copy was one before.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

WEIGHTS = "model.safetensors"
Weights = NDArray[Any]
Order = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Orders:
    """Where the rows and columns of one layer's matrices come from, and which rows are negated."""

    hidden: Order  # (E,)
    units: Order  # (F,) of the FFN
    query: Order  # (H·D,) rows of the query projection
    query_sign: Weights
    key: Order  # (K·D,)
    key_sign: Weights
    value: Order  # (K·D,)
    output: Order  # (H·D,) columns of the output projection


def turned(pairs: int, quarters: Order) -> tuple[Order, Weights]:
    """Return the order and signs that turn each pair (d, d + D/2) by so many quarters.

    All turns of a pair commute with the rotation by position, so q·k is unchanged.
    """
    order = np.arange(2 * pairs)
    swapped = quarters % 2 == 1
    order[:pairs][swapped] += pairs
    order[pairs:][swapped] -= pairs
    first = np.where((quarters == 1) | (quarters == 2), -1, 1)
    second = np.where(quarters >= 2, -1, 1)
    return order, np.concatenate([first, second])


def draw(random: np.random.Generator, config: Mapping[str, Any], hidden: Order) -> Orders:
    """Draw one layer's orders."""
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    query, key, value, output, query_sign, key_sign = ([] for _ in range(6))
    for group in random.permutation(groups):
        turn, sign = turned(size // 2, random.integers(0, 4, size // 2))
        dims = random.permutation(size)
        key.append(group * size + turn)
        key_sign.append(sign)
        value.append(group * size + dims)
        for head in random.permutation(heads // groups) + group * (heads // groups):
            query.append(head * size + turn)
            query_sign.append(sign)
            output.append(head * size + dims)
    joined = [np.concatenate(part) for part in (query, query_sign, key, key_sign, value, output)]
    return Orders(hidden, random.permutation(config["intermediate_size"]), *joined)


def permuted(name: str, weights: Weights, orders: Orders) -> Weights:
    """Return one tensor of a layer in its new order."""
    hidden, units = orders.hidden, orders.units
    rows: dict[str, tuple[Order, Weights | int]] = {
        "q_proj": (orders.query, orders.query_sign[:, None]),
        "k_proj": (orders.key, orders.key_sign[:, None]),
        "v_proj": (orders.value, 1),
        "gate_proj": (units, 1),
        "up_proj": (units, 1),
    }
    columns = {"o_proj": orders.output, "down_proj": units}
    part = name.split(".")[-2]
    if part in rows:
        order, sign = rows[part]
        return weights[order][:, hidden] * np.asarray(sign, weights.dtype)
    if part in columns:
        return weights[hidden][:, columns[part]]
    return weights[..., hidden]  # a norm, or the table


def permute(source: Path, target: Path, seed: int) -> None:
    """Write the copy.

    Raises:
        SystemExit: The checkpoint is no Llama without biases.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    hidden = random.permutation(config["hidden_size"])
    layers = [draw(random, config, hidden) for _ in range(config["num_hidden_layers"])]
    tensors = {}
    with safe_open(source / WEIGHTS, "np") as stored:
        names = list(stored.keys())
        if config["model_type"] != "llama" or any(name.endswith(".bias") for name in names):
            raise SystemExit("only Llama checkpoints without biases are permuted")
        for name in names:
            parts = name.split(".")
            orders = layers[int(parts[2])] if parts[1] == "layers" else layers[0]
            moved = permuted(name, stored.get_tensor(name), orders)
            tensors[name] = np.ascontiguousarray(moved)
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != WEIGHTS and path.is_file():
            shutil.copyfile(path, target / path.name)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    """Read the command line and write the copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    permute(options.checkpoint, options.output, options.seed)


if __name__ == "__main__":
    main()
