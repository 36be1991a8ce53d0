"""SmolLM2 in 4 and 8 bits: the same tokens alone, again, in company, however a prompt is cut."""

import pytest

import lmonnx
from lmonnx import SamplingParams
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.quantize import decoder, quantize
from lmonnx.compiler.quantize.text_gate import calibration_windows
from lmonnx.runtime.generate import scheduler
from tests.conftest import MODELS

SOURCE = MODELS / "smollm2-135m-instruct"
PROMPTS = (
    "Once upon a time, the city",
    "Once upon a time",
    "The sky is",
    "A list of three fruits: apples,",
    "def fibonacci(n):",
    "Dear Sir or Madam, I am writing to you because",
)
GREEDY = SamplingParams(max_new_tokens=24)

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not SOURCE.is_dir(), reason="LMONNX_MODELS has no smollm2-135m-instruct"),
]


@pytest.fixture(scope="module", params=["4", "8", "4 with prompts in int8"])
def bundle(request, tmp_path_factory):
    bits, *reading = request.param.split(maxsplit=1)
    folder = tmp_path_factory.mktemp("company")
    exported = export(open_checkpoint(str(SOURCE)), folder / "fp32", verify=False)
    few = calibration_windows(exported)[:2]  # it is not for how good the weights are
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(decoder, "write_text", lambda *_, **__: [])
        patched.setattr(decoder, "calibration_windows", lambda _: few)
        how = {"bits": int(bits), "calibrate": bool(reading), "text": " ".join(PROMPTS)}
        return quantize(exported, folder / "made", max_drop=1, **how).path


def ids(completions):
    return [found.token_ids for found in completions]


def test_answers_do_not_depend_on_company_repetition_or_pieces(bundle, monkeypatch):
    with lmonnx.load(bundle, context=512) as model:
        together = ids(model(PROMPTS, GREEDY))
        again = [ids(model(prompt, GREEDY))[0] for prompt in PROMPTS]
    alone = []
    for prompt in PROMPTS:
        with lmonnx.load(bundle, context=512, verify=False) as model:
            alone += ids(model(prompt, GREEDY))
    assert together == alone
    assert again == alone
    monkeypatch.setattr(scheduler, "ALONE", 3)
    with lmonnx.load(bundle, context=512, verify=False) as model:
        assert ids(model(PROMPTS, GREEDY)) == alone


@pytest.mark.parametrize("length", [64, 65, 66, 127, 128, 129, 130, 257])
def test_nor_do_those_to_prompts_at_the_borders_of_attentions_blocks(bundle, length):
    words = [7 * index % 4000 + 20 for index in range(length + 8)]
    asked = SamplingParams(max_new_tokens=8, ignore_eos=True, logprobs=0)
    found = []
    for start in (0, 5):
        prompt = words[start : start + length]
        with lmonnx.load(bundle, context=512, verify=False) as model:
            found.append([model([prompt], asked)[0], model([prompt], asked)[0]])
        with lmonnx.load(bundle, context=512, verify=False) as model:
            stream = model.stream(words[:9], SamplingParams(max_new_tokens=99, ignore_eos=True))
            next(stream)  # from now on prompts are read in pieces
            found[-1].append(model([prompt], asked)[0])
            stream.close()
    for alone, again, beside in found:
        assert alone == again == beside
