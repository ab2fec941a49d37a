"""A language model behind an OpenAI-compatible endpoint labels texts.

It is asked for a label and may reason before it: only the label is read, and strictly. What it
cannot or may not answer (junk, an unknown label, failures, the budget) has no answer. Replies are
kept in a file, a line each, by what was asked, so nothing is paid for twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np

from easynlp.atomic import write_json
from easynlp.distillation.answers import FLOOR, Wanted
from easynlp.distillation.requests import (
    Client,
    Ledger,
    OutOfBudget,
    Refused,
    Stopped,
    TextRefused,
)
from easynlp.distillation.settings import EndpointOptions
from easynlp.errors import ConfigError, Interrupted, RunError
from easynlp.tasks.base import Example
from easynlp.training.session import Signals

__all__ = ["EndpointTeacher", "parse_label", "pick_shots", "write_endpoint"]

log = logging.getLogger("easynlp")
_Said = tuple[str | None, str]
PROMPT = """{instruction}
可选的标签（label）只有：{labels}
可以先简短说明理由，最后一行必须是：标签：<其中一个标签，一字不差>"""
INSTRUCTION = "你是文本分类标注员。判断下面文本的标签。"
_LAST = re.compile(r"(?:标签|label)\s*[:：]\s*(.+)", re.IGNORECASE)
HOPELESS = 8
"""Texts in a row that got no reply at all, or were refused first of all, before it is given up."""


@dataclass
class EndpointTeacher:
    """Labels texts by asking; see the module's docstring.

    Args:
        options: Where and how.
        wanted: What the student asks: one label a text.
        shots: Labelled examples to show.
        folder: Where replies are kept.

    Raises:
        ConfigError: If an option is missing, or the student asks something else.
    """

    options: EndpointOptions
    wanted: Wanted
    shots: Sequence[Example]
    folder: Path
    fickle: ClassVar[bool] = True
    counts: Counter[str] = field(default_factory=Counter)
    """What became of the texts asked about: answered, junk, unknown label, refused, failed, over
    budget."""

    def __post_init__(self) -> None:
        if not self.options.endpoint:
            raise ConfigError("there is no endpoint: type --endpoint URL")
        if self.wanted.kind != "label":
            raise ConfigError("an endpoint can teach text_classify with one label a text")
        self.name = f"{self.options.endpoint_model} at {self.options.endpoint}"

    @classmethod
    def read(cls, path: str | Path, wanted: Wanted) -> EndpointTeacher:
        """Make the teacher that `write_endpoint` described.

        Replies are kept where the file says, else beside it.

        Raises:
            ConfigError: If the file is missing or says something else.
        """
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
            options = EndpointOptions(**said["options"])
            shots = list(said.get("shots", []))
            folder = Path(said.get("replies") or Path(path).parent)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} does not describe an endpoint: {error}") from error
        return cls(options, wanted, shots, folder)

    @property
    def fingerprint(self) -> str:
        """Of what decides a reply; the key has no part in it."""
        said = [self.options.endpoint, self.options.endpoint_model, self.options.sureness,
                self._messages({"text": ""})]  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def answers(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Ask about each text; NaN where there is no answer.

        At the first signal no further request is begun and those under way are finished; a second
        one ends it at once.

        Raises:
            ConfigError: If the endpoint refuses every request (the key, the model's name), or the
                budget is too small for any answer.
            RunError: If it does not answer at all.
            Interrupted: On SIGINT or SIGTERM; what was answered is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self.folder / "replies.jsonl", self.options)
        signals = _Stop()
        client = Client(self.options, ledger, signals.event)
        keys = [self._key(example) for example in examples]
        ledger.trusted = any(key in ledger.replies for key in keys)
        silent, short = [0], [""]

        def ask(number: int) -> tuple[str | None, str]:
            key = keys[number]
            if key in ledger.refused:
                return None, "refused"
            reply = ledger.replies.get(key)
            if reply is None and silent[0] < HOPELESS:
                try:
                    reply = client.ask(key, self._messages(examples[number]))
                except OutOfBudget as error:
                    short[0] = str(error)
                    return None, "over budget"
                except TextRefused as error:
                    silent[0] = 0
                    ledger.refuse(key, str(error))
                    if len(ledger.doubted) >= HOPELESS:
                        raise Refused(str(error)) from None
                    return None, "refused"
                silent[0] = 0 if reply is not None else silent[0] + 1
            if reply is None:
                return None, "failed"
            return parse_label(reply, self.wanted.labels)

        try:
            with signals:
                said = _side_by_side(ask, len(keys), self.options.workers, signals.event)
        except Refused as error:
            raise ConfigError(f"{self.name}: {error}") from error
        finally:
            ledger.close()
        self.counts.update(what for _, what in filter(None, said))
        log.info("%s: %s", self.name, self.summary(ledger))
        if signals.caught:
            raise Interrupted(
                f"stopped; {self.counts['answered']} of {len(keys)} texts are answered and kept in "
                f"{self.folder}. Go on with the same command and --resume"
            )
        self._check_refusals(ledger, keys)
        if silent[0] >= HOPELESS:
            raise RunError(
                f"{self.name} does not answer ({client.last_failure}). {self.counts['answered']} "
                "answers are kept; go on with the same command and --resume"
            )
        labels = [each[0] if each else None for each in said]
        if short[0] and not any(labels):
            raise ConfigError(f"{self.name} could answer none of {len(keys)} texts: {short[0]}")
        return [self._answer(label) for label in labels]

    def _check_refusals(self, ledger: Ledger, keys: Sequence[str]) -> None:
        """Say what was refused; it is an error if nothing was ever answered."""
        refusals = ledger.doubted | ledger.refused
        whys = [refusals[key] for key in keys if key in refusals]
        if whys and not ledger.trusted:
            raise ConfigError(f"{self.name} takes none of the texts: {whys[0]}")
        if whys:
            log.warning("%s refused %d texts, the first with %s", self.name, len(whys), whys[0])

    def summary(self, ledger: Ledger) -> str:
        """Return in a line what became of the texts and what it cost."""
        counts = ", ".join(f"{n} {what}" for what, n in self.counts.items()) or "nothing asked"
        return f"{counts}; {ledger}"

    def _key(self, example: Example) -> str:
        said = [self.options.endpoint, self.options.endpoint_model, self.options.reply_tokens,
                self._messages(example)]  # fmt: skip
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def _answer(self, label: str | None) -> np.ndarray:
        count = len(self.wanted.labels)
        if label is None:
            return np.full((1, count), np.nan)
        others = (1 - self.options.sureness) / (count - 1)
        found = np.full((1, count), max(FLOOR, np.log(max(others, 1e-30))))
        found[0, self.wanted.labels.index(label)] = np.log(self.options.sureness)
        return found

    def _messages(self, example: Example) -> list[dict[str, str]]:
        system = PROMPT.format(
            instruction=self.options.instruction or INSTRUCTION,
            labels="、".join(self.wanted.labels),
        )
        messages = [{"role": "system", "content": system}]
        for shot in self.shots:
            messages.append({"role": "user", "content": _show(shot)})
            messages.append({"role": "assistant", "content": f"标签：{shot['label']}"})
        return [*messages, {"role": "user", "content": _show(example)}]


class _Stop(Signals):
    """Sets an event at the first signal; the second ends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = True
        self.event.set()
        log.info("finishing the requests begun (interrupt again to stop at once)")


