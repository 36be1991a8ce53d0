"""Whether a smaller encoder-decoder still writes as well: what it makes of the input's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.quantize.pairs import Ids, Logits, Pair, PairModel, greedy
from lmonnx.compiler.quantize.sources import start_ids
from lmonnx.errors import GateError
from lmonnx.measure.perplexity import compare_logits
from lmonnx.progress import Progress, track

_MORE = 32  # tokens of an answer beyond twice its source's


@dataclass(frozen=True, slots=True)
class PairGate:
    """Sources with the input bundle's greedy answers, and how much less likely they may get.

    `forced` is how many tokens of an answer nobody chose.
    """

    reference: PairModel
    pairs: Sequence[Pair]
    forced: int
    max_drop: float

    def measure(self, made: Bundle, progress: Progress) -> dict[str, Any]:
        """Return the metrics of a bundle, every token of an answer told what stands before it.

        Raises:
            GateError: The answers' perplexity is over the limit, or no number.
        """
        found = compare_logits(self._predictions(PairModel(made), progress))
        if not found.ratio - 1 <= self.max_drop:
            raise GateError(
                f"the perplexity of the input bundle's own answers rises from "
                f"{found.reference:.3f} to {found.perplexity:.3f} (× {found.ratio:.4f}) on "
                f"{found.predictions} tokens, more than --max-drop {self.max_drop} allows; nothing "
                "was written. Allow more, take more bits, keep layers with --keep, or give text "
                "of the model's source language with --data"
            )
        low, high = found.interval
        figures = asdict(found) | {"interval": [low, high], "ratio": found.ratio}
        return {
            "drop": found.ratio - 1,
            "interval": [low - 1, high - 1],
            "texts": found.predictions,
            "measured": "perplexity of the input bundle's answers",
            "agreement": found.agreement,
            "graphs": {"decoder": figures},
        }

    def _predictions(
        self, other: PairModel, progress: Progress
    ) -> Iterator[tuple[Logits, Logits, Ids]]:
        for pair in track(self.pairs, "comparing", progress):
            chosen = slice(self.forced, None)
            before, after = self.reference.logits(pair), other.logits(pair)
            yield before[chosen], after[chosen], pair.target[chosen]


def open_pair_gate(
    bundle: Bundle, sources: Sequence[Ids], max_drop: float, progress: Progress
) -> PairGate:
    """Let a bundle answer sources, which its successor is then held to."""
    model = PairModel(bundle)
    pairs = model.write(sources, greedy, more=_MORE, progress=progress, what="answering")
    return PairGate(model, pairs, len(start_ids(model.generation)) - 1, max_drop)
