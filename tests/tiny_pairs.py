"""Random encoder-decoders of every family with real small tokenizers, as transformers saves them.

Needs torch, transformers and sentencepiece.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests.parity.test_pair_tokenizers import CASES, marian
from tests.tiny_text import write_byte_bpe, write_json

POSITIONS = 128
MOST = 12  # new tokens
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
# A text of a few words is of several blocks.
_LOCAL = {"local_radius": 4, "tie_word_embeddings": False}
PREFIXES = {
    "summarization": {"prefix": "summarize: ", "num_beams": 4},
    "translation_en_to_de": {"prefix": "translate English to German: "},
    "translation_en_to_fr": {"prefix": "translate English to French: "},
}
START, FORCED = "decoder_start_token_id", "forced_bos_token_id"
MANY = "marian, many"  # languages, as opus-mt-en-ROMANCE


@dataclass(frozen=True)
class Family:
    """A model's type, fields of its configuration, its tokenizer, and the languages to ask for.

    `asked` is what ours is called with. A user of transformers writes `said` before a text, and
    gives `generate` the target language's id as `begins`, where that is not None.
    """

    model_type: str
    tokenizer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    begins: str | None = None
    said: str = ""


def _between(source: str, target: str) -> dict[str, str]:
    return {"source_lang": source, "target_lang": target}


FAMILIES: Mapping[str, Family] = {
    "bart": Family("bart", "bart", {"scale_embedding": False}),
    "mbart": Family("mbart", "mbart", {"scale_embedding": True}, _between("de_DE", "en_XX"), START),
    "mbart-50": Family("mbart", "mbart-50", {}, _between("de_DE", "fr_XX"), FORCED),
    "pegasus": Family("pegasus", "pegasus", {"scale_embedding": True}),
    "m2m100": Family("m2m_100", "m2m100", {"scale_embedding": True}, _between("de", "ast"), FORCED),
    "nllb": Family("m2m_100", "nllb", {}, _between("deu_Latn", "fra_Latn"), FORCED),
    "t5": Family(
        "t5",
        "t5",
        {"task_specific_params": PREFIXES, "feed_forward_proj": "relu"},
        _between("en", "fr"),
        said="translate English to French: ",
    ),
    "mt5": Family("mt5", "mt5", {"tie_word_embeddings": False}),
    "byt5": Family("t5", "byt5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "marian": Family("marian", "marian, bytes", {"activation_function": "swish"}),
    MANY: Family(
        "marian", MANY, {"scale_embedding": True}, {"target_lang": "fra"}, said=">>fra<< "
    ),
}

# Those that are not built here but traced.
TRACED: Mapping[str, Family] = {
    "blenderbot": Family("blenderbot", "bart", {"scale_embedding": True}),
    "blenderbot-small": Family("blenderbot-small", "bart"),
    "longt5": Family("longt5", "t5", _LOCAL),
}


@dataclass
class Case:
    """A checkpoint in transformers, and the bundle that was made of it."""

    name: str
    tokenizer: Any
    model: Any
    bundle: Path
    known: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    def wanted(
        self, text: str, *, said: str | None = None, **options: Any
    ) -> list[tuple[tuple[int, ...], float | None, str]]:
        """Return transformers' n best: tokens after the start, score, text."""
        import torch

        family = family_of(self.name)
        said = family.said if said is None else said
        asked = self.tokenizer(said + text, return_tensors="pt")
        asked.pop("token_type_ids", None)
        if family.begins:
            given = self._language(family.asked["target_lang"])
            options = {family.begins: given, **options}
        with torch.inference_mode():
            found = self.model.generate(
                **asked, **options, return_dict_in_generate=True, output_scores=True
            )
        scores = getattr(found, "sequences_scores", None)
        scores = [None] * len(found.sequences) if scores is None else scores.tolist()
        rows = [row[1:] for row in found.sequences.tolist()]
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [
            (tuple(row), score, text) for row, score, text in zip(rows, scores, texts, strict=True)
        ]

    def unruled(self, text: str, beams: int) -> list[int]:
        """Return the best answer of all MOST tokens where no rule looks on."""
        if (text, beams) not in self.known:
            lengths = {"min_new_tokens": MOST, "max_new_tokens": MOST}
            ((row, *_),) = self.wanted(text, num_beams=beams, **lengths)
            self.known[text, beams] = list(row)
        return self.known[text, beams]

    def load(self, **options: Any) -> Any:
        """Load the bundle as a translator or what else it is for."""
        task = "translation" if self.name == "t5" else None
        return lmonnx.load(self.bundle, task=task, threads=1, **options)

    def _language(self, code: str) -> int:
        named = f"__{code}__" if self.name == "m2m100" else code
        return self.tokenizer.convert_tokens_to_ids(named)


