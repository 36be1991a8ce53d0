"""Messages → a prompt, by the bundle's chat template; what users write stays text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.prompt_tokenizer import PromptTokenizer

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
LONGEST_TEMPLATE = 2**20  # characters
DEEPEST = 32  # levels of lists and mappings in a message
PRIVATE_USE = range(0xE000, 0xF900)
TOKENS_FILE = "special_tokens_map.json"


def read_template(bundle: Bundle, tokenizer: PromptTokenizer) -> ChatTemplate:
    """Return a bundle's chat template.

    Raises:
        UnsupportedError: It has none.
        BundleError: The template is no valid jinja, or too long.
    """
    generation = bundle.manifest.generation
    if generation is None or generation.chat_template is None:
        raise UnsupportedError(
            f"{bundle.path} has no chat template; give the prompt as text, "
            "or export a checkpoint that was trained to chat"
        )
    path = bundle.file(generation.chat_template)
    if path.stat().st_size > LONGEST_TEMPLATE:
        raise BundleError(f"{path} is longer than {LONGEST_TEMPLATE} bytes: no chat template")
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 text; export the bundle again") from error
    return ChatTemplate(source, _named_tokens(bundle, tokenizer), tokenizer, where=str(path))


class ChatTemplate:
    """A checkpoint's jinja template; safe to share by threads.

    It is compiled when first used, as jinja2 is imported only then.
    """

    def __init__(
        self, source: str, named: Mapping[str, str], tokenizer: PromptTokenizer, *, where: str
    ) -> None:
        """`named` is what the template finds under `bos_token`, `eos_token` and their like."""
        self._source, self._named, self._where = source, named, where
        self._tokenizer = tokenizer
        self._lock = Lock()

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> list[int]:
        """Return a conversation's ids: transformers' where no message spells a special token.

        Where one does, it stays text; the special tokens are the template's own.

        Raises:
            InputError: A message is wrong, or the template refuses it.
            BundleError: The template loops, or does what no template may.
        """
        said: dict[str, Any] = {"messages": _checked_messages(messages), "tools": tools}
        said = _plain({**said, **variables}, "messages")
        disguise = _Disguise(self._tokenizer, json.dumps(said))
        hidden = {name: disguise.hide(value) for name, value in said.items()}
        text = self.render(**hidden, add_generation_prompt=add_generation_prompt)
        if not disguise.is_worn_by(text):
            return self._tokenizer.within(text)
        return disguise.encode(text)

    def render(self, **variables: Any) -> str:
        """Return the template's text.

        Raises:
            InputError: The template refuses these messages, or fails on them.
            BundleError: The template loops, or does what no template may.
        """
        import jinja2
        from jinja2.exceptions import SecurityError

        environment, template = self._compiled
        try:
            with self._lock:
                environment.start()
                return str(template.render(**self._named, **variables))
        except (SecurityError, MemoryError, RecursionError) as error:
            raise BundleError(f"{self._where} is no safe chat template: {error}") from error
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template refuses the messages: {error}") from error
        except Exception as error:
            raise InputError(
                f"the chat template fails on the messages: {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _compiled(self) -> tuple[Any, Any]:
        import jinja2

        from lmonnx.runtime.generate.chat_sandbox import ChatEnvironment

        environment = ChatEnvironment()
        try:
            return environment, environment.from_string(self._source)
        except (jinja2.TemplateError, RecursionError, ValueError, OverflowError) as error:
            raise BundleError(f"{self._where} is no valid chat template: {error}") from error


class _Disguise:
    """Hides the special tokens that messages spell: a letter of each is another for a while.

    So the template's own special tokens are the only ones in its text.
    """

    def __init__(self, tokenizer: PromptTokenizer, said: str) -> None:
        """`said` is all that is said, as JSON: letters that stand in for others are not in it."""
        self._tokenizer = tokenizer
        specials = tokenizer.specials
        self._all = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._starts = re.compile(f"(?={self._all.pattern})")
        # Parts of a special token, which the template's own text could make whole.
        self._tails = {name[-n:] for name in specials for n in range(1, len(name))}
        self._heads = {name[:n] for name in specials for n in range(1, len(name))}
        self._longest = max(map(len, specials), default=0)
        free = (chr(c) for c in PRIVATE_USE if chr(c) not in said and f"\\u{c:04x}" not in said)
        letters = sorted({letter for name in specials for letter in name})
        self._masks = dict(zip(letters, free, strict=False))
        self._faces = {ord(mask): letter for letter, mask in self._masks.items()}

    def hide(self, value: Any) -> Any:
        """Return a value whose texts, but for roles and names of fields, spell no special token."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, dict):
            return {
                key: item if key in ("role", "type") else self.hide(item)
                for key, item in value.items()
            }
        return value

    def is_worn_by(self, text: str) -> bool:
        """Whether any letter of a text is disguised."""
        return any(mask in text for mask in self._masks.values())

    def encode(self, text: str) -> list[int]:
        """Return the ids of the template's text: special tokens are those not in disguise."""
        ids: list[int] = []
        end = 0
        for match in self._all.finditer(text):
            ids += self._literal(text[end : match.start()])
            ids.append(self._tokenizer.specials[match.group()])
            end = match.end()
        return ids + self._literal(text[end:])

    def _literal(self, text: str) -> list[int]:
        return self._tokenizer.literal(text.translate(self._faces)) if text else []

    def _hide(self, text: str) -> str:
        places = {match.start() for match in self._starts.finditer(text)}
        for size in range(1, min(self._longest, len(text) + 1)):
            if text[:size] in self._tails:
                places.add(0)
            if text[-size:] in self._heads:
                places.add(len(text) - 1)
        if not places:
            return text
        letters = list(text)
        for place in places:
            letters[place] = self._masks.get(letters[place], letters[place])
        return "".join(letters)


def _checked_messages(messages: object) -> list[Mapping[str, Any]]:
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError("messages must be a list of mappings with `role` and `content`")
    if not messages:
        raise InputError("messages is empty; give at least one")
    for row, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"message {row} is {type(message).__name__}, must be a mapping")
        role = message.get("role")
        if role not in ROLES:
            raise InputError(
                f"message {row} has role {role!r:.40}, must be one of {', '.join(ROLES)}"
            )
        if "content" not in message and "tool_calls" not in message:
            raise InputError(f"message {row} has no content; give it as text")
    return list(messages)


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """Return a copy made of dict, list and plain values: a template sees no other object."""
    if depth > DEEPEST:
        raise InputError(f"{name} is nested more than {DEEPEST} levels deep")
    if isinstance(value, Mapping):
        return {str(key): _plain(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, name, depth + 1) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise InputError(f"{name} is {type(value).__name__}; give text, numbers, lists and mappings")


def _named_tokens(bundle: Bundle, tokenizer: PromptTokenizer) -> dict[str, str]:
    """Return the special tokens that templates name: the checkpoint's own file, else the ids'."""
    generation = bundle.manifest.generation
    named: dict[str, str] = {}
    if generation is not None and generation.bos_id is not None:
        named["bos_token"] = tokenizer.token(generation.bos_id)
    if generation is not None and generation.stop_ids:
        named["eos_token"] = tokenizer.token(generation.stop_ids[0])
    if TOKENS_FILE not in (bundle.manifest.files or {}):
        return named
    path = bundle.file(TOKENS_FILE)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        for name, token in stored.items():
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                named[name] = text
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is no mapping of special tokens; export again") from error
    return named
