"""Chat templates: transformers' environment, no way out, and no user text as special token."""

import shutil
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.chat import ChatTemplate, read_template
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.prompt_tokenizer import PromptTokenizer

BOS, EOS, TURN = 1, 2, 3
SAID = [{"role": "user", "content": "hello"}]
HOSTILE = {
    "rounds, one loop in another": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "text joined with itself": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "text added to itself": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}",
    "a block twice itself": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "a list joined": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "str.join": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
    "replace": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
    "str.replace": "{% set n = namespace(x='aaaa') %}{% for i in range(99) %}"
    "{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "endless output": "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "a long list": "{{ [messages] * 999999999 }}",
    "a large number": "{{ 10 ** 10 ** 10 }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "padding": "{{ 'x'.ljust(10 ** 9) }}",
    "a format": "{{ '%999999999d' % 1 }}",
    "a format with attributes": "{{ '{0.__class__}'.format(1) }}",
    "an attribute": "{{ ''.__class__ }}",
    "attributes": "{{ ''.__class__.__mro__ }}",
    "a message's attribute": "{{ messages[0].__init__ }}",
    "a global's attribute": "{{ cycler.__init__.__globals__ }}",
    "an attribute by name": "{{ messages[0]['__class__'].__mro__ }}{{ messages.__len__ }}",
    "a change of the messages": "{{ messages.append(1) }}",
    "a wide indent": "{{ messages | tojson(indent=99999999) }}",
    "a filter that is not there": "{{ 'x' | center(10 ** 9) }}",
    "broken syntax": "{{ messages",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    bundle = Bundle.open(tiny_path)
    return PromptTokenizer(bundle.file("tokenizer.json"), bundle.manifest.text)


@pytest.fixture(scope="module")
def template(tiny_path, tokenizer):
    return read_template(Bundle.open(tiny_path), tokenizer)


def encode(template, messages, **options):
    options = {"tools": None, "add_generation_prompt": True, "variables": {}} | options
    return template.encode(messages, **options)


def made(source, tokenizer):
    return ChatTemplate(source, {"bos_token": "<s>"}, tokenizer, where="a template")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_soon(name, tokenizer):
    start = time.monotonic()
    with pytest.raises(BundleError, match=r"a template is no (safe|valid) chat template"):
        made(HOSTILE[name], tokenizer).render(messages=SAID)
    assert time.monotonic() - start < 30


def test_a_template_still_serves_after_it_was_stopped(tokenizer):
    both = made("{% if loops %}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}"
                "{% endfor %}{% endif %}{{ messages[0].content }}", tokenizer)  # fmt: skip
    with pytest.raises(BundleError):
        both.render(messages=SAID, loops=True)
    assert both.render(messages=SAID, loops=False) == "hello"


def test_what_templates_use_is_there(tokenizer):
    source = """
    {%- if strftime_now is defined %}{% set year = strftime_now('%Y') %}{% endif -%}
    {{- bos_token + messages[0].role | upper }} {{ messages | length }} {{ year | int > 2000 }}
    {%- for m in messages %}
        {%- generation %}{{ m.content | trim }}{% endgeneration %}
        {%- if loop.first %}{% continue %}{% endif %}{% break %}
    {%- endfor %}
    {{- {'b': '<é>', 'a': 1} | tojson }}{{ 'a<b'.split('<')[-1].strip() }}{{ x is none }}"""
    said = [*SAID, {"role": "user", "content": " more "}, {"role": "user", "content": "none"}]
    text = made(source, tokenizer).render(messages=said, x=None)
    assert text == '<s>USER 3 Truehellomore{"b": "<é>", "a": 1}bTrue'


