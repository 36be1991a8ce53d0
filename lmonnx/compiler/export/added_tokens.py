"""tokenizer_config.json and its kin → the special and added tokens, under transformers' rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.errors import StageError

# In the order in which transformers adds those that the vocabulary lacks.
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# The mask takes the space before it: "a <mask>" is one word and the mask.
STRIP_MASK: Mapping[str, Mapping[str, bool]] = {"mask": {"lstrip": True}}


def special_tokens(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    defaults: Mapping[str, str],
    flags: Mapping[str, Mapping[str, bool]],
) -> dict[str, AddedToken]:
    """Return the special tokens by role, in the order of ROLES.

    Args:
        checkpoint: Where the files are.
        settings: tokenizer_config.json.
        defaults: What the tokenizer's class takes where the settings name none.
        flags: How the class matches the token of a role that is given as text alone.
    """
    stored = _stated(checkpoint, settings)
    listed = {token.content: token for token in _by_id(checkpoint, settings).values()}
    found = {}
    for role in ROLES:
        stated = stored.get(f"{role}_token")
        value = stated or defaults.get(role)
        text = _content(value)
        newer = stated and "added_tokens_decoder" in settings
        plain = not isinstance(value, dict) and role not in flags
        if text in listed and (newer or plain):
            found[role] = listed[text]
        elif isinstance(value, dict):
            found[role] = _added(value, special=True)
        elif value:
            how = {"normalized": False, **flags.get(role, {})}
            found[role] = AddedToken(str(value), special=True, **how)
    return found


def add_tokens(
    tokenizer: Tokenizer,
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    special: Mapping[str, AddedToken],
) -> None:
    """Add the tokens of tokenizer_config.json and added_tokens.json under their stated ids.

    Raises:
        StageError: An id is another's.
    """
    names = {token.content for token in special.values()}
    by_id = _by_id(checkpoint, settings)
    for index in sorted(by_id):
        token = by_id[index]
        add = tokenizer.add_tokens
        if token.special or token.content in names:
            add = tokenizer.add_special_tokens
        add([token])
        if tokenizer.token_to_id(token.content) != index:
            raise StageError(f"the added token {token.content!r} cannot get its id {index}")
    # Of two that differ in how they are matched, the later rules.
    tokenizer.add_special_tokens(list(special.values()))


def add_missing(tokenizer: Tokenizer, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Add the tokens that the settings list and tokenizer.json lacks.

    Source:
        transformers, `PreTrainedTokenizerFast.__init__`.
    """
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in listed_tokens(checkpoint, settings):
        if token.content and token.content not in there:
            there.add(token.content)
            add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
            add([token])


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return a special token's id; StageError if the vocabulary lacks it."""
    index = tokenizer.token_to_id(token)
    if index is None:
        raise StageError(f"the vocabulary lacks the special token {token!r}")
    return int(index)


def _stated(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with special_tokens_map.json over them, which newer files leave out.

    Source:
        transformers, `PreTrainedTokenizerBase._from_pretrained`.
    """
    if "added_tokens_decoder" in settings:
        return dict(settings)
    return {**settings, **(checkpoint.json_file("special_tokens_map.json") or {})}


def _by_id(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    listed = settings.get("added_tokens_decoder") or {}
    by_id = {int(index): _added(token, special=False) for index, token in listed.items()}
    if "added_tokens_decoder" not in settings:
        stored = _stated(checkpoint, settings)
        named = {_content(stored.get(f"{role}_token")) for role in ROLES}
        for content, index in (checkpoint.json_file("added_tokens.json") or {}).items():
            # A token that only the class names stays normalized, as in transformers.
            by_id[index] = AddedToken(content, normalized=content not in named)
    return by_id


def _content(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def listed_tokens(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    """Yield the tokens that the settings and special_tokens_map.json name.

    Raises:
        StageError: One of the files is damaged.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        for index in sorted(decoder, key=int):
            yield _added(decoder[index], special=False)
        stored = _stated(checkpoint, settings)
        named = [stored.get(f"{role}_token") for role in ROLES]
        for value in (*named, *(stored.get("additional_special_tokens") or ())):
            if isinstance(value, dict):
                yield _added(value, special=True)
            elif value:
                yield AddedToken(str(value), normalized=False, special=True)
    except (TypeError, ValueError, AttributeError) as error:
        raise StageError(f"tokenizer_config.json or special_tokens_map.json: {error}") from error


def _added(fields: Mapping[str, Any], *, special: bool) -> AddedToken:
    """Return the token that `fields` spell; as in AddedToken, plain ones are normalized."""
    special = bool(fields.get("special", special))
    flags = {name: bool(fields.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(
        str(fields.get("content", "")),
        normalized=bool(fields.get("normalized", not special)),
        special=special,
        **flags,
    )
