"""Encoder-decoders against live transformers, one text at a time in float32: the same tokens.

LMONNX_PARITY_TEXTS says how many texts of each set are compared: 60 unasked (of T5 a fifth), "all"
for every one: 1,000 of Multi30k, 1,590 names, 200 prompts (20 minutes).
"""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.reference_pairs import PairReference
from lmonnx.compiler.verify import verify_against
from lmonnx.compiler.verify_pairs import NEAR_SCORES, score_gap
from lmonnx.errors import ParityError
from lmonnx.measure.parity import FLOAT32_TOLERANCE
from tests.conftest import MODELS, SHARED

pytestmark = pytest.mark.parity

ASKED = os.environ.get("LMONNX_PARITY_TEXTS", "60")
DATA = SHARED / "data"


def lines(name: str) -> list[str]:
    return (DATA / name).read_text(encoding="utf-8").split("\n")[:-1]


def sentences() -> list[str]:
    return lines("multi30k/test_2016_flickr.de")


def names() -> list[str]:
    return [line.split("\t")[0] for line in lines("ar2en/ar2en-test.txt")]


def prompts() -> list[str]:
    long = [line.strip() for line in lines("wikitext2/valid.txt") if len(line.strip()) > 80]
    short = [line.split("\t")[0] for line in lines("sst2/dev.tsv")]
    titled = [text for pair in zip(long[:400:5], short, strict=False) for text in pair]
    english = lines("multi30k/test_2016_flickr.en")
    return [
        *(f"summarize agent step: {text[:600]}" for text in titled[:140]),
        *(f"translate English to German: {text}" for text in english[:60]),
    ]


@dataclass(frozen=True)
class Case:
    """A checkpoint and what it is asked; `share` of the texts of a routine run."""

    folder: Path
    texts: object
    share: float = 1.0

    def some(self) -> list[str]:
        texts = self.texts()
        if ASKED == "all":
            return texts
        count = max(1, int(int(ASKED) * self.share))
        return texts[:: max(1, len(texts) // count)][:count]  # of every part


CASES = {
    "marian": Case(SHARED / "models" / "marian-multi30k-de-en", sentences),
    "pegasus": Case(SHARED / "models" / "aren-transliteration-pegasus", names),
    "t5": Case(MODELS / "flan-t5-small-titler", prompts, share=0.2),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    found = CASES[request.param]
    if not found.folder.is_dir():
        pytest.skip(f"{found.folder.name} is not there")
    return found


@pytest.fixture(scope="module")
def bundle(case, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / case.folder.name
    export(open_checkpoint(str(case.folder)), path, verify=False)
    return path


@cache
def reference(folder: Path):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer, AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


def written(folder: Path, text: str, beams: int) -> tuple[tuple[int, ...], str]:
    """Return the tokens after the start, the end included, and the text."""
    import torch

    tokenizer, model = reference(folder)
    asked = tokenizer(text, return_tensors="pt", truncation=True, return_token_type_ids=False)
    with torch.inference_mode():
        (found,) = model.generate(**asked, num_beams=beams, do_sample=False)
    return tuple(found[1:].tolist()), tokenizer.decode(found, skip_special_tokens=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beams", [1, 4])
def test_tokens_and_texts_are_transformers(case, bundle, beams):
    texts = case.some()
    with lmonnx.load(bundle) as model:
        params = replace(model.defaults, num_beams=beams)
        found = model(texts, params, prefix="", split="none")
    others = []
    for text, given in zip(texts, found, strict=True):
        wanted, answer = written(case.folder, text, beams)
        if given.token_ids == wanted:
            assert given.text == answer
        elif gap(case.folder, text, given.token_ids, wanted, params) > NEAR_SCORES:
            others.append((text, given.text, answer))
    assert not others


def gap(folder: Path, text: str, given, wanted, params) -> float:
    scorer = PairReference(open_checkpoint(str(folder)), None)
    _, model = reference(folder)
    start = [model.generation_config.decoder_start_token_id]
    source = scorer.source(text, longest=10**6)
    penalty = params.length_penalty if params.num_beams > 1 else None
    return score_gap(scorer, source, start, (given, wanted), penalty=penalty)


def test_export_verifies_against_transformers(case, bundle):
    parity = verify_against(lmonnx.Bundle.open(bundle), open_checkpoint(str(case.folder)))
    assert parity.relative <= FLOAT32_TOLERANCE
    assert parity.agreement == 1


def test_another_checkpoint_is_refused(case, bundle, tmp_path):
    """The same shapes with one weight matrix changed write something else."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    if case is not CASES["pegasus"]:
        pytest.skip("one is enough")
    tokenizer, _ = reference(case.folder)
    other = AutoModelForSeq2SeqLM.from_pretrained(case.folder, dtype=torch.float32)
    with torch.no_grad():
        other.model.decoder.layers[0].fc1.weight += 0.5
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ParityError, match="the bundle writes"):
        verify_against(lmonnx.Bundle.open(bundle), open_checkpoint(str(tmp_path / "other")))


def test_a_gap_is_of_the_first_tokens_that_part_and_of_whole_beams():
    class Uniform:
        """Every token is as likely, but for token 1 after the start."""

        def logits(self, source, target):
            rows = np.zeros((len(target), 4), np.float32)
            rows[0, 1] = 1
            return rows

    both = (1, 2), (3, 2)
    assert score_gap(Uniform(), [5], [0], both, penalty=None) == pytest.approx(1)
    assert score_gap(Uniform(), [5], [0], both, penalty=1.0) == pytest.approx(0.5)
    assert score_gap(Uniform(), [5], [0], ((1, 2), (1, 2, 3)), penalty=None) == float("inf")
