"""Masks, labels of one's own and rankings against live transformers, family by family."""

from functools import cache

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import texts, tiny, tiny_more

pytestmark = pytest.mark.parity

WRITERS = {**tiny.WRITERS, **tiny_more.WRITERS}
SPECIAL = {"mask_token": "[MASK]", "unk_token": "[UNK]"}
SETTINGS = dict.fromkeys(tiny_more.WRITERS, SPECIAL)
LIMIT = 64
CLOSE = 3e-6  # float32 sums in another order, through a softmax

NASTY = [text for text in texts.NASTY if text and "<mask>" not in text and "[MASK]" not in text]
MASKED = [
    "{}", " {} ", "{}{}", "{} the {} film {}", "a{}b", "the film is {}.", "\n{}\t", "{}, {}!",
    "don{}t , it ' s . n't {}", "[CLS] <s> {} [SEP] </s> [PAD] <pad> [UNK] <unk>",
    "{} " + "the film " * 200, "the film " * 10 + "{}", "{}" * 8,
    *(f"{text[:40]} {{}}" for text in NASTY[::2]),
    *(f"{{}} {text}" for text in NASTY[1::2]),
]  # fmt: skip
TARGETS = [
    "good", ["good", "bad"], ["filming", "xyzzy", "", " ", "\u4e2d\u6587"], " film", ["\u0120film"],
    ["the", "The", "THE", "\u00c9", "\U0001f600", "[PAD]", "<pad>", "[UNK]", "</s>", "a b"],
]  # fmt: skip
LABELS = ["good", "bad film", "\u4e2d, \U0001f600", "", "don't", "[SEP] </s>", "the " * 20]
SHOTS = [
    {"candidate_labels": LABELS},
    {"candidate_labels": LABELS, "multi_label": True},
    {"candidate_labels": " a, bad film ,, not ,"},
    {"candidate_labels": "a"},
    {"candidate_labels": ["good", "bad"], "hypothesis_template": "{}"},
    {"candidate_labels": ["good", "bad"], "hypothesis_template": "{0}: {{{0}}}"},
    {"candidate_labels": ["good " * 12, "bad"], "multi_label": True},
]
NLI = [
    ("contradiction", "neutral", "entailment"),
    ("ENTAILMENT", "NEUTRAL", "CONTRADICTION"),
    ("not_entailment", "Entailed"),
    ("entailment", "not_entailment"),
    ("neutral", "entail", "contradiction"),
]


@pytest.fixture(scope="module")
def transformers():
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    return transformers


def named(*labels):
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a function: family, task, what differs → a checkpoint's folder, and its bundle."""

    @cache
    def make(family, task, seed=0, changes=(), settings=()):
        folder = tmp_path_factory.mktemp("checkpoint") / family
        WRITERS[family](
            folder,
            task=task,
            seed=seed,
            settings={**SETTINGS.get(family, {}), **dict(settings)},
            **{name: value() if callable(value) else value for name, value in changes},
        )
        target = tmp_path_factory.mktemp("bundle") / family
        return folder, export(open_checkpoint(str(folder)), target, task=task, verify=False)

    return make


def assert_fills(found, expected, options):
    """Compare; where their scores nearly tie, two tokens may stand in the other order."""
    ours = [found] if isinstance(found[0], lmonnx.Fill) else found
    theirs = expected if isinstance(expected[0], list) else [expected]
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        scores = [row["score"] for row in other]
        np.testing.assert_allclose([fill.score for fill in mine], scores, atol=CLOSE, rtol=2e-4)
        by_token = {row["token"]: row for row in other}
        for place, fill in enumerate(mine):
            if fill.token not in by_token:  # the last place of a near-tie
                assert len(mine) - place <= 2, options
                continue
            row = by_token[fill.token]
            assert (fill.token_str, fill.sequence) == (row["token_str"], row["sequence"])
            assert fill.score == pytest.approx(row["score"], abs=CLOSE, rel=2e-4)


@pytest.mark.parametrize("family", WRITERS)
def test_masks_are_filled_as_in_transformers(transformers, made, family):
    folder, bundle = made(family, "fill-mask")
    theirs = transformers.pipeline("fill-mask", str(folder), device="cpu")
    asked = [text.replace("{}", theirs.tokenizer.mask_token) for text in MASKED]
    kept = [text for text in asked if kept_masks(theirs.tokenizer, text)]
    assert len(kept) > 35
    ours = lmonnx.load(bundle.path, threads=1)
    for text, answer in zip(kept, ours(kept), strict=True):
        assert_fills(answer, theirs(text, tokenizer_kwargs={"truncation": True}), text)
    for top_k in (1, 40):
        assert_fills(ours(kept[5], top_k=top_k), theirs(kept[5], top_k=top_k), top_k)


def kept_masks(tokenizer, text):
    return tokenizer.mask_token_id in tokenizer(text, truncation=True)["input_ids"]


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_targets_are_scored_as_in_transformers(transformers, made, family, side):
    folder, bundle = made(family, "fill-mask", settings=(("truncation_side", side),))
    theirs = transformers.pipeline("fill-mask", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, threads=1)
    for targets in TARGETS:
        for text, top_k in ((MASKED[3], 2), (MASKED[5], 99)):
            options = {"targets": targets, "top_k": top_k}
            asked = text.replace("{}", theirs.tokenizer.mask_token)
            assert_fills(ours(asked, **options), theirs(asked, **options), options)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_clean_up_of_spaces_is_that_of_the_tokenizer(transformers, made, family):
    settings = (("clean_up_tokenization_spaces", True),)
    folder, bundle = made(family, "fill-mask", seed=1, settings=settings)
    theirs = transformers.pipeline("fill-mask", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, threads=1)
    for text in MASKED[:10]:
        asked = text.replace("{}", theirs.tokenizer.mask_token)
        assert_fills(ours(asked), theirs(asked), text)


