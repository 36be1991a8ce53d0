"""config.json, read so that no field that changes the computation is passed over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lmonnx.errors import StageError, UnsupportedError

# Fields of every Hugging Face config that leave the answers as they are: training, provenance,
# generation defaults and what transformers returns beside the logits.
INERT = frozenset(
    """
    architectures model_type transformers_version torch_dtype dtype use_cache id2label label2id
    num_labels problem_type finetuning_task task_specific_params gradient_checkpointing
    initializer_range classifier_dropout hidden_dropout_prob attention_probs_dropout_prob dropout
    attention_dropout seq_classif_dropout qa_dropout summary_first_dropout output_attentions
    output_hidden_states output_past return_dict tie_word_embeddings tie_weights_ torchscript
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
    tokenizer_class prefix max_length min_length do_sample early_stopping num_beams
    num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens chunk_size_feed_forward directionality pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    initializer_factor language model_max_length training_args vocab_size_or_config_json_file
    attn_implementation auto_map custom_pipelines sentence_transformers adapters onnx
    is_llama_config transformers.js_config unsloth_fixed unsloth_version
    tf_legacy_loss tie_encoder_decoder use_bfloat16 sbert_ce_default_activation_function
    """.split()
)


class Config:
    """A checkpoint's config.json; `finish` refuses fields that nobody asked for.

    `way_out` ends the errors of fields that are not built here.
    """

    def __init__(self, fields: Mapping[str, Any], *, way_out: str = "Try --engine optimum") -> None:
        self._fields = fields
        self._way_out = way_out
        self._asked: set[str] = set(INERT)

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """Return a whole number of at least `least`.

        Raises:
            StageError: It is missing, without a default, or no such number.
        """
        value = self._get(name, default)
        if type(value) is not int or value < least:
            raise StageError(f"config.json: {name} is {value!r}, must be a whole number >= {least}")
        return value

    def integer_or(self, name: str, default: int, *, least: int = 1) -> int:
        """Return a whole number, or `default` where the field is null or not there."""
        return default if self._is_unset(name) else self.integer(name, least=least)

    def integer_or_none(self, name: str, default: int | None = None) -> int | None:
        """Return a positive whole number, None where the field is null, `default` without it."""
        if name not in self._fields:
            return default
        return None if self._is_unset(name) else self.integer(name)

    def number_or_none(self, name: str, default: float | None = None) -> float | None:
        """Return a positive number, None where the field is null, `default` without it."""
        if name not in self._fields:
            return default
        return None if self._is_unset(name) else self.number(name)

    def divisor(self, name: str, of: str) -> int:
        """Return a whole number that divides the field `of`.

        Raises:
            StageError: It does not.
        """
        value, whole = self.integer(name), self.integer(of)
        if whole % value:
            raise StageError(f"config.json: {name} is {value}, which does not divide {of} {whole}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a positive number.

        Raises:
            StageError: It is missing, without a default, or no such number.
        """
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise StageError(f"config.json: {name} is {value!r}, must be a number above 0")
        return float(value)

    def numbers(
        self, name: str, count: int, default: Sequence[float] | None = None
    ) -> Sequence[float]:
        """Return a list of `count` numbers, or `default` where the field is null or not there.

        Raises:
            StageError: It is none.
        """
        if default is not None and self._is_unset(name):
            return default
        value = self._get(name, None)
        is_list = isinstance(value, list) and len(value) == count
        if not is_list or not all(type(item) in {int, float} for item in value):
            raise StageError(f"config.json: {name} must be a list of {count} numbers")
        return [float(item) for item in value]

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false.

        Raises:
            StageError: It is neither.
        """
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise StageError(f"config.json: {name} is {value!r}, must be true or false")
        return value

    def choice(self, name: str, known: Iterable[str], default: str) -> str:
        """Return one of the `known` words.

        Raises:
            UnsupportedError: It is another word; the message lists the known ones.
        """
        value = self._get(name, default)
        if value not in (options := sorted(known)):
            raise UnsupportedError(
                f"config.json: {name} is {value!r}; supported: {', '.join(options)}. "
                f"{self._way_out}"
            )
        return str(value)

    def only(self, name: str, *values: Any) -> None:
        """Accept a field that changes the computation only with the values we compute.

        Raises:
            UnsupportedError: It has another value.
        """
        value = self._get(name, values[0])
        if value not in values:
            raise UnsupportedError(
                f"config.json: {name} is {value!r}, which changes the computation; supported: "
                f"{', '.join(repr(v) for v in values)}. {self._way_out}"
            )

    def inert(self, *names: str) -> None:
        """Pass over fields that this family's code in transformers never reads for the task."""
        self._asked.update(names)

    def section(self, name: str) -> Config | None:
        """Return the fields of an object, which has a `finish` of its own; None where it is null.

        Raises:
            StageError: It is no object.
        """
        if self._is_unset(name):
            return None
        value = self._get(name, None)
        if not isinstance(value, dict):
            raise StageError(f"config.json: {name} is {value!r}, must be an object")
        return Config(value, way_out=self._way_out)

    def is_null(self, name: str) -> bool:
        """Say whether the field is there and null, where that is not its default."""
        return name in self._fields and self._fields[name] is None

    def words(self, name: str) -> list[str]:
        """Return a list of words, which may be spelled as one text with bars between.

        Raises:
            StageError: It is neither.
        """
        value = self._get(name, [])
        if isinstance(value, str):
            return [word.strip() for word in value.lower().split("|") if word.strip()]
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise StageError(f"config.json: {name} is {value!r}, must be a list of words")
        return value

    def finish(self) -> None:
        """Refuse every field that nobody asked for, but null ones and private ones.

        Raises:
            UnsupportedError: A field is unknown; the message names it.
        """
        for name, value in self._fields.items():
            if name not in self._asked and value is not None and not name.startswith("_"):
                raise UnsupportedError(
                    f"config.json: the field {name!r} ({value!r}) is not known to the native "
                    f"export and may change the computation. {self._way_out}, or remove the "
                    "field if it does nothing"
                )

    def _is_unset(self, name: str) -> bool:
        self._asked.add(name)
        return self._fields.get(name) is None

    def _get(self, name: str, default: Any) -> Any:
        self._asked.add(name)
        value = self._fields.get(name)
        if value is None and default and name in self._fields:
            raise StageError(
                f"config.json: {name} is null, which is not its default {default!r}; state a "
                "value, or remove the field"
            )
        if value is None:
            value = default
        if value is None:
            raise StageError(f"config.json lacks {name}; is this the checkpoint's own file?")
        return value
