"""Fields of config.json that several families of decoders read alike."""

from __future__ import annotations

from collections.abc import Callable

from lmonnx.compiler.export.native.config import Config
from lmonnx.errors import StageError, UnsupportedError

_FULL, _SLIDING = "full_attention", "sliding_attention"
_STEP = 8  # heads of onnxruntime's attention come in these


def kv_heads(config: Config, heads: int) -> int:
    """Return K, by default H.

    Raises:
        StageError: It does not divide H.
    """
    count = config.integer_or("num_key_value_heads", heads)
    if heads % count:
        raise StageError(
            f"config.json: num_key_value_heads is {count}, which does not divide {heads} heads"
        )
    return count


def check_head(head: int) -> None:
    """Refuse heads that the kernel does not take.

    Raises:
        UnsupportedError: D is no multiple of 8.
    """
    if head % _STEP:
        raise UnsupportedError(
            f"config.json describes heads of {head}; onnxruntime's attention takes multiples of "
            f"{_STEP}, so this checkpoint cannot be served"
        )


def read_windows(
    config: Config, count: int, window: int, slides: Callable[[int], bool]
) -> tuple[int, ...]:
    """Return how far back each layer looks, 0 for all.

    Args:
        config: Its layer_types says which layers slide, where it is stated.
        count: How many layers there are.
        window: The width of those that slide; 0 where none may.
        slides: Says it where layer_types is not stated.

    Raises:
        StageError: layer_types is of another length, or names a window that has no width.
        UnsupportedError: It names a kind of attention that is not built.
    """
    kinds = config.words("layer_types")
    if not kinds:
        return tuple(window if slides(index) else 0 for index in range(count))
    if unknown := sorted(set(kinds) - {_FULL, _SLIDING}):
        raise UnsupportedError(
            f"config.json: layer_types has {unknown[0]!r}; built are {_FULL} and {_SLIDING}"
        )
    if len(kinds) != count:
        raise StageError(f"config.json: layer_types is of {len(kinds)} layers, must be of {count}")
    if _SLIDING in kinds and not window:
        raise StageError(
            f"config.json: layer_types has {_SLIDING}, but no sliding_window is stated or in use"
        )
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)