def family_of(name: str) -> Family:
    """Return what is known of a family's checkpoints."""
    return FAMILIES[name] if name in FAMILIES else TRACED[name]


def make(folder: Path, name: str, **generation: Any) -> Case:
    """Write a family's checkpoint and export it; the rest is as for `write`."""
    tokenizer, model = write(folder / "checkpoint", name, **generation)
    export(open_checkpoint(str(folder / "checkpoint")), folder / "bundle", verify=False)
    return Case(name, tokenizer, model, folder / "bundle")


def write(folder: Path, name: str, *, seed: int = 7, **generation: Any) -> tuple[Any, Any]:
    """Save a family's checkpoint; return transformers' tokenizer and model of it.

    Args:
        folder: Where to.
        name: A key of FAMILIES or TRACED.
        seed: Of the weights.
        generation: What generation_config.json says beside the special tokens.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    family = family_of(name)
    folder.mkdir()
    _write_tokenizer(folder, family)
    source = family.asked.get("source_lang") if family.begins else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "pip install sacremoses"
        given = {"src_lang": source} if source else {}
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
    size = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    fields = {"vocab_size": size, **(_T5 if "t5" in family.model_type else _BART), **family.config}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    special = {each: getattr(tokenizer, each, None) for each in names}
    start = {"decoder_start_token_id": special["eos_token_id"]}
    if family.model_type in {"pegasus", "marian", "t5", "mt5"}:
        start = {"decoder_start_token_id": special["pad_token_id"]}
    config = AutoConfig.for_model(family.model_type, **{**special, **start, **fields})
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    _draw(model, special["eos_token_id"], seed)
    model.save_pretrained(folder)
    known = {each: value for each, value in {**special, **start}.items() if value is not None}
    write_json(folder / "generation_config.json", known | generation)
    return tokenizer, AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


def _write_tokenizer(folder: Path, family: Family) -> None:
    if family.tokenizer == "bart":
        write_json(folder / "config.json", {"model_type": "bart"})
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BartTokenizer"})
        write_byte_bpe(folder, "files")
        return
    if family.tokenizer == MANY:
        codes = (">>fra<<", ">>por<<")
        config, settings, files, _ = {"model_type": "marian"}, {}, marian(codes=codes), None
    else:
        config, settings, files, _ = CASES[family.tokenizer]
    write_json(folder / "config.json", {"vocab_size": 300_000} | config)
    write_json(folder / "tokenizer_config.json", settings)
    for name, data in files().items():
        (folder / name).write_bytes(data)


def _draw(model: Any, eos: int, seed: int) -> None:
    """Draw weights that give answers of their own to each source, some of which end early."""
    import torch

    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name and model.config.model_type in {"marian", "pegasus"}:
                continue  # computed
            weight.add_(torch.randn(weight.shape, generator=dice) * 0.3)
        # Of a table that is tied, what was read last would be what is said next.
        norms = [m for n, m in model.get_decoder().named_modules() if n.endswith("layer_norm")]
        last = norms[-1].weight
        last.mul_(torch.randint(0, 2, last.shape, generator=dice) * 2 - 1)
        model.get_output_embeddings().weight[eos] *= 2
        if not model.config.tie_word_embeddings:
            model.get_output_embeddings().weight.mul_(0.2)  # T5 scales down a table that is tied
