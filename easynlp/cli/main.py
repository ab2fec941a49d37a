"""Which command was meant, and what its end means to the shell."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import easynlp
from easynlp.cli.command import Command, build
from easynlp.cli.output import complain, listen, say
from easynlp.errors import EasyNLPError, Interrupted
from easynlp.extras import needed_for

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("easynlp.cli.bench:demo", "Train, evaluate, export, time: real reviews, minutes."),
    "train": ("easynlp.cli.train:train", "Train a model on labelled data."),
    "fewshot": ("easynlp.cli.train:fewshot", "Find the best way to learn from few labels."),
    "distill": ("easynlp.cli.distill:distill", "Let a large model teach a small one."),
    "distill online": (
        "easynlp.cli.distill:online",
        "Train a teacher and several students in one pass.",
    ),
    "land": ("easynlp.cli.land:land", "Few labels to a small served model, with a report."),
    "evaluate": ("easynlp.cli.use:evaluate", "Score a run on labelled data."),
    "predict": ("easynlp.cli.use:predict", "Predict a file of any size."),
    "compress": ("easynlp.cli.compress:compress", "Make a run smaller and measure the price."),
    "calibrate": ("easynlp.cli.deploy:calibrate", "Make scores mean what they say."),
    "export": ("easynlp.cli.deploy:export", "Turn a run into ONNX, fp32 or int8, and check it."),
    "serve": ("easynlp.cli.deploy:serve", "Serve a run over HTTP."),
    "inspect": ("easynlp.cli.use:inspect", "Show what is in a run folder or a data file."),
    "pretrain": ("easynlp.cli.train:pretrain", "Pre-train an encoder from raw text."),
    "models": ("easynlp.cli.models:listing", "List built-in and well-known models."),
    "models check": ("easynlp.cli.models:check", "Say whether a masked-LM head is real."),
    "models unpack": ("easynlp.cli.models:unpack", "Write a model as a plain folder."),
    "models pack": ("easynlp.cli.models:pack", "Write a model with int8 rows."),
    "prompt check": ("easynlp.cli.prompt:check", "Say which pattern of a prompt works best."),
    "prompt ipet": ("easynlp.cli.prompt:ipet", "Train with several patterns and plain text."),
    "prompt transprompt": (
        "easynlp.cli.prompt:transprompt",
        "Learn a prompt on several labelled sets.",
    ),
    "corpus build": ("easynlp.cli.corpus:build", "Clean, filter, de-duplicate, tokenize text."),
    "bench speed": ("easynlp.cli.bench:speed", "Time training and prediction beside transformers."),
    "bench pretrain": ("easynlp.cli.bench:pretrain", "Time pre-training beside transformers."),
    "bench tokenize": ("easynlp.cli.bench:tokenize", "Time the fast tokenizer, and compare it."),
    "bench models": ("easynlp.cli.bench:models", "Score models on the FewCLUE tasks."),
    "bench fewclue": ("easynlp.cli.bench:fewclue", "Score few-shot methods on FewCLUE, by rules."),
    "bench masked": ("easynlp.cli.bench:masked", "Score masked-LM heads on held-out text."),
    "bench metakd": ("easynlp.cli.bench:metakd", "Score MetaKD on several domains."),
    "bench online": ("easynlp.cli.bench:online", "Score online distillation and its parts."),
    "bench landing": ("easynlp.cli.bench:landing", "Measure the landing road, target by target."),
    "bench serve": ("easynlp.cli.bench:serve", "Load-test a server."),
}
"""Name to (function that returns its `Command`, summary); imported only when meant."""

ABOUT = "From a few labels and a pile of Chinese text to a small, fast, served NLP model."
FAMILIES = {
    "bench": "Measure speed, models or a server.",
    "prompt": "Find a pattern for a prompt.",
    "corpus": "Make raw text a corpus for pre-training.",
}
"""First words of two-word commands, for the list of commands."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    Args:
        argv: Arguments without the program's name; by default those of the process.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    listen()
    try:
        with needed_for(f"easynlp {_command_name(tokens)}"):
            code = _run(tokens)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has gone (`| head`): nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except CycloptsError as error:
        complain(f"error: {error}\nSee: {_help_for(tokens)}")
        return 2
    except EasyNLPError as error:
        complain(str(error) if isinstance(error, Interrupted) else f"error: {error}")
        return error.exit_code


def _run(tokens: Sequence[str]) -> int:
    if tokens[:1] in (["--version"], ["-V"]):
        say(f"easynlp {easynlp.__version__}")
        return 0
    name = _command_name(tokens)
    if name is None:
        family = tokens[0] if tokens and tokens[0] in FAMILIES else ""
        rest = list(tokens[1:] if family else tokens)
        _root(family)(rest or ["--help"])
        return 0
    rest = _with_dashes(tokens[len(name.split()) :])
    build(_load(name, rest))(rest)
    return 0


def _with_dashes(tokens: Sequence[str]) -> list[str]:
    """Write ``--output -`` as ``--output=-``: to the parser a dash begins an option, not a value.

    So does that of ``-4MB``; which value is wrong, and why, is for others to say.
    """
    joined: list[str] = []
    for token in tokens:
        value = token == "-" or re.match(r"-\.?\d", token)
        if value and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def _command_name(tokens: Sequence[str]) -> str | None:
    for length in (2, 1):
        if (name := " ".join(tokens[:length])) in COMMANDS:
            return name
    return None


def _load(name: str, rest: Sequence[str]) -> Command:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: Command = getattr(importlib.import_module(module), attribute)(rest)
    return command


def _root(family: str) -> App:
    """Return the parser of command names only: it makes the help and the "did you mean"."""
    app = App(
        name=f"easynlp {family}".strip(),
        help=FAMILIES.get(family, ABOUT),
        help_epilogue=f"Options of a command: {f'easynlp {family}'.strip()} COMMAND --help",
        help_format="plaintext",
        help_flags=("--help", "-h"),
        version_flags=() if family else ("--version", "-V"),
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
    )
    names = {name: summary for name, (_, summary) in COMMANDS.items()}
    if family:
        names = {
            name.partition(" ")[2]: summary
            for name, summary in names.items()
            if name.startswith(f"{family} ")
        }
    else:
        names = {name: summary for name, summary in names.items() if " " not in name} | FAMILIES
    for name, summary in names.items():
        app.command(App(name=name, help=summary))
    return app


def _help_for(tokens: Sequence[str]) -> str:
    name = _command_name(tokens)
    return " ".join(["easynlp", *([name] if name else []), "--help"])
