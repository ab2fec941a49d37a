"""TransPrompt: weights by hand, the first phase's loss and prompts, and whole calls."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import easynlp
from easynlp.cli.main import main
from easynlp.config import TrainConfig
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.fewshot import transprompt as module
from easynlp.fewshot.cross_prompt import CrossConfig, CrossPrompt, cross_prompts
from easynlp.fewshot.p_tuning import SoftPrompts
from easynlp.fewshot.prompt_settings import TransPromptOptions
from easynlp.fewshot.transprompt import prototype_weights, transprompt
from easynlp.models.backbone import Backbone
from easynlp.pipeline import Pipeline
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS, without_mask_head
from tests.contract.samples import plain

CPU = torch.device("cpu")
TEXTS = [text for text, _ in REVIEWS]
PATTERN, WORDS = "[PRO]*2{text}，很[MASK]", "好评=好;差评=差"
CONFIG = CrossConfig(pattern=PATTERN, words=WORDS, max_length=32, labels=("好评", "差评"), sets=2)


def test_examples_run():
    assert doctest.testmod(module).failed == 0


def test_weights_are_by_nearness_to_own_and_other_centres():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 4))
    labels, sets = list("aabbaabbc"), [0, 0, 0, 0, 1, 1, 2, 2, 2]
    found = prototype_weights(vectors, labels, sets, 0.7)

    def mean(*rows):
        return vectors[list(rows)].mean(0)

    a0, b0, a1, b2 = mean(0, 1), mean(2, 3), mean(4, 5), mean(6, 7)
    pairs = [(a0, a1)] * 2 + [(b0, b2)] * 2 + [(a1, a0)] * 2 + [(b2, b0)] * 2
    near = [0.7 * np.linalg.norm(v - own) + 0.3 * np.linalg.norm(v - other)
            for v, (own, other) in zip(vectors, pairs, strict=False)]  # fmt: skip
    near.append(0.0)  # the only c of all: on its own centre, and no other there
    shares = np.exp(-np.array(near))
    np.testing.assert_allclose(found, shares / shares.sum() * 9)
    assert found.mean() == pytest.approx(1)


def examples(weights=None):
    rows = [{"text": text, "label": label, "set": i % 2} for i, (text, label) in enumerate(REVIEWS)]
    if weights is not None:
        rows = [{**row, "weight": w} for row, w in zip(rows, weights, strict=True)]
    return rows


def test_the_loss_is_weighted_and_takes_the_entropy_off(tiny_backbone):
    weights = [0.5, 1.5, 2.0, 0.1, 0.9, 1.0, 1.0, 1.0]
    task = CrossPrompt(replace(CONFIG, entropy=0.3), tiny_backbone.tokenizer)
    torch.manual_seed(0)
    model = task.build(plain(tiny_backbone)).eval()
    batch = to_tensors(task.collate(task.encode_batch(examples(weights))), CPU)
    with torch.no_grad():
        output = make_forward(model, "fp32", CPU)(batch)
        chances = task.log_probs(output, batch).double().exp().numpy()
    expected = sum(
        -w * np.log(row[0 if label == "好评" else 1]) - 0.3 * -(row * np.log(row)).sum()
        for w, row, (_, label) in zip(weights, chances, REVIEWS, strict=True)
    )
    assert float(task.loss(output, batch)) == pytest.approx(expected, rel=1e-5)
    one = CrossPrompt(replace(CONFIG, entropy=0.0), tiny_backbone.tokenizer)
    even = to_tensors(one.collate(one.encode_batch(examples())), CPU)
    assert float(one.loss(output, even)) == pytest.approx(  # no weights, no entropy: PET's loss
        float(super(CrossPrompt, one).loss(output, even)), rel=1e-6
    )


def make_plan(tiny_backbone, **options):
    torch.manual_seed(0)
    backbone = plain(tiny_backbone)
    task = CrossPrompt(CONFIG, backbone.tokenizer)
    plan = Plan(task, task.build(backbone), (task_term(task),), backbone)
    return cross_prompts(plan, **options)


def test_a_set_has_soft_tokens_of_its_own(tiny_backbone):
    task = CrossPrompt(CONFIG, tiny_backbone.tokenizer)
    first, second = task.encode_batch([{"text": "房间很干净", "set": n} for n in (0, 1)])
    plainly = task.encode({"text": "房间很干净"})
    assert np.array_equal(plainly["input_ids"], first["input_ids"])
    differ = first["input_ids"] != second["input_ids"]
    assert first["input_ids"][differ].tolist() == task.soft_ids[:2]
    assert second["input_ids"][differ].tolist() == task.soft_ids[2:]
    for field, value, said in (
        ("set", 2, "`set` is 2; there are 2"), ("set", 0.5, "`set` is 0.5; there are 2"),
        ("set", "x", "`set` is 'x', which is no number"), ("weight", None, "`weight` is None"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            task.encode({"text": "好", field: value})


def test_prompts_over_several_sets_refuse_what_they_would_not_heed(tiny_backbone):
    with pytest.raises(ConfigError, match="loss=restricted, not vocabulary"):
        CrossPrompt(replace(CONFIG, loss="vocabulary"), tiny_backbone.tokenizer)
    plan = make_plan(tiny_backbone)
    with pytest.raises(ConfigError, match="comes first among the methods"):
        cross_prompts(replace(plan, terms=(*plan.terms, replace(plan.terms[0], name="more"))))


@pytest.mark.parametrize("unseen", [False, True])
def test_vectors_are_shares_of_own_and_universal_encoders(tiny_backbone, unseen):
    plan = make_plan(tiny_backbone, share=0.7, unseen=unseen)
    model = plan.model
    assert isinstance(model, SoftPrompts)
    with torch.no_grad():
        universal = model.encoder.universal()
        own = [each() for each in model.encoder.own]
        wanted = [0.7 * each + 0.3 * universal for each in own]
        wanted = [universal, *wanted] if unseen else wanted
        assert len(wanted) == 2
        torch.testing.assert_close(model.encoder(), torch.cat(wanted))
    model.eval()  # writes them down
    table = model.core.get_input_embeddings().weight[plan.task.soft_ids]
    torch.testing.assert_close(table.detach(), torch.cat(wanted))


def test_what_one_set_teaches_reaches_the_other_through_the_universal_encoder_alone(tiny_backbone):
    def moved(**options):
        plan = make_plan(tiny_backbone, **options)
        before = {k: v.clone() for k, v in plan.model.encoder.state_dict().items()}
        rows = [{**row, "set": 1} for row in examples()]
        source = EncodedRows.of(plan.task.encode_batch(rows))
        steps = FitOptions(steps=2, batch_size=8, lr=1e-2, warmup=0.0, weight_decay=0.0)
        list(fit(plan, source, steps, state=State(), device=CPU))
        after = plan.model.encoder.state_dict()
        changed = [k for k, v in after.items() if not torch.equal(v, before[k])]
        return {k if k.startswith("universal") else k[:5] for k in changed} & set(
            ["universal.inputs", "own.0", "own.1"]
        )

    assert moved(share=0.5) == {"universal.inputs", "own.1"}
    assert moved(share=0.0) == {"universal.inputs"}


@pytest.fixture
def config(tmp_path, tiny_folder):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
        return str(path)

    rows = [{"review": text, "class": label} for text, label in REVIEWS]
    dev = [{**row, "review": row["review"] + "1"} for row in rows]
    write("other.jsonl", [{"text": f"{t}{i}", "label": x} for i in "23" for t, x in REVIEWS])
    write("odd.jsonl", [{"text": "好", "label": "中评"}])
    return TrainConfig(
        task="text_classify", train=write("train.jsonl", rows), text="review", label="class",
        dev=write("dev.jsonl", dev), test=write("test.jsonl", dev), output=str(tmp_path / "run"),
        model=str(tiny_folder), lr=5e-3, epochs=20, batch_size=8, precision="fp32", dropout=0.0,
    )  # fmt: skip


def options_of(tmp_path, **options):
    given = {"others": (str(tmp_path / "other.jsonl"),), "pattern": PATTERN, "words": WORDS,
             "max_length": 32, "first_epochs": 6.0}  # fmt: skip
    return TransPromptOptions(**{**given, **options})


def test_a_call_leaves_a_run_of_the_target(config, tmp_path):
    pipeline = transprompt(config, options_of(tmp_path))
    assert pipeline.meta["task"] == "prompt_classify"
    assert pipeline.meta["scores"]["test"]["accuracy"] >= 0.8
    report = json.loads((tmp_path / "run" / "transprompt.json").read_text("utf-8"))
    assert [each["rows"] for each in report["sets"]] == [8, 16]
    assert sum(each["weight"] for each in report["sets"]) == pytest.approx(24)
    assert all(each["effective_rows"] < each["rows"] for each in report["sets"])
    # The second phase begins where the first ended, with the first set's soft tokens.
    first = load_file(tmp_path / "run/phases/first/model.safetensors")
    task = pipeline.task
    begun = task.build(Backbone.load(str(tmp_path / "run/phases/first"))).core
    name = "bert.embeddings.word_embeddings.weight"
    torch.testing.assert_close(begun.state_dict()[name], first[name])
    assert len(task.soft_ids) == 2
    weights = (tmp_path / "run/model.safetensors").read_bytes()
    transprompt(replace(config, resume=True), options_of(tmp_path))
    assert (tmp_path / "run/model.safetensors").read_bytes() == weights
    assert easynlp.export(str(tmp_path / "run")).passed
    exported = Pipeline.load(tmp_path / "run").predict(TEXTS)
    assert [p["label"] for p in exported] == [p["label"] for p in pipeline.predict(TEXTS)]


def test_the_first_phase_stays_if_the_second_is_no_better_on_dev(config, tmp_path):
    still = replace(config, lr=1e-9, epochs=1.0)
    pipeline = transprompt(still, options_of(tmp_path, first_epochs=1.0))
    report = json.loads((tmp_path / "run" / "transprompt.json").read_text("utf-8"))
    assert report["chosen"] == "first"
    assert pipeline.meta["task"] == "prompt_classify"
    assert set(pipeline.meta["scores"]) == {"dev", "test"}
    first = Pipeline.load(tmp_path / "run/phases/first", backend="torch")
    assert pipeline.predict(TEXTS) == first.predict(TEXTS)
    blind = replace(still, dev=None, output=str(tmp_path / "blind"))
    transprompt(blind, options_of(tmp_path, first_epochs=1.0))
    report = json.loads((tmp_path / "blind" / "transprompt.json").read_text("utf-8"))
    assert report["chosen"] == "second"


def test_placebos_and_a_target_that_is_not_seen(config, tmp_path):
    weights = {}
    for kind in ("prototypes", "uniform", "shuffled"):
        short = replace(config, output=str(tmp_path / kind), epochs=1.0)
        transprompt(short, options_of(tmp_path, weighting=kind, first_epochs=1.0))
        lines = (tmp_path / kind / "phases" / "all.jsonl").read_text("utf-8").splitlines()
        weights[kind] = [json.loads(line)["weight"] for line in lines]
    assert set(weights["uniform"]) == {1.0}
    assert sorted(weights["shuffled"]) == sorted(weights["prototypes"]) != weights["prototypes"]
    unseen = replace(config, output=str(tmp_path / "unseen"), epochs=1.0)
    transprompt(unseen, options_of(tmp_path, unseen=True, first_epochs=1.0))
    lines = (tmp_path / "unseen/phases/all.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["set"] for line in lines} == {1}


def test_what_is_wrong_is_told_before_anything_is_written(config, tmp_path):
    odd = options_of(tmp_path, others=(str(tmp_path / "odd.jsonl"),))
    with pytest.raises(DataError, match='"中评" is none of the training data'):
        transprompt(config, odd)
    with pytest.raises(ConfigError, match="--others FILE"):
        transprompt(config, options_of(tmp_path, others=()))
    with pytest.raises(ConfigError, match="leave --method and --probe out"):
        transprompt(replace(config, probe="first"), options_of(tmp_path))
    path = tmp_path / "held.jsonl"
    rows = [{"text": f"{t}1", "label": x} for t, x in REVIEWS]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    with pytest.raises(DataError, match="all stand in dev or test"):
        transprompt(config, options_of(tmp_path, others=(str(path),)))
    headless = str(without_mask_head(config.model, tmp_path / "headless"))
    with pytest.raises(ModelError, match="no masked-LM head of its own"):
        transprompt(replace(config, model=headless), options_of(tmp_path))
    assert not (tmp_path / "run").exists()


def test_the_commands_are_there(config, tmp_path, capsys):
    shared = ["--train", config.train, "--text", "review", "--label", "class", "--model",
              config.model, "--words", WORDS, "--precision", "fp32", "--epochs", "1"]  # fmt: skip
    command = ["prompt", "transprompt", *shared, "--output", str(tmp_path / "t"), "--pattern",
               "{text}，很[MASK]", "--first-epochs", "1"]  # fmt: skip
    plainly = tmp_path / "plain.jsonl"  # the other set's columns are its own
    plainly.write_text((tmp_path / "other.jsonl").read_text("utf-8"), "utf-8")
    assert main([*command, "--others", str(plainly)]) == 0
    assert len(Pipeline.load(tmp_path / "t").task.soft_ids) == 4
    command = ["prompt", "ipet", *shared, "--output", str(tmp_path / "i"), "--patterns",
               "{text}，很[MASK]", "--patterns", "[MASK]，{text}", "--unlabeled",
               str(tmp_path / "dev.jsonl")]  # fmt: skip
    assert main(command) == 0
    assert Pipeline.load(tmp_path / "i").meta["task"] == "text_classify"
    assert main(["prompt", "ipet", "--train", "x"]) == 2
    assert "--unlabeled" in capsys.readouterr().err
