"""The shape of the source: who imports whom, what is public, how long files are."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import easynlp

ROOT = Path(easynlp.__file__).parent

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(layer.split())
    for layer in (
        "errors",
        "extras options registry atomic",
        "config",
        "tasks.base",
        "text distributed",
        "data models",
        "metrics",
        "calibration",
        "tasks",
        "training",
        "meta methods",
        "pipeline",
        "dataset pretraining",
        "run deployment",
        "fewshot",
        "distillation",
        "benchmarks",
        "compression",
        "landing",
        "demo",
        "api",
        "cli",
    )
)
"""A module may import from layers above its line only; those on one line do not know each other.
`tasks.base` is the contract (types only); the rest of `tasks` are the apps."""

FORBIDDEN = {("training", "tasks"), ("training", "methods"), ("training", "pretraining")}
"""Not even downwards: the loop knows no task and no method."""

LONG_FILES: dict[str, str] = {}
"""Files over 400 lines, with the reason."""

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(module: str) -> str:
    """Return the entry of LAYERS a module belongs to: its package or top-level module."""
    inner = module.removeprefix("easynlp").removeprefix(".")
    return inner if inner == "tasks.base" else inner.partition(".")[0]


def layer(name: str) -> int:
    for number, members in enumerate(LAYERS):
        if name in members:
            return number
    raise AssertionError(f'"{name}" has no place in LAYERS of {__file__}: give it one')


def imports(tree: ast.AST) -> set[str]:
    """Return the easynlp modules a tree imports at run time, deferred imports included."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name in MODULES and name != "easynlp"}


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) not in ("", "__main__")])
def test_imports_point_downwards(module):
    own = room(module)
    for other in sorted(imports(TREES[module])):
        target = room(other)
        if target == own or (own, target) == ("tasks", "tasks.base"):
            continue
        assert (own, target) not in FORBIDDEN, f"{module} must not import {other}"
        assert layer(target) < layer(own), f"{module} imports {other}, which is above or beside it"


def test_the_loop_knows_no_task_and_no_method():
    assert {room(name) for name in imports(TREES["easynlp.training.loop"])} <= {
        "data", "distributed", "errors", "training", "tasks.base",
    }  # fmt: skip


FREE = (
    "errors", "extras", "options", "config", "registry", "text", "data", "tasks", "metrics",
    "calibration", "meta", "pipeline", "api", "cli", "models.runtime", "deployment.batching",
    "deployment.server", "deployment.calibrate", "deployment.loadtest",
    "fewshot.prompt_classify", "fewshot.template", "fewshot.verbalizer",
    "fewshot.prompt_settings", "fewshot.deep_prompt", "distillation.settings",
)  # fmt: skip
BLOCKED = ("torch", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "safetensors", "onnx",
           "onnxscript", "rjieba", "nervaluate", "tensorboard")  # fmt: skip

PROBE = """
import importlib, sys
blocked, names = sys.argv[1].split(), sys.argv[2].split()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
for name in names:
    importlib.import_module(name)
"""


def test_the_base_install_imports_without_torch():
    names = [n for n in MODULES if f"{n}.".startswith(tuple(f"easynlp.{free}." for free in FREE))]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, " ".join(BLOCKED), " ".join(["easynlp", *names])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_public_names():
    assert sorted(easynlp.__all__) == sorted(
        ["EasyNLPError", "Pipeline", "__version__", "evaluate", "export", "inspect", "load",
         "predict", "pretrain", "serve", "train"]
    )  # fmt: skip
    assert set(dir(easynlp)) == set(easynlp.__all__)
    for name in easynlp.__all__:
        assert getattr(easynlp, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        easynlp.trian  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_is_there(module):
    if module.endswith("__main__"):
        return
    loaded = importlib.import_module(module)
    missing = [name for name in getattr(loaded, "__all__", ()) if not hasattr(loaded, name)]
    assert not missing


@pytest.mark.parametrize("module", MODULES)
def test_no_prints_exits_pickles_or_evals_in_the_library(module):
    calls = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            calls.add(ast.unparse(node.func))
        elif isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"pickle", "dill", "cloudpickle"}
    assert not calls & {"print", "eval", "exec", "exit", "quit", "torch.load", "pickle.loads"}
    is_script = "__main__" in MODULES[module].read_text(encoding="utf-8")
    if not is_script:
        assert not calls & {"sys.exit", "os._exit"}
    if room(module) != "cli" and not is_script:
        assert not calls & {"sys.stdout.write", "sys.stderr.write"}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module):
    assert ast.get_docstring(TREES[module])


def test_long_files_have_a_reason():
    long = {
        str(path.relative_to(ROOT)): length
        for path in MODULES.values()
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert set(long) == set(LONG_FILES), "split the file, or list it with a reason"