@pytest.mark.parametrize("family", WRITERS)
def test_raw_logits_are_those_of_transformers(transformers, made, family):
    import torch

    folder, bundle = made(family, "fill-mask", seed=2)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder)
    asked = [text.replace("{}", read.mask_token) for text in MASKED[:10]]
    inputs = read(asked, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()
    expected = logits[(inputs["input_ids"] == read.mask_token_id).numpy()]
    found = np.concatenate(list(lmonnx.load(bundle.path, threads=1).raw(asked)))
    assert np.abs(found - expected).max() / np.ptp(expected) < 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "albert", "modernbert"])
@pytest.mark.parametrize("labels", NLI, ids=str)
def test_labels_are_scored_as_in_transformers(transformers, made, family, labels):
    changes = (("id2label", lambda: named(*labels)["id2label"]),)
    changes += (("label2id", lambda: named(*labels)["label2id"]),)
    folder, bundle = made(family, "zero-shot-classification", changes=changes)
    theirs = transformers.pipeline("zero-shot-classification", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, threads=1, long="truncate")
    asked = NASTY[:: 4 if labels == NLI[0] else 12]
    for options in SHOTS:
        for answer, text in zip(ours(asked, **options), asked, strict=True):
            expected = theirs(text, **options)
            assert answer.sequence == expected["sequence"]
            assert_scores(answer, expected)


def assert_scores(answer, expected):
    np.testing.assert_allclose(answer.scores, expected["scores"], atol=CLOSE)
    theirs = dict(zip(expected["labels"], expected["scores"], strict=True))
    assert len(answer.labels) == len(theirs)
    for label, score in zip(answer.labels, answer.scores, strict=True):
        assert score == pytest.approx(theirs[label], abs=CLOSE)


def test_a_text_classifiers_bundle_serves_zero_shot_too(transformers, made):
    changes = tuple((name, lambda v=value: v) for name, value in named(*NLI[0]).items())
    folder, bundle = made("bert", "text-classification", seed=3, changes=changes)
    theirs = transformers.pipeline("zero-shot-classification", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, task="zero-shot-classification", threads=1)
    for options in SHOTS[:4]:
        assert_scores(ours("the film is good", **options), theirs("the film is good", **options))


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_the_premise_is_cut_as_in_transformers(transformers, made, side):
    changes = tuple((name, lambda v=value: v) for name, value in named(*NLI[0]).items())
    settings = (("truncation_side", side),)
    folder, bundle = made("bert", "zero-shot-classification", changes=changes, settings=settings)
    theirs = transformers.pipeline("zero-shot-classification", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, threads=1, long="truncate")
    for words in range(1, 47, 5):
        options = {"candidate_labels": ["good " * words, "bad"], "multi_label": True}
        for text in ("the film is not " * 30, "a b c d e " * 8):
            assert_scores(ours(text, **options), theirs(text, **options))


PAIRS = [(a, b) for a in ("the film", "is it good? " * 8, "\u4e2d\u6587") for b in NASTY]
MODULES = "torch.nn.modules"
# Name of the case → what config.json states, and whether the score is a sigmoid.
RANKERS = {
    "none stated": ({}, True),
    "identity": ({"sentence_transformers": {"activation_fn": f"{MODULES}.linear.Identity"}}, False),
    "sigmoid": (
        {"sentence_transformers": {"activation_fn": f"{MODULES}.activation.Sigmoid"}},
        True,
    ),
    "of old": ({"sbert_ce_default_activation_function": f"{MODULES}.linear.Identity"}, False),
}


@pytest.mark.parametrize("family", WRITERS)
def test_documents_are_scored_as_by_the_text_classification_pipeline(transformers, made, family):
    changes = (("id2label", lambda: {0: "LABEL_0"}),)
    folder, bundle = made(family, "text-ranking", changes=changes)
    theirs = transformers.pipeline("text-classification", str(folder), device="cpu")
    ours = lmonnx.load(bundle.path, threads=1)
    for query in ("the film", "is it good? " * 8):
        ranked = ours(query, NASTY)
        asked = [{"text": query, "text_pair": text} for text in NASTY]
        expected = [theirs(pair, truncation=True)["score"] for pair in asked]
        for answer in ranked:
            assert answer.score == pytest.approx(expected[answer.index], abs=CLOSE)
        assert [a.score for a in ranked] == sorted((a.score for a in ranked), reverse=True)


@pytest.mark.parametrize("rule", RANKERS)
def test_scores_follow_the_rule_of_the_cross_encoders_config(transformers, made, rule):
    import torch

    stated, sigmoid = RANKERS[rule]
    changes = (("id2label", lambda: {0: "LABEL_0"}),)
    changes += tuple((name, lambda v=value: v) for name, value in stated.items())
    folder, bundle = made("bert", "text-ranking", changes=changes)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder)
    pairs = [list(pair) for pair in PAIRS] + [["film", ""]]
    with torch.no_grad():
        inputs = read(pairs, padding=True, truncation="longest_first", return_tensors="pt")
        logits = model(**inputs).logits[:, 0]
    expected = (logits.sigmoid() if sigmoid else logits).numpy()
    ours = lmonnx.load(bundle.path, threads=1)
    found = [scores[0] for scores, _ in ours.scores(map(tuple, pairs))]
    np.testing.assert_allclose(found, expected, atol=2e-5 if not sigmoid else CLOSE)