def _side_by_side(
    work: Callable[[int], _Said], count: int, workers: int, stop: threading.Event
) -> list[_Said | None]:
    """Do numbered work in threads; None is what was not done when it was stopped.

    What one raises stops the others and is raised. The threads are daemons, unlike those of an
    executor, which the interpreter waits for: a second signal would not end anything.
    """
    found: list[_Said | None] = [None] * count
    errors: list[BaseException] = []
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        todo.put(number)

    def run() -> None:
        while not stop.is_set():
            try:
                number = todo.get_nowait()
                found[number] = work(number)
            except (queue.Empty, Stopped):
                return
            except BaseException as error:
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(workers, count))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)  # not for ever: that hears no signal on Windows
    if errors:
        raise errors[0]
    return found


def write_endpoint(
    path: Path, options: EndpointOptions, shots: Sequence[Example], replies: Path | None = None
) -> None:
    """Write what `EndpointTeacher.read` reads; the key is not in it.

    Args:
        path: The file.
        options: Where and how to ask.
        shots: Labelled examples to show.
        replies: Folder that keeps replies, by default that of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"options": asdict(options), "shots": [dict(shot) for shot in shots]}
    write_json(path, about | ({"replies": str(replies)} if replies else {}))


def pick_shots(examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
    """Return labelled examples spread over the labels: one of each in turn, short ones first.

    Example:
        >>> rows = [{"text": "好极了", "label": "1"}, {"text": "好", "label": "1"},
        ...         {"text": "差", "label": "0"}]
        >>> [row["text"] for row in pick_shots(rows, 2)]
        ['差', '好']
    """
    by_label: dict[str, list[Example]] = {}
    for example in sorted(examples, key=lambda e: len(_show(e))):
        if "label" in example:
            by_label.setdefault(str(example["label"]), []).append(example)
    turns = [
        (turn, label) for label in by_label for turn in range(len(by_label[label]))
    ]  # fmt: skip
    chosen = [by_label[label][turn] for turn, label in sorted(turns)[:count]]
    return [
        {**{k: v for k, v in each.items() if k.startswith("text")}, "label": str(each["label"])}
        for each in chosen
    ]


def parse_label(reply: str, labels: Sequence[str]) -> tuple[str | None, str]:
    r"""Read the label out of a reply, strictly; return it and what the reply was.

    A label is taken from a reply that is nothing but it, from ``{"label": …}``, or from a last line
    ``标签：…`` or ``label: …``; reasons before it and ``<think>`` parts are not read. A label named
    in passing is none.

    Args:
        reply: What was said.
        labels: All there are.

    Returns:
        The label and ``answered``; or None and ``unknown label`` or ``junk``.

    Example:
        >>> parse_label("房间很干净，所以是好评。\n标签：好评", ["好评", "差评"])
        ('好评', 'answered')
        >>> parse_label("可能是好评，也可能是差评", ["好评", "差评"])
        (None, 'junk')
    """
    text = _without_thoughts(reply).strip()
    if text in labels:
        return text, "answered"
    said: str | None = None
    if text.startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None, "junk"
        value = found.get("label") if isinstance(found, dict) else None
        said = str(value) if isinstance(value, str | int) else None
    elif text and (match := _LAST.fullmatch(text.splitlines()[-1].strip())):
        said = match[1].strip().strip("<>《》“”\"'。.").strip()
    if said is None:
        return None, "junk"
    return (said, "answered") if said in labels else (None, "unknown label")


def _without_thoughts(reply: str) -> str:
    """Return a reply less its ``<think>`` parts; one that is not closed stays.

    A regular expression would look for the end anew from each beginning: a reply of nothing but
    beginnings would take it minutes, deaf to signals.
    """
    kept, at = [], 0
    while (start := reply.find("<think>", at)) >= 0:
        if (end := reply.find("</think>", start)) < 0:
            break
        kept.append(reply[at:start])
        at = end + len("</think>")
    return "".join(kept) + reply[at:]


def _show(example: Example) -> str:
    if example.get("text_b") is not None:
        return f"文本一：{example['text']}\n文本二：{example['text_b']}"
    return f"文本：{example['text']}"
