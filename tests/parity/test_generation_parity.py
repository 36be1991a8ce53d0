"""Completions against live transformers: greedy, beams, log-probabilities, chat prompts."""

import math

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.runtime.generate.params import SamplingParams
from tests.conftest import MODELS, SHARED

pytestmark = pytest.mark.parity

CHECKPOINTS = {
    "tinystories-260k-llama": SHARED / "models" / "tinystories-260k-llama",
    "smollm2-135m-instruct": MODELS / "smollm2-135m-instruct",
}
TOKENS = 64
PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "The little dog saw a big red ball and",
    "def fibonacci(n):",
    "Water boils at",
    "Lily and Tom went to the park. They",
    "To be or not to be,",
    "The three primary colours are",
    "In 1969, the first man",
    "She opened the door and",
    "A recipe for pancakes:",
    "My favourite animal is the cat because",
    "1, 2, 3, 4, 5,",
    "The sun is a",
    "Dear Sir or Madam,",
    "It was a dark and stormy night",
    "Machine learning is",
    "Ünïcödé is hard, but",
    "Question: What is two plus two?\nAnswer:",
    "He said: \u201cI will go home\u201d and",
]
CONVERSATIONS = [
    [{"role": "user", "content": "Hello!"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is it blue? 😀"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": " two \n"},
        {"role": "user", "content": "  three & <b>four</b> 'five'\n\n"},
    ],
]
# The environment that templates see, beyond SmolLM2's own.
TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}\n  {% if loop.first %}\n{{ m.role|upper }}"
    "{% else %}{{ m.content|trim }}{% endif %}\n{% endfor %}{{ eos_token }}",
    "{%- for m in messages -%}{{ m | tojson(indent=2) }}{{ m.content.split(' ')[-1] }}"
    "{%- if loop.index > 1 %}{% break %}{% endif %}{%- endfor %}{{ add_generation_prompt }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}"
    "{% generation %}{{ m['content'] ~ ns.n }}{% endgeneration %}{% endfor %}"
    "{{ tools | tojson if tools else 'no tools' }}{{ messages | selectattr('role', 'equalto', "
    "'user') | map(attribute='content') | join(', ') }}",
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def case(request, tmp_path_factory):
    """Give transformers' tokenizer and model of a checkpoint, and ours."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = CHECKPOINTS[request.param]
    if not source.is_dir():
        pytest.skip(f"{request.param} is absent")
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    target = tmp_path_factory.mktemp("bundle") / request.param
    export(open_checkpoint(str(source)), target)
    with lmonnx.load(target, threads=1) as ours:
        yield tokenizer, model, ours


def generate(case, prompt, **options):
    """Return transformers' completions as lists of ids, and their scores where it has any."""
    tokenizer, model, _ = case
    inputs = tokenizer(prompt, return_tensors="pt")
    options = {"do_sample": False, "max_new_tokens": TOKENS} | options
    found = model.generate(
        **inputs,
        **options,
        return_dict_in_generate=True,
        output_scores=True,
        pad_token_id=model.generation_config.eos_token_id,
    )
    start = inputs["input_ids"].shape[1]
    return [row[start:].tolist() for row in found.sequences], found


def stripped(ids, stop):
    """Return ids to the first stop id, with it."""
    return ids[: ids.index(stop) + 1] if stop in ids else ids


def test_greedy_completions_are_transformers(case):
    tokenizer, _, ours = case
    found = ours(PROMPTS, SamplingParams(max_new_tokens=TOKENS))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert completion.prompt_tokens == len(tokenizer(prompt)["input_ids"])
        expected = generate(case, prompt)[0][0]
        assert list(completion.token_ids) == expected, prompt
        whole = tokenizer(prompt)["input_ids"] + expected
        text = tokenizer.decode(whole, skip_special_tokens=True)
        assert text.endswith(completion.text)


def test_prompt_lookup_gives_the_same_completions(case):
    ours = case[2]
    plain = ours(PROMPTS[:6], SamplingParams(max_new_tokens=TOKENS))
    for prompt, completion in zip(PROMPTS[:6], plain, strict=True):
        drafted = SamplingParams(max_new_tokens=TOKENS, prompt_lookup=8)
        assert ours(prompt, drafted) == [completion]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "n": 4},
        {"num_beams": 3, "n": 2, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 2, "n": 1, "length_penalty": 0.0, "early_stopping": "never"},
        {"num_beams": 3, "n": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    ],
    ids=str,
)
def test_beams_are_transformers(case, options):
    _, model, ours = case
    params = SamplingParams(max_new_tokens=24, **options)
    theirs = {name: value for name, value in options.items() if name != "n"}
    for prompt in PROMPTS[:3]:
        rows, found = generate(
            case, prompt, max_new_tokens=24, num_return_sequences=options["n"], **theirs
        )
        mine = ours(prompt, params)
        stop = model.generation_config.eos_token_id
        assert [list(c.token_ids) for c in mine] == [stripped(row, stop) for row in rows]
        scores = found.sequences_scores.tolist()
        np.testing.assert_allclose([c.score for c in mine], scores, rtol=1e-3, atol=1e-4)


def test_log_probabilities_are_transformers(case):
    torch = pytest.importorskip("torch")
    tokenizer, model, ours = case
    text = " ".join(PROMPTS[:8])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits[0]
    expected = torch.log_softmax(logits[:-1], -1).gather(1, ids[0, 1:, None])[:, 0].numpy()
    score = ours.score(text)
    np.testing.assert_allclose(score.logprobs, expected, atol=2e-3)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-4)
    best = torch.softmax(logits[-1], -1).topk(5)
    found = ours.next_token(text, 5)
    assert [token.token for token in found] == best.indices.tolist()
    np.testing.assert_allclose([t.probability for t in found], best.values.numpy(), atol=1e-4)


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=len)
def test_a_conversation_becomes_transformers_prompt(case, messages):
    tokenizer, _, ours = case
    if tokenizer.chat_template is None:
        pytest.skip("the checkpoint has no template")
    for prompt in (True, False):
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)
        assert ours.chat_prompt(messages, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=len)
def test_any_template_gives_transformers_text(case, source, messages):
    from lmonnx.runtime.generate.chat import ChatTemplate

    tokenizer, _, ours = case
    template = ChatTemplate(
        source, tokenizer.special_tokens_map, ours.tokenizer, where="the test's template"
    )
    for tools in (None, TOOLS):
        expected = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=source, add_generation_prompt=True
        )
        found = template.encode(messages, tools=tools, add_generation_prompt=True, variables={})
        assert found == expected
