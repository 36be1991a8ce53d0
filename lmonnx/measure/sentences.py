"""500 sentences shipped with the package, and how a task is asked with plain sentences.

They are reviews and posts from VADER's Amazon and tweet sets (MIT, see sentences.LICENSE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

from lmonnx.bundle.manifest import Manifest, Task
from lmonnx.errors import BundleError
from lmonnx.runtime.pipelines.zero_shot import TEMPLATE
from lmonnx.runtime.tokenizer import Text

LABELS = (
    "politics",
    "sport",
    "business",
    "technology",
    "music",
)  # zero-shot's, where none are given
_BEGINNING = 40  # characters


def gate_sentences() -> list[str]:
    """Return all 500 sentences, 2 to 134 words long."""
    text = files("lmonnx.measure").joinpath("sentences.txt").read_text(encoding="utf-8")
    return text.split("\n")[:-1]


def parity_sentences() -> list[str]:
    """Return 100 of them whose lengths are spread evenly from the shortest to the longest."""
    ranked = sorted(gate_sentences(), key=len)
    return ranked[:: len(ranked) // 100]


def fit(texts: Sequence[Text], manifest: Manifest) -> list[Text]:
    """Return texts as a bundle's graph takes them; one that fits already stays as it is.

    Question answering and ranking put the beginning of a text, as question or query, before the
    next one; zero-shot puts a hypothesis behind it; fill-mask masks one of its first words.

    Raises:
        BundleError: The manifest names no mask.
    """
    return _FITS.get(manifest.task, _plain)(texts, manifest)


def _plain(texts: Sequence[Text], manifest: Manifest) -> list[Text]:
    del manifest
    return list(texts)


def _asked(texts: Sequence[Text], manifest: Manifest) -> list[Text]:
    del manifest
    following = [*texts[1:], *texts[:1]]
    return [
        (_beginning(text), after if isinstance(after, str) else after[1])
        if isinstance(text, str)
        else text
        for text, after in zip(texts, following, strict=True)
    ]


def _supposed(texts: Sequence[Text], manifest: Manifest) -> list[Text]:
    del manifest
    return [
        (text, hypotheses()[n % len(LABELS)]) if isinstance(text, str) else text
        for n, text in enumerate(texts)
    ]


def _masked(texts: Sequence[Text], manifest: Manifest) -> list[Text]:
    mask = mask_of(manifest)
    return [_mask(text, n, mask) if isinstance(text, str) else text for n, text in enumerate(texts)]


def _mask(text: str, number: int, mask: str) -> str:
    if mask in text:
        return text
    words = text.split()
    place = number % max(1, len(_beginning(text).split()))
    return " ".join([*words[:place], mask, *words[place + 1 :]])


def _beginning(text: str) -> str:
    """Return whole words of about 40 characters: what even the shortest models read."""
    return text if len(text) <= _BEGINNING else text[:_BEGINNING].rpartition(" ")[0] or text


def hypotheses() -> list[str]:
    """Return what zero-shot's fixed labels suppose of a text."""
    return [TEMPLATE.format(label) for label in LABELS]


def mask_of(manifest: Manifest) -> str:
    """Return the token that stands for a word to be filled in.

    Raises:
        BundleError: The manifest names none.
    """
    mask = manifest.text.source.mask_token
    if not mask:
        raise BundleError("the bundle's manifest names no mask_token; export it again")
    return mask


_FITS: Mapping[Task, Callable[[Sequence[Text], Manifest], list[Text]]] = {
    Task.QUESTION_ANSWERING: _asked,
    Task.TEXT_RANKING: _asked,
    Task.ZERO_SHOT_CLASSIFICATION: _supposed,
    Task.FILL_MASK: _masked,
}
