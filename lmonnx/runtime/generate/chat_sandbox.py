"""jinja2, with no way out and no way to run long: what a chat template of a stranger may do.

The environment is transformers' (`_compile_jinja_template`): trimmed blocks, loop controls,
`generation` blocks, `tojson`, `raise_exception`, `strftime_now`. On top of jinja2's own sandbox
every loop and call counts, and what could grow without either is bounded or left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 1_000_000  # loops and calls of one rendering
MOST_SECONDS = 5.0
MOST_CHARACTERS = 16 * 2**20  # of any text, or items of any list
MOST_INTEGER = 2**63

# Filters that make much of little, or that no chat template needs.
LEFT_OUT = frozenset(
    "attr batch center filesizeformat format forceescape indent pprint random round slice "
    "truncate urlize wordwrap xmlattr".split()
)
GLOBALS = frozenset({"range", "dict", "namespace", "joiner", "cycler"})
PADDING = frozenset({"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"})


class LimitError(SecurityError):
    """A template loops too long, or makes too much."""


class Generator(CodeGenerator):
    """Compiles `a ~ b` to a call that looks at the length first."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Write the call."""
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's text, is its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and runs one template; `start` before each rendering, one rendering at a time."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
        )
        for name in LEFT_OUT:
            self.filters.pop(name, None)
        self.globals = {name: self.globals[name] for name in GLOBALS if name in self.globals}
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        for name, bounded in self._bounded_filters().items():
            self.filters[name] = bounded
        self.concat = self._concat  # type: ignore[method-assign]
        self.start()

    def start(self) -> None:
        """Begin to count anew."""
        self._steps = 0
        self._end = monotonic() + MOST_SECONDS

    def tick(self) -> str:
        """Count a loop's round or a call.

        Raises:
            LimitError: There were too many, or they took too long.
        """
        self._steps += 1
        if self._steps > MOST_STEPS or monotonic() > self._end:
            raise LimitError(f"it loops for more than {MOST_STEPS} rounds or {MOST_SECONDS:g} s")
        return ""

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Count a call, and look at what str's methods could make of little."""
        __self.tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name in PADDING:
                raise SecurityError(f"str.{name} is not for templates")
            if name == "replace":
                _check_replace(owner, *args[:2])
            elif name == "join" and args:
                args = (_joinable(owner, args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Look at how large the result would be before it is made."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("`%` on text is not for templates")
        if operator == "**" and abs(left) > 1 and abs(right) * abs(left).bit_length() > 64:
            raise LimitError("it makes too large a number")
        if operator == "+" and _size(left) + _size(right) > MOST_CHARACTERS:
            raise LimitError("it makes too long a text")
        if operator == "*":
            size = max(_size(left) * _whole(right), _size(right) * _whole(left))
            if size > MOST_CHARACTERS or _whole(left) * _whole(right) > MOST_INTEGER:
                raise LimitError("it makes too long a text or too large a number")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once; jinja2's own answer is silent until it is used."""
        raise SecurityError(f"it reads {attribute!r} of {type(obj).__name__}")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Put a tick into every loop."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(tick).set_lineno(loop.lineno))
        return tree

    def _concat(self, parts: Iterable[str]) -> str:
        return "".join(_bounded(parts))

    def _bounded_filters(self) -> Mapping[str, Callable[..., Any]]:
        def join(value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
            items = [self.getattr(v, attribute) for v in value] if attribute else list(value)
            return d.join(_joinable(d, items))

        def replace(s: Any, old: str, new: str, count: int | None = None) -> str:
            _check_replace(str(s), old, new)
            return str(s).replace(old, new, -1 if count is None else count)

        return {"join": join, "replace": replace, "tojson": _to_json}


def _bounded(parts: Iterable[str]) -> Iterator[str]:
    total = 0
    for part in parts:
        total += len(part)
        if total > MOST_CHARACTERS:
            raise LimitError(f"it makes a text of more than {MOST_CHARACTERS} characters")
        yield part


def _joinable(between: str, items: Iterable[Any]) -> list[str]:
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(between) * len(texts) > MOST_CHARACTERS:
        raise LimitError("it makes too long a text")
    return texts


def _check_replace(text: str, old: str = "", new: str = "") -> None:
    if text.count(str(old)) * len(str(new)) + len(text) > MOST_CHARACTERS:
        raise LimitError("it makes too long a text")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _whole(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def _to_json(
    x: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - a template's own call
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Return JSON as transformers' filter does, which escapes no HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise LimitError("it indents too far")
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    if len(form) > 64:
        raise LimitError("it asks for too long a date")
    return datetime.now().astimezone().strftime(form)
