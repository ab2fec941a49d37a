from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from easynlp.config import PretrainConfig, TrainConfig, parse_method
from easynlp.errors import ConfigError
from easynlp.options import Range, convert, documentation, option_fields, resolve, to_yaml

REQUIRED = {"task": "text_classify", "train": "训练.jsonl", "output": "runs/x"}


@dataclass(frozen=True)
class TaskConfig:
    """A task's own options, as tasks declare them."""

    max_length: Annotated[int, Range(4)] = 128
    """Most tokens of a text."""
    multi_label: bool = False
    """Several labels a row."""
    labels: tuple[str, ...] = ()
    pair: bool = False
    classes: int = field(default=0, metadata={"learned": True})

    def __post_init__(self) -> None:
        if self.multi_label and self.max_length == 4:
            raise ConfigError("multi_label needs max_length above 4")


def one(**sources):
    (config,) = resolve([TrainConfig], **sources)
    return config


def write(tmp_path, text, name="recipe.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_each_source_wins_over_the_one_before(tmp_path):
    recipe = write(tmp_path, "lr: 2e-4\nseed: 2\nepochs: 2\n")
    env = {"EASYNLP_SEED": "3", "EASYNLP_EPOCHS": "3", "HOME": "/"}
    assert one(flags=REQUIRED).seed == 42
    assert one(path=recipe, flags=REQUIRED).seed == 2
    assert one(path=recipe, env=env, flags=REQUIRED).seed == 3
    config = one(path=recipe, env=env, flags={**REQUIRED, "seed": 4})
    assert (config.lr, config.epochs, config.seed, config.batch_size) == (2e-4, 3.0, 4, 32)


def test_a_flag_equal_to_the_default_still_wins(tmp_path):
    recipe = write(tmp_path, "seed: 7\noverwrite: true\n")
    config = one(path=recipe, flags={**REQUIRED, "seed": "42", "overwrite": False})
    assert config.seed == 42
    assert config.overwrite is False


def test_yaml_1e_4_is_a_number(tmp_path):
    assert one(path=write(tmp_path, "lr: 1e-4\nsteps: 1e3"), flags=REQUIRED).steps == 1000
    assert one(path=write(tmp_path, "lr: 1e-4"), flags=REQUIRED).lr == 1e-4


def test_several_classes_share_one_flat_recipe(tmp_path):
    recipe = write(tmp_path, "max_length: 64\nlr: 3e-4\n")
    config, own = resolve([TrainConfig, TaskConfig], path=recipe, flags=REQUIRED)
    assert (config.lr, own.max_length) == (3e-4, 64)


def test_keys_may_be_written_with_dashes_and_a_bom(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbfbatch-size: 8\n")
    assert one(path=path, flags=REQUIRED).batch_size == 8


def test_learned_fields_are_no_options(tmp_path):
    assert [f.name for f in option_fields(TaskConfig)] == ["max_length", "multi_label"]
    with pytest.raises(ConfigError, match='unknown option "labels"'):
        resolve([TaskConfig], path=write(tmp_path, "labels: [好, 坏]"))


def test_unknown_keys_are_told_with_place_and_suggestion(tmp_path):
    recipe = write(tmp_path, "# 配方\nlr: 1e-4\nepoch: 3\n")
    with pytest.raises(ConfigError) as caught:
        one(path=recipe, flags=REQUIRED)
    assert str(caught.value) == (f'{recipe}:3: unknown option "epoch". Did you mean "epochs"?')
    with pytest.raises(ConfigError, match=r'option "batchsize"\. Did you mean "batch_size"'):
        one(flags={**REQUIRED, "batchsize": 3})


def test_all_errors_are_told_at_once(tmp_path):
    recipe = write(tmp_path, "lr: 快\nwarmup: 3\nepoch: 3\n")
    with pytest.raises(ConfigError) as caught:
        one(path=recipe, env={"EASYNLP_SEED": "x"}, flags={"schedule": "cosin"})
    lines = str(caught.value).splitlines()
    assert lines[0].endswith('unknown option "epoch". Did you mean "epochs"?')
    assert lines[1] == f'{recipe}:1: lr: "快" is not a number'
    assert lines[2] == f"{recipe}:2: warmup: 3.0 is out of range; valid: 0 to 1"
    assert lines[3] == 'EASYNLP_SEED: "x" is not a whole number'
    assert lines[4] == (
        '--schedule: "cosin" is not one of linear, cosine, constant. Did you mean "cosine"?'
    )
    assert [line.split(" is missing")[0] for line in lines[5:]] == ["--task", "--train", "--output"]


def test_rules_over_several_fields_are_config_errors():
    with pytest.raises(ConfigError, match="multi_label needs max_length above 4"):
        resolve([TaskConfig], flags={"multi_label": True, "max_length": 4})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: [1, 2]", "1: lr: [1, 2] is not a number: one plain value is wanted"),
        ("lr: {a: 1}", "1: lr: {'a': 1} is not a number: one plain value is wanted"),
        ("seed:", "1: seed: has no value; give one, or delete the line for the default"),
        ("seed: true", "1: seed: True is not a whole number"),
        ("seed: 1.5", "1: seed: 1.5 is not a whole number"),
        ("lr: .nan", "1: lr: nan is not a number"),
        ("lr: .inf", "1: lr: inf is not a number"),
        ("overwrite: maybe", '1: overwrite: "maybe" is not true or false'),
        ("model: no", "1: model: False is not text; put it in quotes"),
        ("batch_size: 0", "1: batch_size: 0 is out of range; valid: 1 or more"),
        ("lr: 0", "1: lr: 0.0 is out of range; valid: more than 0"),
        ("dropout: 2", "1: dropout: 2.0 is out of range; valid: 0 to 1"),
        ("method: [{alpha: 4}]", "1: method: {'alpha': 4} has no name"),
        ("method: [{name: fgm, a: [1]}]", "options of a method are plain values"),
        ("lr: 1\nlr: 2", "2: lr is set twice, first at"),
        ("lr: [1", "not valid YAML"),
        ("- lr", 'a recipe is lines such as "lr: 1e-4"'),
        ("just words", 'a recipe is lines such as "lr: 1e-4"'),
        ("lr: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_wrong_values_name_line_value_and_what_is_valid(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        one(path=write(tmp_path, text), flags=REQUIRED)
    assert message in str(caught.value)
    assert "recipe.yaml:" in str(caught.value)


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*none.yaml: No such file"):
        one(path=tmp_path / "none.yaml", flags=REQUIRED)
    (tmp_path / "gbk.yaml").write_bytes("text: 文本".encode("gb18030"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        one(path=tmp_path / "gbk.yaml", flags=REQUIRED)
    assert one(path=write(tmp_path, ""), flags=REQUIRED).seed == 42


def test_null_is_a_value_where_the_option_may_be_absent(tmp_path):
    recipe = write(tmp_path, "dev: null\nheader:\n")
    config = one(path=recipe, flags=REQUIRED)
    assert config.dev is None
    assert config.header is None
    assert one(path=write(tmp_path, "header: yes"), flags=REQUIRED).header is True


def test_lists_and_mappings_of_methods(tmp_path):
    recipe = write(tmp_path, "method:\n- {name: r_drop, alpha: 4, both: true}\n- fgm\n")
    assert one(path=recipe, flags=REQUIRED).method == ("r_drop:alpha=4,both=True", "fgm")
    assert one(path=write(tmp_path, "method: fgm"), flags=REQUIRED).method == ("fgm",)
    env = {"EASYNLP_METHOD": "r_drop:alpha=4,beta=2; fgm"}
    assert one(env=env, flags=REQUIRED).method == ("r_drop:alpha=4,beta=2", "fgm")


def test_env_words_for_switches_and_a_warning_for_near_misses(caplog):
    assert one(env={"EASYNLP_OVERWRITE": "1"}, flags=REQUIRED).overwrite is True
    assert one(env={"EASYNLP_OVERWRITE": "No"}, flags=REQUIRED).overwrite is False
    with caplog.at_level(logging.WARNING, "easynlp"):
        logging.getLogger("easynlp").propagate = True
        one(env={"EASYNLP_BATCHSIZE": "8", "EASYNLP_API_KEY": "s"}, flags=REQUIRED)
    assert [r.getMessage() for r in caplog.records] == [
        "EASYNLP_BATCHSIZE in the environment is no option; EASYNLP_BATCH_SIZE is"
    ]


def test_what_is_written_reads_back_the_same(tmp_path):
    config, own = resolve(
        [TrainConfig, TaskConfig],
        flags={**REQUIRED, "lr": "3e-5", "method": ["fgm"], "text": "正文", "resume": True},
    )
    text = to_yaml(config, own)
    assert text.startswith("task: text_classify\ntrain: 训练.jsonl\n")
    assert "text: 正文" in text
    assert "resume" not in text
    assert "labels" not in text
    again = resolve([TrainConfig, TaskConfig], path=write(tmp_path, text), flags={"resume": True})
    assert again == [config, own]


def test_columns_are_those_chosen():
    assert one(flags={**REQUIRED, "text": "正文"}).columns == {"text": "正文"}


@pytest.mark.parametrize("cls", [TrainConfig, PretrainConfig])
def test_every_option_has_help(cls):
    written = documentation(cls)
    assert not [f.name for f in option_fields(cls) if not written.get(f.name, "").strip()]


def test_convert_leaves_choices_as_they_are():
    assert convert("2", Literal[1, 2]) == 2
    assert convert(("a, b", "a"), tuple[Literal["a", "b"], ...]) == ("a", "b", "a")
    assert convert(None, int | None) is None
    assert convert("5", int | None) == 5


def test_numbers_of_a_list_may_share_a_word():
    assert convert(("1,8", "64"), tuple[int, ...]) == (1, 8, 64)
    assert convert([1, 2], tuple[Annotated[int, Range(1)], ...]) == (1, 2)
    assert convert("a,b", tuple[str, ...]) == ("a,b",)
    with pytest.raises(ValueError, match='"x" is not a whole number'):
        convert("1,x", tuple[int, ...])


def r_drop(plan: Plan, alpha: float = 1.0, on: bool = False, name: str = "kl") -> Plan: ...  # noqa: F821


def teacher(plan, path: str, steps: int = 1): ...


def find(name):
    return {"r_drop": r_drop, "teacher": teacher, "my.module:r_drop": r_drop}[name]


def test_method_options_follow_the_signature():
    assert parse_method("r_drop", find) == ("r_drop", {})
    name, options = parse_method("r_drop:alpha=4,on=yes, name=js", find)
    assert (name, options) == ("r_drop", {"alpha": 4.0, "on": True, "name": "js"})
    assert type(options["alpha"]) is float
    assert parse_method("my.module:r_drop:alpha=1e-2", find)[1] == {"alpha": 0.01}
    assert parse_method("teacher:path=runs/a:b", find)[1] == {"path": "runs/a:b"}


def test_text_options_of_methods_may_hold_commas():
    spec = "teacher:path=好=很好,不错;差=糟,很差,steps=2"
    assert parse_method(spec, find)[1] == {"path": "好=很好,不错;差=糟,很差", "steps": 2}
    assert parse_method("teacher:path=a, b,100=c", find)[1] == {"path": "a, b,100=c"}
    with pytest.raises(ConfigError, match='has no option "step"'):
        parse_method("teacher:path=a,step=2", find)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("r_drop:alpa=1", 'has no option "alpa". Did you mean "alpha"? Its options: alpha, on'),
        ("r_drop:alpha=很大", 'method r_drop, option alpha: "很大" is not a number'),
        ("r_drop:alpha", "options are written name:option=value"),
        ("r_drop:alpha=1,on", '"on" is not option=value'),
        ("r_drop:alpha=1,alpha=2", "sets alpha twice"),
        ("r_drop:plan=1", 'has no option "plan"'),
        ("alpha=1", "has no name"),
        ("teacher", "method teacher needs path: write teacher:path=..."),
    ],
)
def test_wrong_methods(spec, message):
    with pytest.raises(ConfigError) as caught:
        parse_method(spec, find)
    assert message in str(caught.value)
