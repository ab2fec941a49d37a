"""What the documents tell people to type is understood, and both languages tell them the same."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cyclopts import CycloptsError

import easynlp
from easynlp.cli.command import build
from easynlp.cli.main import COMMANDS, _command_name, _load, _with_dashes
from easynlp.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("easynlp/**/*.md"))
)
RECIPES = sorted(
    path
    for folder in ("docs", "recipes")
    for ending in ("yaml", "yml")
    for path in (ROOT / folder).rglob(f"*.{ending}")
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
ELSEWHERE = "…"
"""Stands for what the reader fills in: such a line is a pattern, not a command."""


def blocks(text: str, *languages: str) -> list[str]:
    """Return a page's code blocks in these languages."""
    return [body for language, body in FENCED.findall(text) if language in languages]


def commands(line: str) -> Iterator[list[str]]:
    """Yield the arguments of every ``easynlp`` command of a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in (*lexer, ";"):
        if set(token) <= set("&|;"):
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words[:3] == ["python", "-m", "easynlp"]:
                words = words[2:]
            if words[:1] == ["easynlp"]:
                yield words[1:]
            words = []
        else:
            words.append(token)


def shown(path: Path) -> list[list[str]]:
    """Return the arguments of every ``easynlp`` command a page shows, in code or in a sentence."""
    text = path.read_text(encoding="utf-8")
    lines = [
        line
        for body in blocks(text, "bash", "sh", "shell", "console", "")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    # A sentence may name a command without using it.
    lines += [
        span
        for span in INLINE.findall(FENCED.sub("", text))
        if span.startswith("easynlp ") and span.removeprefix("easynlp ") not in COMMANDS
    ]
    return [found for line in lines if ELSEWHERE not in line for found in commands(line)]


def understand(tokens: list[str]) -> bool:
    """Parse a command and judge its options, without running it; tell whether it would run."""
    name = _command_name(tokens)
    assert name is not None, f"easynlp {' '.join(tokens)}: no such command"
    rest = _with_dashes(tokens[len(name.split()) :])
    calls: list[object] = []
    command = dataclasses.replace(_load(name, rest), run=lambda *options: calls.append(options))
    build(command)(rest)
    return bool(calls)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run where the files that commands name are, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EASYNLP_")]:
        monkeypatch.delenv(name)
    recipe = {"task": "text_classify", "train": "train.jsonl", "output": "runs/x"}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(tokens, id=f"{page.relative_to(ROOT)}: {' '.join(tokens)[:50]}")
        for page in PAGES
        for tokens in shown(page)
    ],
)
def test_every_command_shown_is_understood(tokens):
    assert understand(tokens) or "--help" in tokens


def test_the_pages_show_the_commands_there_are():
    seen = {_command_name(tokens) for tokens in shown(ROOT / "README.md")}
    assert {"demo", "train", "evaluate", "predict", "export", "serve"} <= seen <= set(COMMANDS)


def test_what_is_not_understood_is_found():
    line = "cd x && LR=1 easynlp serve runs/x --prt 8000 | tee log; python -m easynlp demo  # now"
    assert list(commands(line)) == [["serve", "runs/x", "--prt", "8000"], ["demo"]]
    with pytest.raises((CycloptsError, ConfigError)):
        understand(["serve", "runs/x", "--prt", "8000"])
    with pytest.raises(ConfigError):
        understand(["serve", "runs/x", "--port", "many"])
    with pytest.raises(AssertionError, match="no such command"):
        understand(["sreve", "runs/x"])
    with pytest.raises(ConfigError):
        resolve_recipe("task: text_classify\ntrain: a.jsonl\noutput: b\nlearning: 3\n")


def test_both_languages_show_the_same_code():
    def code(name: str) -> list[tuple[str, str]]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return [
            (language, re.sub(r"\s+#.*$", "", body, flags=re.MULTILINE))
            for language, body in FENCED.findall(text)
        ]

    english, chinese = code("README.md"), code("README.zh.md")
    assert len(english) >= 5
    assert chinese == english
    assert shown(ROOT / "README.zh.md") == shown(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_that_is_shown_names_what_there_is(page):
    for body in blocks(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "easynlp" or hasattr(easynlp, node.attr), node.attr


def resolve_recipe(text: str) -> None:
    """Resolve a recipe as the command it is for would."""
    Path("shown.yaml").write_text(text, encoding="utf-8")
    command = "train" if "task" in yaml.safe_load(text) else "pretrain"
    assert understand([command, "--config", "shown.yaml"])


@pytest.mark.parametrize(
    "recipe",
    [
        *(
            pytest.param(path.read_text("utf-8"), id=str(path.relative_to(ROOT)))
            for path in RECIPES
        ),
        *(
            pytest.param(body, id=f"{page.relative_to(ROOT)} {number}")
            for page in PAGES
            for number, body in enumerate(blocks(page.read_text("utf-8"), "yaml", "yml"))
        ),
        pytest.param("task: text_classify\ntrain: a.jsonl\noutput: b\nlr: 3e-4\n", id="an example"),
    ],
)
def test_every_recipe_shown_is_understood(recipe):
    resolve_recipe(recipe)
