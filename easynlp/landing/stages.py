"""Named stages that run in order, each finished whole or not at all, and again only if need be.

A stage works in a folder of its own, named after it. When it is through, ``stage.json`` is written
there, atomically: a key made of its options and of the bytes of all it read, the SHA-256 of what it
hands on, how long it took, and its facts. A later call finds the key, sees that nothing changed,
and takes the stage as done. Work that was cut off by a kill stands beside ``begun.json`` with the
same key, and the stage takes it up again; work of another key is deleted first.

Stages on the *track* hand on a model with its accuracy on dev. The first makes the model to beat;
a further one that is to make it smaller may cost `max_drop` points of what it was given, one that
is to make it better (`better`) may cost none. A stage that costs more *hurts*: its model is
dropped, and the road goes on with the one before. What a quality gate refuses is dropped the same
way. Decisions are taken anew from the records in every call, so
another `max_drop` runs only what it changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from easynlp import __version__
from easynlp.atomic import read_json, write_json
from easynlp.errors import ConfigError, GateError, Interrupted, RunError, did_you_mean
from easynlp.metrics import room_for
from easynlp.pipeline import fingerprint

__all__ = ["Done", "Kept", "Outcome", "Road", "Room", "Stage", "Verdict", "check_skip",
           "run_stages"]  # fmt: skip

log = logging.getLogger("easynlp")
DONE, BEGUN = "stage.json", "begun.json"
Status = Literal["done", "reused", "skipped", "dropped"]


@dataclass(frozen=True)
class Outcome:
    """What a stage made.

    Attributes:
        facts: What to remember of it; plain JSON values. A ``note`` goes into the verdict.
        model: Folder of a model, within the stage's own, for stages on the track.
        dev: That model's accuracy on dev, 0 to 1.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    dev: float | None = None


@dataclass(frozen=True)
class Done:
    """The record of a finished stage.

    Attributes:
        name: Of the stage.
        folder: Where it worked.
        key: Of its options and inputs.
        outputs: SHA-256 of the files and folders it hands on.
        seconds: What it took when it ran.
        facts: See `Outcome`.
        model: See `Outcome`.
        dev: See `Outcome`.
        refused: What a quality gate said, if it refused.
    """

    name: str
    folder: Path
    key: str
    outputs: Mapping[str, str]
    seconds: float
    facts: Mapping[str, Any]
    model: str = ""
    dev: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class Kept:
    """The model that is kept so far: which stage made it, where it is, its accuracy on dev."""

    stage: str
    folder: Path
    dev: float


@dataclass(frozen=True)
class Room:
    """What a stage works with.

    Attributes:
        folder: Its own, which exists.
        done: Records of the stages it named, those that were skipped left out.
        kept: The model kept so far, for stages that take it.
    """

    folder: Path
    done: Mapping[str, Done]
    kept: Kept | None = None


@dataclass(frozen=True)
class Stage:
    """A step of the road.

    Attributes:
        name: Also its folder's, and what ``--skip`` calls it.
        about: What it does, for the progress shown.
        work: Does it; may find what an interrupted call left in the folder.
        outputs: Files and folders in its folder that it hands on.
        needs: Earlier stages without which it is skipped.
        uses: Earlier stages it reads if they ran.
        options: What its results depend on, besides inputs; plain JSON values.
        files: Files and folders from outside it reads.
        takes_model: It reads the model kept so far.
        better: Its model is kept only if it is as good as the one kept so far, or better.
        gains: Its model is kept only if it is better than the one kept so far.
        off: Why it is not wanted, if it is not.
        vital: It cannot be skipped.
    """

    name: str
    about: str
    work: Callable[[Room], Outcome]
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    takes_model: bool = False
    better: bool = False
    gains: bool = False
    off: str = ""
    vital: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of a stage, and why if that needs saying."""

    stage: str
    status: Status
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Road:
    """All stages, gone.

    Attributes:
        done: Records of the stages that ran, in this call or an earlier one.
        verdicts: What became of each stage, in order.
        kept: The model that is left.
    """

    done: Mapping[str, Done]
    verdicts: Sequence[Verdict]
    kept: Kept | None


def run_stages(
    stages: Sequence[Stage], folder: Path, *, skip: Sequence[str] = (), max_drop: float = 1.0,
    rows: Callable[[Mapping[str, Done]], int] = lambda done: 0,
) -> Road:  # fmt: skip
    """Run stages in order, those whose record still holds from their record.

    Args:
        stages: In an order in which each comes after those it names.
        folder: Where their folders are.
        skip: Names of stages to leave out.
        max_drop: Points of dev accuracy a stage's model may cost; not less than one dev row.
        rows: Says how many dev rows there are, once stages are done that know.

    Raises:
        ConfigError: If `skip` names no stage, or one that cannot be skipped.
        RunError: If a stage did not make what it hands on.
        Interrupted: On SIGINT; finished stages stay, the next call goes on.

    Example:
        >>> import tempfile
        >>> def work(room):
        ...     _ = (room.folder / "a.txt").write_text("hello")
        ...     return Outcome({"letters": 5})
        >>> stage = Stage("greet", "greeting", work, outputs=("a.txt",))
        >>> home = Path(tempfile.mkdtemp())
        >>> [run_stages([stage], home).verdicts[0].status for _ in range(2)]
        ['done', 'reused']
    """
    check_skip(stages, skip)
    done: dict[str, Done] = {}
    verdicts: list[Verdict] = []
    kept: Kept | None = None
    for number, stage in enumerate(stages, 1):
        missing = [name for name in stage.needs if name not in done]
        why = "as asked" if stage.name in skip else stage.off
        if not why and (missing or (stage.takes_model and kept is None)):
            why = f"there is no {' or '.join(missing) or 'model'}"
        if why:
            log.info("[%d/%d] %s: skipped, %s", number, len(stages), stage.name, why)
            verdicts.append(Verdict(stage.name, "skipped", why))
            continue
        log.info("[%d/%d] %s: %s", number, len(stages), stage.name, stage.about)
        found, fresh = _run(stage, folder, done, kept)
        refusal = found.refused or _hurts(stage, found, kept, room_for(max_drop, rows(done)))
        status: Status = "dropped" if refusal else "done" if fresh else "reused"
        note = refusal or str(found.facts.get("note", ""))
        verdicts.append(Verdict(stage.name, status, note, found.seconds))
        said = f"dropped, {refusal}" if refusal else f"{found.seconds:.1f} s"
        log.info("[%d/%d] %s: %s%s", number, len(stages), stage.name, said,
                 "" if fresh else " (of an earlier call)")  # fmt: skip
        if not found.refused:
            done[stage.name] = found
        if found.model and found.dev is not None and not refusal:
            kept = Kept(stage.name, found.folder / found.model, found.dev)
    return Road(done, verdicts, kept)


def check_skip(stages: Sequence[Stage], skip: Sequence[str]) -> None:
    """Refuse a name to skip that is no stage's, or of one that must run.

    Raises:
        ConfigError: With the names that can be skipped.
    """
    names = [stage.name for stage in stages if not stage.vital]
    for name in skip:
        if name not in names:
            what = "cannot be skipped" if name in (s.name for s in stages) else "is no stage"
            raise ConfigError(
                f'--skip: "{name}" {what}.{did_you_mean(name, names)} '
                f"Stages that can be: {', '.join(names)}"
            )


def _hurts(stage: Stage, found: Done, kept: Kept | None, max_drop: float) -> str:
    """Return why a stage's model is not kept; empty if it is."""
    if not found.model or found.dev is None or kept is None:
        return ""
    drop = 100 * (kept.dev - found.dev)
    if stage.better or stage.gains:
        max_drop = 0.0
    if stage.gains and abs(drop) < 1e-9:
        return f"its model scores {100 * found.dev:.1f} on dev, no better than that of {kept.stage}"
    if drop <= max_drop + 1e-9:
        return ""
    return (
        f"its model scores {100 * found.dev:.1f} on dev, {drop:.1f} points below that of "
        f"{kept.stage} ({100 * kept.dev:.1f}); at most {max_drop:.3g} are allowed"
    )


