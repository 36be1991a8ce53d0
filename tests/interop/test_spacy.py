"""spaCy's own pipelines filled from bundles: entities, categories, vectors."""

from itertools import count, islice

import numpy as np
import pytest

import lmonnx
from tests.conftest import GOLDEN

pytestmark = pytest.mark.interop
spacy = pytest.importorskip("spacy")

TEXTS = ["The film is good.", "", "bad  film 🙂 in London", "a\u0301 é 中文 good"]


def pipeline(**config):
    nlp = spacy.blank("en")
    nlp.add_pipe("lmonnx", config={key: str(value) for key, value in config.items()})
    return nlp


def test_the_factory_is_found_without_an_import_of_ours():
    assert "lmonnx" in spacy.util.registry.factories.get_all() or spacy.blank("en").has_factory(
        "lmonnx"
    )


def test_cats_are_every_label_with_its_score(tiny_bundle):
    nlp = pipeline(bundle=tiny_bundle)
    model = lmonnx.load(tiny_bundle)
    for text in TEXTS:
        expected = {x.label: x.score for x in model(text, top_k=None).labels}
        assert nlp(text).cats == pytest.approx(expected, abs=1e-6)


def test_pipe_keeps_order_and_reads_a_bounded_part_of_an_endless_input(tiny_bundle):
    nlp, read = pipeline(bundle=tiny_bundle), count()
    docs = nlp.pipe((f"film {next(read)}" for _ in iter(int, 1)), batch_size=50)
    found = list(islice(docs, 120))
    assert [doc.text for doc in found] == [f"film {i}" for i in range(120)]
    assert all(doc.cats for doc in found)
    assert next(read) < 6000


def test_ents_are_the_bundles_entities_on_whole_tokens():
    nlp, model = pipeline(bundle=GOLDEN / "tiny-ner"), lmonnx.load(GOLDEN / "tiny-ner")
    found = 0
    for text in TEXTS:
        doc = nlp(text)
        entities = model(text, aggregation_strategy="simple")
        for span in doc.ents:
            assert any(
                span.label_ == x.entity_group and span.start_char <= x.start < span.end_char
                for x in entities
            )
        found += len(doc.ents)
    assert found


def test_entities_that_were_there_stay_where_none_overlaps():
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "MINE", "pattern": "zzz"}])
    nlp.add_pipe("lmonnx", config={"bundle": str(GOLDEN / "tiny-ner")})
    doc = nlp("the film zzz")
    assert doc.ents
    assert len({token.i for span in doc.ents for token in span}) == sum(map(len, doc.ents))


def test_a_vector_is_the_bundles_and_compares_by_its_similarity():
    nlp, model = pipeline(bundle=GOLDEN / "tiny-embedder"), lmonnx.load(GOLDEN / "tiny-embedder")
    one, two = nlp.pipe(["the film is good", "bad"])
    np.testing.assert_allclose(one.vector, model("the film is good"), atol=1e-6)
    assert one.has_vector
    expected = model.similarity(one.vector[None], two.vector[None])[0, 0]
    assert one.similarity(two) == pytest.approx(expected, abs=1e-6)


def test_labels_to_choose_from_are_zero_shot():
    nlp = spacy.blank("en")
    config = {"bundle": str(GOLDEN / "tiny-nli"), "candidate_labels": ["good", "bad"]}
    nlp.add_pipe("lmonnx", config=config)
    assert nlp("the film").cats.keys() == {"good", "bad"}


def test_a_saved_pipeline_loads_its_bundle_again(tiny_bundle, tmp_path):
    nlp = pipeline(bundle=tiny_bundle)
    nlp.to_disk(tmp_path / "saved")
    assert spacy.load(tmp_path / "saved")("good").cats == pytest.approx(nlp("good").cats)


def test_errors_say_the_way_out(tmp_path):
    with pytest.raises(lmonnx.InputError, match="name a bundle"):
        spacy.blank("en").add_pipe("lmonnx")
    with pytest.raises(lmonnx.BundleError, match="lmonnx export"):
        pipeline(bundle=tmp_path)
    with pytest.raises(lmonnx.UnsupportedError, match="not by fill-mask"):
        pipeline(bundle=GOLDEN / "tiny-mlm")
