"""P-tuning: the encoder, what learns, and that what is scored is what is saved."""

from __future__ import annotations

import json

import pytest
import torch

import easynlp
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError
from easynlp.fewshot.p_tuning import PromptEncoder, SoftPrompts, p_tuning
from easynlp.fewshot.prompt_classify import PromptClassify
from easynlp.methods import apply_methods
from easynlp.models.backbone import Backbone
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
OPTIONS = {"pattern": "[PRO]*2{text}，很<pseudo>[MASK]", "words": "好评=好;差评=差"}


def plan_of(backbone, **options):
    task = TextClassify.prepare(ClassifyConfig(max_length=32), backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    plan = Plan(task, task.build(backbone), (task_term(task),), backbone)
    return p_tuning(plan, **{**OPTIONS, **options})


def train(plan, **options):
    source = EncodedRows.of(plan.task.encode_batch(ROWS))
    given = FitOptions(**{"batch_size": 8, "lr": 5e-3, **options})
    scores = Pipeline(plan.task, TorchModel(plan.model))
    evaluate = (lambda: scores.evaluate(ROWS)) if options.get("eval_every") else None
    return list(fit(plan, source, given, state=State(), device=CPU, evaluate=evaluate))


def test_the_encoder_is_an_lstm_in_both_directions_under_two_layers():
    torch.manual_seed(0)
    encoder = PromptEncoder(torch.randn(5, 8))
    states, _ = encoder.lstm(encoder.inputs[None])
    first, _, last = encoder.mlp
    expected = last(torch.relu(first(states[0])))
    assert torch.equal(encoder(), expected)
    assert encoder().shape == (5, 8)
    # Every vector depends on every input, which is the point of it.
    (gradient,) = torch.autograd.grad(encoder()[4].sum(), encoder.inputs)
    assert (gradient.abs().sum(1) > 0).all()
    free = PromptEncoder(torch.ones(5, 8), "none")
    assert torch.equal(free(), free.inputs)


def test_a_pattern_without_soft_tokens_gets_some(tiny_backbone):
    plan = plan_of(tiny_backbone, pattern="{text}，很[MASK]", tokens=5)
    assert plan.task.config.pattern == "[PRO]" * 5 + "{text}，很[MASK]"
    prompt = PromptClassify.prepare(
        plan.task.config, tiny_backbone.tokenizer, ROWS
    )  # over a prompt: its own pattern
    base = Plan(prompt, prompt.build(tiny_backbone), (task_term(prompt),), tiny_backbone)
    assert p_tuning(base).task.config == plan.task.config


def test_while_training_the_vectors_come_from_the_encoder(tiny_backbone):
    plan = plan_of(tiny_backbone)
    plan.model.eval()  # writes the vectors down
    batch = to_tensors(plan.task.collate(plan.task.encode_batch(ROWS)), CPU)
    forward = make_forward(plan.model, "fp32", CPU)
    for module in plan.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain = forward(batch).logits
    plan.model.train()
    with torch.no_grad():
        plan.model.core.get_input_embeddings().weight[plan.task.soft_ids] = 99.0
    output = forward(batch)
    task = plan.task  # logits of the soft tokens themselves are never looked at
    for one, other in ((output, plain),):
        size = min(task.soft_ids)
        torch.testing.assert_close(one.logits[:, :size], other[:, :size], atol=1e-5, rtol=1e-5)
    task.loss(output, batch).backward()
    assert all(p.grad is not None for p in plan.model.encoder.parameters())


@pytest.mark.parametrize(
    "kind", ["lstm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mlp", "none"))]
)
def test_a_frozen_model_stays_as_it_is_and_the_prompt_learns(kind):
    pattern = "[PRO]*4{text}，总之很[MASK]。"
    plan = plan_of(Backbone.load("tiny-zh"), pattern=pattern, encoder=kind, freeze=True)
    before = {name: p.detach().clone() for name, p in plan.model.core.named_parameters()}
    events = train(plan, steps=30, lr=0.01)
    plan.model.eval()
    assert events[-1].losses["loss"] < 0.7 * events[0].losses["loss"]
    size = min(plan.task.soft_ids)
    for name, weights in plan.model.core.named_parameters():
        old = before[name]
        if name.endswith("word_embeddings.weight"):
            assert not torch.equal(weights[size:], old[size:])
            weights, old = weights[:size], old[:size]
        assert torch.equal(weights, old), name


def test_evaluations_do_not_change_training(tiny_backbone):
    one, other = plan_of(tiny_backbone), plan_of(tiny_backbone)
    train(one, steps=6)
    train(other, steps=6, eval_every=2)
    for (name, weights), again in zip(
        one.model.eval().state_dict().items(), other.model.eval().state_dict().values(), strict=True
    ):
        assert torch.equal(weights, again), name


def test_a_run_is_saved_as_a_plain_model_that_scores_the_same(tiny_folder, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS), "utf-8")
    spec = f"p_tuning:pattern={OPTIONS['pattern']},words={OPTIONS['words']}"
    easynlp.train(
        "text_classify", train=str(path), dev=str(path), output=str(tmp_path / "run"),
        model=str(tiny_folder), method=(spec, "r_drop:alpha=0.5"), max_length=32, epochs=20,
        lr=5e-3, batch_size=8, precision="fp32",
    )  # fmt: skip
    found = easynlp.load(tmp_path / "run")
    assert found.task.name == "prompt_classify"
    assert not isinstance(found.model.model, SoftPrompts)
    assert found.evaluate(ROWS)["accuracy"] == 1.0
    assert found.meta["scores"]["dev"] == found.evaluate(ROWS)
    tokenizer = found.task.tokenizer
    assert tokenizer.id_of("<pseudo-2>") == found.task.soft_ids[2]
    assert easynlp.export(tmp_path / "run").passed
    # The run is a start for more training too, and its soft tokens are not added again.
    again = Backbone.load(str(tmp_path / "run"))
    assert again.tokenizer.vocab_size == tokenizer.vocab_size


def test_an_interrupted_run_goes_on_exactly(tiny_backbone, tmp_path):
    from easynlp.training.checkpoint import Checkpoints

    whole, half = plan_of(tiny_backbone), plan_of(tiny_backbone)
    source = EncodedRows.of(whole.task.encode_batch(ROWS))
    options = FitOptions(steps=6, batch_size=8, lr=5e-3)
    list(fit(whole, source, options, state=State(), device=CPU))
    state = State()
    for event in fit(half, source, options, state=state, device=CPU):
        if event.step == 3:
            Checkpoints(tmp_path).save(half.model, state)
            break
    fresh = plan_of(tiny_backbone)
    state = Checkpoints(tmp_path).load(fresh.model)
    list(fit(fresh, source, options, state=state, device=CPU))
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, fresh.model.state_dict()[name]), name


def test_wrong_options_are_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="tokens is 0; valid: 1 or more"):
        plan_of(tiny_backbone, tokens=0)
    with pytest.raises(ConfigError, match='"gru" is not one of lstm, mlp, none'):
        apply_methods(plan_of(tiny_backbone), ["p_tuning:encoder=gru"])
