from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import pytest

import easynlp
from easynlp.cli import main
from easynlp.cli.command import option_of
from easynlp.cli.main import COMMANDS
from easynlp.deployment.loadtest import Round
from easynlp.errors import ConfigError, DataError, GateError, Interrupted


@dataclass(frozen=True)
class Config:
    """Options of the task below."""

    max_length: int = 128
    """Most tokens of a text."""
    multi_label: bool = False
    """Several labels a row."""
    labels: tuple[str, ...] = ()


class Sorting:
    """A task as a user would bring it."""

    name = "sorting"
    Config: ClassVar[type] = Config


TASK = f"{__name__}:Sorting"
FILES = ["--train", "训练.jsonl", "--output", "runs/x"]


@pytest.fixture
def trained(monkeypatch):
    """Stand in for the run: keeps what it is called with, raises what it is told to."""
    calls = types.SimpleNamespace(config=None, own=None, error=None)

    def train(config, own):
        calls.config, calls.own = config, own
        if calls.error is not None:
            raise calls.error
        return types.SimpleNamespace(meta={"scores": {"dev": {"accuracy": 0.5}}})

    stub = types.ModuleType("easynlp.run")
    stub.train = train
    monkeypatch.setitem(sys.modules, "easynlp.run", stub)
    monkeypatch.setattr(easynlp, "run", stub, raising=False)
    monkeypatch.setattr("easynlp.cli.train.prepare_process", lambda threads=0: None)
    return calls


def test_flags_reach_the_run(trained):
    assert main(["train", TASK, *FILES, "--lr", "3e-4", "--multi-label", "--max-length=64"]) == 0
    assert (trained.config.task, trained.config.train) == (TASK, "训练.jsonl")
    assert trained.config.lr == 3e-4
    assert trained.own == Config(max_length=64, multi_label=True)


def test_train_prints_scores_and_folder_as_its_result(trained, capsys):
    assert main(["train", TASK, *FILES]) == 0
    shown = capsys.readouterr()
    assert shown.out == "dev  accuracy 0.5000\nruns/x\n"
    assert "next: easynlp export runs/x" in shown.err


