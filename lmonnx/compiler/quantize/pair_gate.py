"""Whether a smaller encoder-decoder still writes as well: what it makes of the input's answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.quantize.gate import Gate, open_gate
from lmonnx.compiler.quantize.pairs import Ids, Logits, Pair, PairModel, greedy
from lmonnx.compiler.quantize.sources import gate_sources, read_sources, start_ids
from lmonnx.errors import GateError
from lmonnx.measure.perplexity import compare_logits
from lmonnx.measure.references import Rewriting
from lmonnx.progress import Progress, track
from lmonnx.runtime.pipelines import REWRITERS

_MORE = 32  # tokens of an answer beyond twice its source's


@dataclass(frozen=True, slots=True)
class PairGate:
    """Sources with the input bundle's greedy answers, and how much less likely they may get.

    `forced` is how many tokens of an answer nobody chose. With `labelled` the drop is that of the
    task's figure, and the answers' perplexity is only told.
    """

    reference: PairModel
    pairs: Sequence[Pair]
    forced: int
    max_drop: float
    labelled: Gate | None = None

    def measure(self, made: Bundle, progress: Progress) -> dict[str, Any]:
        """Return the metrics of a bundle, every token of an answer told what stands before it.

        Raises:
            GateError: The drop is over the limit, or no number.
        """
        found = compare_logits(self._predictions(PairModel(made), progress))
        low, high = found.interval
        figures = asdict(found) | {"interval": [low, high], "ratio": found.ratio}
        if self.labelled is not None:
            return self._labelled(self.labelled, made, progress) | {"graphs": {"decoder": figures}}
        if not found.ratio - 1 <= self.max_drop:
            raise GateError(
                f"the perplexity of the input bundle's own answers rises from "
                f"{found.reference:.3f} to {found.perplexity:.3f} (× {found.ratio:.4f}) on "
                f"{found.predictions} tokens, more than --max-drop {self.max_drop} allows; nothing "
                "was written. Allow more, take more bits, keep layers with --keep, or give text "
                "of the model's source language with --data"
            )
        return {
            "drop": found.ratio - 1,
            "interval": [low - 1, high - 1],
            "texts": found.predictions,
            "measured": "perplexity of the input bundle's answers",
            "agreement": found.agreement,
            "graphs": {"decoder": figures},
        }

    def _labelled(self, gate: Gate, made: Bundle, progress: Progress) -> dict[str, Any]:
        model: Any = REWRITERS[made.manifest.task](made)
        drop = gate.measure(model, progress)
        if not drop.value <= self.max_drop:
            low, high = drop.interval
            raise GateError(
                f"{drop.measured} drops by {drop.value:.4f} (95%: {low:.4f} to {high:.4f}) on "
                f"{drop.texts} texts, more than --max-drop {self.max_drop}; nothing was written. "
                "Allow more, take more bits, keep layers with --keep, or check the data"
            )
        return drop.as_metrics()

    def _predictions(
        self, other: PairModel, progress: Progress
    ) -> Iterator[tuple[Logits, Logits, Ids]]:
        for pair in track(self.pairs, "comparing", progress):
            chosen = slice(self.forced, None)
            before, after = self.reference.logits(pair), other.logits(pair)
            yield before[chosen], after[chosen], pair.target[chosen]


def open_pair_gate(
    bundle: Bundle,
    max_drop: float,
    *,
    text: str | None,
    examples: Sequence[Rewriting] | None,
    progress: Progress,
) -> PairGate:
    """Let a bundle answer sources, which its successor is then held to.

    Args:
        bundle: The float bundle.
        max_drop: Of the task's figure with `examples`, else how much perplexity may rise.
        text: Sources, one a line; half of the shipped sentences without it.
        examples: Sources with their right answers.
        progress: Told how far it is.
    """
    sources = gate_sources(bundle, text)
    gate: Gate | None = None
    if examples is not None:
        sources = read_sources(bundle, [example.source for example in examples])
        answering: Any = REWRITERS[bundle.manifest.task](bundle)
        gate = open_gate(answering, examples, progress)
    model = PairModel(bundle)
    pairs = model.write(sources, greedy, more=_MORE, progress=progress, what="answering")
    return PairGate(model, pairs, len(start_ids(model.generation)) - 1, max_drop, gate)