def test_a_template_that_refuses_says_why(tokenizer):
    refusing = made("{{ raise_exception('roles must alternate') }}", tokenizer)
    with pytest.raises(InputError, match="roles must alternate"):
        refusing.render(messages=SAID)
    with pytest.raises(InputError, match="fails on the messages"):
        made("{{ messages[0].content + 1 }}", tokenizer).render(messages=SAID)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "empty"),
        ("hello", "list"),
        ({"role": "user"}, "list"),
        (["hello"], "must be a mapping"),
        ([{"role": "wizard", "content": "x"}], "role 'wizard'"),
        ([{"content": "x"}], "role None"),
        ([{"role": ["user"], "content": "x"}], "role"),
        ([{"role": "user"}], "no content"),
        ([{"role": "user", "content": object()}], "content is object"),
        ([{"role": "user", "content": "\ud800"}], "Unicode"),
    ],
)
def test_a_wrong_message_is_refused(template, messages, message):
    with pytest.raises(InputError, match=message):
        encode(template, messages)


def test_messages_nested_too_deep_are_refused(template):
    content = "x"
    for _ in range(100):
        content = [content]
    with pytest.raises(InputError, match="levels deep"):
        encode(template, [{"role": "user", "content": content}])


specials = st.sampled_from(["<s>", "</s>", "<|turn|>", "<unk>", "<", "s>", "<|", "|>", ">", "a"])
contents = st.lists(specials | st.text(max_size=3), max_size=8).map("".join)


@given(st.lists(contents, min_size=1, max_size=3))
def test_no_message_makes_a_special_token(template, tokenizer, texts):
    ids = encode(template, [{"role": "user", "content": text} for text in texts])
    assert [i for i in ids if i < 4] == [TURN, EOS] * len(texts) + [TURN]
    said = "".join(f"<|turn|>user\n{text}</s>" for text in texts) + "<|turn|>assistant\n"
    assert tokenizer.decode(ids) == said


@given(contents, contents)
def test_no_message_makes_one_with_what_the_template_puts_beside_it(tokenizer, one, other):
    beside = made("<{{ messages[0].content }}|{{ messages[1].content }}>", tokenizer)
    said = [{"role": "user", "content": text} for text in (one, other)]
    ids = encode(beside, said)
    assert tokenizer.decode(ids) == f"<{one}|{other}>"
    if "turn" not in one + other and "s" not in one + other:
        assert not [i for i in ids if i < 4]


def test_plain_messages_are_encoded_as_the_whole_text(template, tokenizer):
    said = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "é 😀 & more"}]
    text = "<|turn|>system\nbe kind</s><|turn|>user\né 😀 & more</s>"
    assert encode(template, said, add_generation_prompt=False) == tokenizer.within(text)


def test_tools_and_variables_reach_the_template(tokenizer):
    shown = made("{{ tools[0].function.name }} {{ thinks }}", tokenizer)
    tools = [{"type": "function", "function": {"name": "</s>look"}}]
    ids = encode(shown, SAID, tools=tools, variables={"thinks": True})
    assert tokenizer.decode(ids) == "</s>look True" and EOS not in ids


def test_a_bundle_without_template_says_so(tiny_path, tokenizer):
    bundle = Bundle.open(tiny_path)
    generation = replace(bundle.manifest.generation, chat_template=None)
    bare = replace(bundle, manifest=replace(bundle.manifest, generation=generation))
    with pytest.raises(UnsupportedError, match="no chat template"):
        read_template(bare, tokenizer)


def test_a_template_that_is_too_long_or_no_text_is_refused(tiny_path, tokenizer, tmp_path):
    copy = shutil.copytree(tiny_path, tmp_path / "copy")
    for content in (b"x" * (2**20 + 1), b"\xff\xfe"):
        (copy / "chat_template.jinja").write_bytes(content)
        bundle = Bundle(copy, Bundle.open(tiny_path).manifest)
        with pytest.raises(BundleError, match=r"chat_template\.jinja"):
            read_template(bundle, tokenizer)


def test_a_conversation_is_answered(tiny):
    params = SamplingParams(max_new_tokens=8)
    answer = tiny.chat(SAID, params)
    assert answer == tiny([tiny.chat_prompt(SAID)], params)[0] and answer.completion_tokens == 8
