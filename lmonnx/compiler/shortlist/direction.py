"""Of a model of several languages, the one way that a map is learnt for."""

from __future__ import annotations

from dataclasses import replace

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Languages, Place, Seq2Seq
from lmonnx.runtime.pipelines import REWRITERS
from lmonnx.runtime.pipelines.languages import make_frame


def one_way(bundle: Bundle, source_lang: str | None, target_lang: str | None) -> tuple[Bundle, str]:
    """Return a bundle that knows this way alone, and the prefix of its texts.

    A map of one way would leave answers in another language without their words.

    Raises:
        InputError: A code is unknown or missing, or the model has no languages.
    """
    generation, task = bundle.manifest.generation, bundle.manifest.task
    seq2seq = generation.seq2seq if generation else None
    if generation is None or seq2seq is None:
        return bundle, ""
    frame = make_frame(
        seq2seq, source_lang=source_lang, target_lang=target_lang, task=REWRITERS[task].PREFIX
    )
    only = _only(seq2seq, source_lang, target_lang, frame.prefix)
    manifest = replace(bundle.manifest, generation=replace(generation, seq2seq=only))
    return replace(bundle, manifest=manifest), frame.prefix


def _only(seq2seq: Seq2Seq, source: str | None, target: str | None, prefix: str) -> Seq2Seq:
    languages = seq2seq.languages
    if languages is not None:
        return replace(seq2seq, languages=_marked(languages, source, target))
    prefixes, settings = seq2seq.prefixes or {}, seq2seq.task_settings or {}
    kept = {name: text for name, text in prefixes.items() if text == prefix}
    stated = {name: own for name, own in settings.items() if prefixes.get(name, prefix) == prefix}
    return replace(seq2seq, prefixes=kept or None, task_settings=stated or None)


def _marked(languages: Languages, source: str | None, target: str | None) -> Languages:
    source = source or languages.source if languages.source_place is not Place.NONE else None
    target = target or languages.target if languages.target_place is not Place.NONE else None
    ids = {code: languages.ids[code] for code in (source, target) if code is not None}
    return replace(languages, ids=ids, source=source, target=target)
