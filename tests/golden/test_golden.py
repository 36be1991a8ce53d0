"""The frozen bundle, and what is exported here, against the frozen answers of transformers."""

import json
from pathlib import Path

import pytest

import lmonnx
from lmonnx.bundle.manifest import Precision
from lmonnx.errors import InputError, ParityError
from lmonnx.measure.parity import measure_parity, read_golden, require_parity

HERE = Path(__file__).parent
MINI = HERE.parents[1] / "models" / "sentiment-mini"
GOLDENS = {
    "tiny-bert": 100, "tiny-roberta": 100, "tiny-distilbert": 100, "tiny-electra": 34,
    "tiny-albert": 34, "tiny-mpnet": 34, "sentiment-mini": 100,
    "tiny-modernbert": 25, "tiny-modernbert-mean": 25, "tiny-deberta": 25,
    "tiny-deberta-unshared": 25, "tiny-deberta-convolved": 25,
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2])
def test_the_frozen_bundle_answers_as_transformers(tiny_bundle, threads):
    golden = read_golden(HERE / "tiny-bert.json")
    parity = measure_parity(lmonnx.load(tiny_bundle, threads=threads), golden)
    require_parity(parity, Precision.FLOAT32)
    assert parity.texts == 100
    assert parity.agreement == 1
    assert parity.relative < 1e-5


@pytest.mark.parametrize("name", GOLDENS)
def test_a_golden_says_what_made_it_and_holds_its_texts(name):
    stored = json.loads((HERE / f"{name}.json").read_text())
    assert {"torch", "transformers", "tokenizers"} <= stored["versions"].keys()
    assert stored["source"].startswith("transformers ")
    golden = read_golden(HERE / f"{name}.json")
    assert [raw.shape for raw in golden.answers] == [(1, 2)] * GOLDENS[name]
    singles = {text for text in golden.texts if isinstance(text, str)}
    assert 0.7 * GOLDENS[name] < len(singles)


def test_a_golden_of_another_model_misses_parity(tiny_model):
    parity = measure_parity(tiny_model, read_golden(HERE / "tiny-distilbert.json"))
    with pytest.raises(ParityError, match="of the range on 100 texts, more than 1e-04"):
        require_parity(parity, Precision.FLOAT32)
    with pytest.raises(ParityError, match="near-ties aside"):
        require_parity(parity, Precision.INT8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no list of texts"),
        ("{}", "no list of texts"),
        ('{"texts": ["a"]}', "no list of logits"),
        ('{"texts": ["a"], "logits": {}}', "no list of logits"),
        ('{"texts": ["a"], "logits": [[1], [2]]}', "1 texts, but logits for 2"),
        ('{"texts": [], "logits": []}', "no list of texts"),
        ('{"texts": [["a"]], "logits": [[1]]}', "text 1 is neither a string nor a list of two"),
        ('{"texts": [3], "logits": [[1]]}', "text 1 is neither"),
        ('{"texts": ["a"], "logits": [["x"]]}', "logits of text 1 are no numbers"),
        ('{"texts": ["a"], "logits": [1]}', "logits of text 1 are no numbers"),
        ('{"texts": ["a"], "logits": [[[1, 2], [1]]]}', "logits of text 1 are no numbers"),
        ('{"texts": ["a"], "logits": [[[[1]]]]}', "logits of text 1 are no numbers"),
    ],
)
def test_what_is_no_golden_is_one_line_that_says_why(tmp_path, text, message):
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(InputError, match=rf"g\.json.*{message}") as caught:
        read_golden(tmp_path / "g.json")
    assert "\n" not in str(caught.value)


def test_a_missing_golden_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"g\.json cannot be read"):
        read_golden(tmp_path / "g.json")


def test_a_golden_may_hold_rows_a_text_and_pairs(tmp_path):
    stored = {"texts": ["a", ["b", "c"], ""], "logits": [[[1, 2], [3, 4]], [5, 6, 7], []]}
    (tmp_path / "g.json").write_text(json.dumps(stored))
    golden = read_golden(tmp_path / "g.json")
    assert golden.texts == ("a", ("b", "c"), "") and golden.source == "g.json"
    assert [raw.shape for raw in golden.answers] == [(2, 2), (1, 3), (0, 0)]


def test_golden_files_stay_small():
    files = [path for path in HERE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".json") < 400_000
    assert sum(p.stat().st_size for p in (HERE / "tiny-bert").rglob("*") if p.is_file()) < 150_000


@pytest.mark.compiler
def test_sentiment_mini_answers_as_transformers(tmp_path):
    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.export import export

    bundle = export(open_checkpoint(str(MINI)), tmp_path / "bundle")
    parity = measure_parity(lmonnx.load(bundle.path), read_golden(HERE / "sentiment-mini.json"))
    require_parity(parity, Precision.FLOAT32)
    assert parity.agreement == 1