def test_only_the_first_process_of_torchrun_speaks(trained, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["train", TASK, *FILES]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_methods_are_given_one_by_one(trained):
    main(["train", TASK, *FILES, "--method", "r_drop:alpha=4,beta=1", "--method", "fgm"])
    assert trained.config.method == ("r_drop:alpha=4,beta=1", "fgm")


def test_a_recipe_names_the_task_and_flags_win(trained, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"task: {TASK}\ntrain: a.jsonl\noutput: runs/y\nlr: 1e-3\nmax_length: 32\nseed: 5\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("EASYNLP_SEED", "6")
    assert main(["train", "--config", str(recipe), "--lr", "1e-4"]) == 0
    assert (trained.config.lr, trained.config.output) == (1e-4, "runs/y")
    assert trained.config.seed == 6
    assert trained.own.max_length == 32


def test_print_config_shows_a_recipe_and_runs_nothing(trained, capsys, tmp_path):
    assert main(["train", TASK, *FILES, "--lr", "1e-5", "--print-config"]) == 0
    assert trained.config is None
    recipe = tmp_path / "again.yaml"
    recipe.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["train", "--config", str(recipe)]) == 0
    assert (trained.config.lr, trained.config.train) == (1e-5, "训练.jsonl")


def test_the_help_of_a_task_shows_its_own_options_and_none_that_is_learned(capsys):
    assert main(["train", TASK, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Task {TASK}" in shown
    for text in ("--max-length", "Most tokens of a text.", "--batch-size", "[default: 32]"):
        assert text in shown
    assert "--labels" not in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr()
    assert f"Usage: easynlp {name}" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize("tokens", [[], ["--help"], ["bench"], ["bench", "--help"]])
def test_help_lists_the_commands(tokens, capsys):
    assert main(tokens) == 0
    shown = capsys.readouterr().out
    wanted = ("speed", "models") if "bench" in tokens else ("train", "serve", "bench", "--version")
    assert all(word in shown for word in wanted)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["trian"], 'Unknown command "trian". Did you mean "train"?'),
        (["bench", "sped"], 'Unknown command "sped". Did you mean "speed"?'),
        (["train", "text_clasify"], 'unknown task "text_clasify". Did you mean "text_classify"?'),
        (["train", "language_modeling"], "type easynlp pretrain"),
        (
            ["train", TASK, *FILES, "--ephocs", "3"],
            "Unknown option: --ephocs. Did you mean --epoch",
        ),
        (["train", TASK, *FILES, "--max-lenght", "3"], "Did you mean --max-length?"),
        (["train", TASK, *FILES, "更多"], "Unused Tokens: ['更多']"),
        (["train", TASK, *FILES, "--lr"], "--lr requires an argument"),
        (["train", TASK, *FILES, "--lr", "快"], '--lr: "快" is not a number'),
        (["land", *FILES, "--target-size", "-4MB"], '"-4MB" is no size; write e.g. --target-size'),
        (["train", TASK, *FILES, "--batch-size", "-1"], "--batch-size: -1 is out of range"),
        (["train", TASK, *FILES, "--schedule", "cosin"], 'Did you mean "cosine"?'),
        (["train", TASK, "--output", "x"], "--train is missing: training data"),
        (["train"], "TASK is missing"),
        (["train", "--config", "没有.yaml"], "cannot read the recipe 没有.yaml"),
        (["evaluate", "--data", "a.jsonl"], "RUN is missing"),
    ],
)
def test_misuse_says_what_to_do_and_exits_with_2(tokens, message, capsys, trained):
    assert main(tokens) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("error: ")
    assert shown.out == ""
    assert trained.config is None


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("text is empty", path="训练.jsonl", line=3), 2, "error: 训练.jsonl:3: text is"),
        (ConfigError("taken"), 2, "error: taken"),
        (GateError("labels disagree"), 1, "error: labels disagree"),
        (Interrupted("stopped at step 3"), 130, "stopped at step 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("No module", name="torch._C"), 2, 'pip install "easynlp[train]"'),
        (ModuleNotFoundError("No module", name="pyarrow"), 2, 'pip install "easynlp[parquet]"'),
    ],
)
def test_how_a_run_ends_is_the_exit_code(error, code, message, trained, capsys):
    trained.error = error
    assert main(["train", TASK, *FILES]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("error: ") == (code != 130)
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_two_commands_do_not_write_to_one_folder(trained, capsys, tmp_path):
    code = "from easynlp.cli.alone import alone\nwith alone({!r}): print(flush=True); input()"
    output = str(tmp_path / "runs" / "x")
    other = subprocess.Popen(
        [sys.executable, "-c", code.format(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    command = ["train", TASK, "--train", "a.jsonl", "--output", output]
    try:
        other.stdout.readline()
        assert main(command) == 2
        assert f"another easynlp command is writing to {output}" in capsys.readouterr().err
        assert trained.config is None
    finally:
        other.kill()
        other.communicate()
    assert main(command) == 0  # a lock ends with its process, even a killed one


def test_faults_of_our_own_are_not_hidden(trained):
    trained.error = ModuleNotFoundError("No module named 'easynlp.nowhere'", name="easynlp.nowhere")
    with pytest.raises(ModuleNotFoundError):
        main(["train", TASK, *FILES])


@pytest.mark.parametrize(("lost", "code"), [(0, 0), (2, 1)])
def test_a_load_test_that_loses_requests_fails(lost, code, monkeypatch, capsys):
    asked = {}

    def loadtest(**options):
        asked.update(options)
        return [Round(8, 99, 0, 0, lost, 1.25, 3.0, 1000.0, 1.0)]

    monkeypatch.setattr("easynlp.deployment.loadtest.loadtest", loadtest)
    assert main(["bench", "serve", "runs/x", "--clients", "1,8", "--json"]) == code
    assert (asked["target"], asked["clients"]) == ("runs/x", (1, 8))
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["texts_per_second"] == 1000.0
    assert ("2 requests were lost" in shown.err) == bool(lost)
    main(["bench", "serve", "runs/x"])
    assert "texts per second" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"easynlp {easynlp.__version__}\n"


def test_as_a_module_and_into_a_closed_pipe():
    for words in ("train --help", f"train {TASK} {' '.join(FILES)} --print-config"):
        script = f"{sys.executable} -m easynlp {words} | head -c 1"
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert done.stdout in ("U", "t")
        assert done.stderr == ""


def test_option_of():
    assert option_of(["--config", "a.yaml"], "config") == "a.yaml"
    assert option_of(["--lr", "1", "--config=b.yaml"], "config") == "b.yaml"
    assert option_of(["--config"], "config") is None
