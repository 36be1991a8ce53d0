"""Entities and answers against transformers' own pipelines, live, option by option."""

import json
import random
from itertools import islice

import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import tiny
from tests.texts import NASTY

pytestmark = pytest.mark.parity

STRATEGIES = ["none", "simple", "first", "average", "max"]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "a-b"]
WORDS = "the film is not good bad The don't É 中文 😀 x7 filming, g! [MASK] <mask> e\u0301".split()
WRITERS = {"bert": tiny.write_bert, "roberta": tiny.write_roberta}


def sentences(count: int, longest: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


def checkpoint(torch, folder, family, task, seed=0, **settings):
    """Write a random checkpoint whose answers vary; return its folder."""
    import transformers

    WRITERS[family](folder, settings=settings)
    kind = {
        "token-classification": transformers.AutoModelForTokenClassification,
        "question-answering": transformers.AutoModelForQuestionAnswering,
    }[task]
    changes = {"initializer_range": 0.4, "architectures": None}
    if task == "token-classification":
        changes["id2label"] = dict(enumerate(LABELS))
        changes["label2id"] = {label: i for i, label in enumerate(LABELS)}
    config = transformers.AutoConfig.from_pretrained(folder, **changes)
    torch.manual_seed(seed)
    kind.from_config(config).save_pretrained(folder)
    return folder


def both(torch, folder, task, bundle):
    """Give transformers' pipeline and ours."""
    from transformers import pipeline

    export(open_checkpoint(str(folder)), bundle, task=task, verify=False)
    theirs = pipeline(task, model=str(folder), device="cpu", dtype=torch.float32)
    return theirs, lmonnx.load(bundle, threads=2)


@pytest.fixture(scope="module", params=[("bert", 0), ("bert", 1), ("roberta", 0), ("roberta", 1)])
def labellers(torch, request, tmp_path_factory):
    family, seed = request.param
    folder = tmp_path_factory.mktemp("ner")
    source = checkpoint(torch, folder / "source", family, "token-classification", seed)
    return both(torch, source, "token-classification", folder / "bundle")


@pytest.fixture(scope="module", params=[("bert", 0), ("bert", 1), ("roberta", 0), ("roberta", 1)])
def answerers(torch, request, tmp_path_factory):
    family, seed = request.param
    folder = tmp_path_factory.mktemp("qa")
    source = checkpoint(torch, folder / "source", family, "question-answering", seed)
    return both(torch, source, "question-answering", folder / "bundle")


def as_rows(answer):
    """Give ours as transformers' dicts."""
    return [{name: getattr(item, name) for name in item.__slots__} for item in answer]


def assert_equal(found, expected, tolerance=1e-4):
    """Check names, their order, and values."""
    found = as_rows(found)
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        assert {**ours, "score": 0} == {**theirs, "score": 0}
        assert type(ours["score"]) is float
        assert ours["score"] == pytest.approx(float(theirs["score"]), abs=tolerance)


TEXTS = [*(t for t in NASTY if t), *sentences(16, 12)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_equal_transformers(labellers, strategy):
    theirs, ours = labellers
    answers = ours(TEXTS, aggregation_strategy=strategy, long="truncate")
    for text, found in zip(TEXTS, answers, strict=True):
        assert_equal(found, theirs(text, aggregation_strategy=strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_equal_transformers_with_nothing_ignored(labellers, strategy):
    theirs, ours = labellers
    options = {"aggregation_strategy": strategy, "ignore_labels": []}
    answers = ours(TEXTS[::2], long="truncate", **options)
    for text, found in zip(TEXTS[::2], answers, strict=True):
        assert_equal(found, theirs(text, **options))
    some = {"aggregation_strategy": strategy, "ignore_labels": ["PER", "B-LOC", "b"]}
    assert_equal(ours(TEXTS[-1], **some), theirs(TEXTS[-1], **some))


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("stride", [0, 5, 40])
def test_long_text_with_a_stride_equals_transformers(labellers, strategy, stride):
    theirs, ours = labellers
    options = {"aggregation_strategy": strategy, "stride": stride}
    texts = sentences(4, 120, seed=stride) + [t for t in NASTY if len(t) > 100][:3]
    for text, found in zip(texts, ours(texts, **options), strict=True):
        assert_equal(found, theirs(text, **options))


@pytest.mark.parametrize("family", WRITERS)
def test_text_cut_on_the_left_equals_transformers(torch, tmp_path, family):
    task, sides = "token-classification", {"truncation_side": "left"}
    source = checkpoint(torch, tmp_path / "source", family, task, **sides)
    theirs, ours = both(torch, source, task, tmp_path / "bundle")
    for text in sentences(4, 120):
        assert_equal(ours(text, long="truncate"), theirs(text))
        options = {"aggregation_strategy": "first", "stride": 9}
        assert_equal(ours(text, **options), theirs(text, **options))


QUESTIONS = ["is the film good?", "x7", "what is 中文 😀", "not [MASK] the"]
CONTEXTS = [
    *sentences(6, 14, seed=5),
    *sentences(3, 110, seed=6),
    *[t for t in NASTY if len(t) > 4 and t.strip()][::2],
]
OPTIONS = [
    {},
    {"top_k": 3},
    {"top_k": 4, "align_to_words": False},
    {"align_to_words": False},
    {"handle_impossible_answer": True},
    {"top_k": 3, "handle_impossible_answer": True},
    {"max_answer_len": 1},
    {"max_answer_len": 2, "top_k": 2},
    {"max_answer_len": 1000, "top_k": 3},
    {"max_seq_len": 40, "doc_stride": 8},
    {"max_seq_len": 50, "doc_stride": 0, "top_k": 3},
    {"max_question_len": 2},
    {"doc_stride": 3, "top_k": 5, "align_to_words": False, "handle_impossible_answer": True},
]


def assert_same_answers(found, expected, tolerance=1e-4):
    """Check all answers that have a likelihood; transformers fills up with arbitrary ones of 0."""
    found = found if isinstance(found, list) else [found]
    expected = expected if isinstance(expected, list) else [expected]
    expected = [answer for answer in expected if answer["score"] > 1e-9]
    assert len(found) >= len(expected)
    assert_equal(found[: len(expected)], expected, tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_answers_equal_transformers(answerers, options):
    theirs, ours = answerers
    pairs = [(QUESTIONS[i % 4], context) for i, context in enumerate(CONTEXTS)]
    for pair, found in zip(pairs, ours(pairs, **options), strict=True):
        question, context = pair
        assert_same_answers(found, theirs(question=question, context=context, **options))


@pytest.mark.shared
@pytest.mark.parametrize("options", OPTIONS[1:6:2], ids=str)
def test_answers_on_xquad_equal_transformers(answerers, shared, options):
    theirs, ours = answerers
    pairs = list(islice(xquad(shared), 0, 400, 60))
    options = {"doc_stride": 8, **options}
    kept = [pair for pair in pairs if len(ours.tokenizer.encode([pair[0]])[0].ids) < 50]
    assert kept
    for pair, found in zip(kept, ours(kept, **options), strict=True):
        question, context = pair
        assert_same_answers(found, theirs(question=question, context=context, **options))


def xquad(shared):
    """Yield questions with their contexts."""
    read = json.loads((shared / "data/xquad/xquad.en.json").read_text(encoding="utf-8"))
    for article in read["data"]:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                yield item["question"], paragraph["context"]


@pytest.fixture(scope="module")
def conll(torch, shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conll")
    source = shared / "models/minilm-l6-conll-ner"
    return (*both(torch, source, "token-classification", folder / "bundle"), folder)


@pytest.fixture(scope="module")
def wnut(shared):
    blocks = (shared / "data/wnut17/dev.conll").read_text(encoding="utf-8").split("\n\n")
    read = [" ".join(line.split("\t")[0] for line in block.splitlines()) for block in blocks]
    return [text for text in read if text.strip()][:500]


@pytest.fixture(scope="module")
def outputs(torch, conll, wnut):
    """Give what transformers' model gives for each tweet: it runs once for all strategies."""
    theirs, _, _ = conll
    inputs = [list(theirs.preprocess(text, is_split_into_words=False)) for text in wnut]
    return [[theirs.forward(window) for window in windows] for windows in inputs]


@pytest.mark.shared
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_of_five_hundred_tweets_equal_transformers(conll, wnut, outputs, strategy):
    from transformers.pipelines.token_classification import AggregationStrategy

    theirs, ours, _ = conll
    answers = ours(wnut, aggregation_strategy=strategy)
    assert sum(map(len, answers)) > 500
    for found, output in zip(answers, outputs, strict=True):
        assert_equal(found, theirs.postprocess(output, AggregationStrategy(strategy)))


@pytest.mark.shared
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_a_long_text_of_tweets_with_a_stride_equals_transformers(conll, wnut, strategy):
    theirs, ours, _ = conll
    text = " ".join(wnut[:120])
    options = {"aggregation_strategy": strategy, "stride": 64}
    assert_equal(ours(text, **options), theirs(text, **options))


@pytest.fixture(scope="module")
def small(conll):
    """Give the int8 bundle of the default recipe."""
    from lmonnx.compiler.optimize import optimize
    from lmonnx.compiler.quantize import quantize

    _, ours, folder = conll
    fused = optimize(ours.bundle, folder / "fused")
    return lmonnx.load(quantize(fused, folder / "int8").path, threads=2)


@pytest.mark.shared
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_int8_finds_the_same_entities_but_for_one_in_twenty(conll, wnut, small, strategy):
    wanted, found = (entities(model, wnut, strategy) for model in (conll[1], small))
    assert 2 * len(wanted & found) / (len(wanted) + len(found)) >= 0.95


def entities(model, texts, strategy):
    """Give every entity with its text's place."""
    answers = model(texts, aggregation_strategy=strategy)
    found = [(i, entity) for i, answer in enumerate(answers) for entity in answer]
    return {(i, entity.entity_group, entity.start, entity.end) for i, entity in found}