def _run(
    stage: Stage, home: Path, done: Mapping[str, Done], kept: Kept | None
) -> tuple[Done, bool]:
    """Return a stage's record, and whether the stage ran for it."""
    folder = home / stage.name
    known = {name: done[name] for name in (*stage.needs, *stage.uses) if name in done}
    taken = kept if stage.takes_model else None
    key = _key(stage, known, done[taken.stage] if taken else None)
    if (found := _recorded(folder, key)) is not None:
        return found, False
    # A finished stage whose files are no longer what they were is no work to take up.
    finished = (folder / DONE).exists()
    if folder.exists() and (finished or read_json(folder / BEGUN).get("key") != key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / BEGUN, {"key": key})
    started = time.perf_counter()
    refused, outcome = "", Outcome()
    try:
        outcome = stage.work(Room(folder, known, taken))
    except GateError as error:
        refused = str(error).splitlines()[0]
    except KeyboardInterrupt:
        raise Interrupted(_stopped(stage.name)) from None
    except Interrupted as error:
        raise Interrupted(f"{_stopped(stage.name)}\n{error}") from error
    outputs = {} if refused else {name: _hash(folder / name) for name in stage.outputs}
    if absent := [name for name, found_hash in outputs.items() if not found_hash]:
        raise RunError(f"the stage {stage.name} did not make {', '.join(absent)} in {folder}")
    record = Done(
        stage.name, folder, key, outputs, round(time.perf_counter() - started, 1),
        outcome.facts, outcome.model, outcome.dev, refused,
    )  # fmt: skip
    write_json(folder / DONE, {**asdict(record), "folder": None})
    return record, True


def _stopped(name: str) -> str:
    return (
        f"stopped in the stage {name}; the stages before it are finished and stay. Go on with the "
        "same command and --resume"
    )


def _recorded(folder: Path, key: str) -> Done | None:
    """Return a record if it is of this key and what it hands on is still as it was."""
    found = read_json(folder / DONE)
    if found.get("key") != key:
        return None
    if any(_hash(folder / name) != value for name, value in found["outputs"].items()):
        return None
    return Done(**{**found, "folder": folder})


def _key(stage: Stage, known: Mapping[str, Done], model: Done | None) -> str:
    """Return what a stage's results depend on, as one hash."""
    whole = {
        "stage": stage.name,
        "version": __version__,
        "options": stage.options,
        "files": {name: _hash(Path(name)) or name for name in stage.files},
        "inputs": {name: each.outputs for name, each in known.items()},
        "model": [model.name, model.model, model.outputs] if model else None,
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files and their names; empty if absent."""
    if path.is_file():
        return fingerprint(path)
    if not path.is_dir():
        return ""
    files = sorted(each for each in path.rglob("*") if each.is_file())
    lines = [f"{each.relative_to(path).as_posix()} {fingerprint(each)}\n" for each in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
