"""``easynlp bench landing``: from a few labels and a large model to a small one, in figures.

Each part is a recipe over the project's own verbs: few-shot choice, training, distillation,
export, compression. A finished part is kept in the output folder under a key made of the weights
it starts from, its options, its rows and the version; with the same key it is not run again, and
a part that was cut off goes on with what it has. Test rows are answered once, by what dev chose.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from easynlp import __version__
from easynlp.atomic import write_json
from easynlp.benchmarks.contender import weights_identity
from easynlp.benchmarks.landing_data import Rows, eprstmt, labelled_set
from easynlp.benchmarks.landing_figures import FIGURES, Measured, judge
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.landing_teach import (
    ARMS,
    Arm,
    School,
    accuracy,
    check_names,
    floors,
    gain,
    right_of,
)
from easynlp.benchmarks.landing_time import (
    answerer,
    faster,
    latency,
    ready,
    run_of_shape,
    take_turns,
)
from easynlp.benchmarks.machine import machine, parameters
from easynlp.errors import ConfigError, DataError, GateError, ModelError
from easynlp.pipeline import META, fingerprint

__all__ = ["Compressor", "bench_landing"]

log = logging.getLogger("easynlp")
Found = tuple[list[Measured], dict[str, Any]]
Compressor = Callable[[Path, Path, Mapping[str, str], int], Path | None]
"""Makes a run smaller: the run, where to, files (train, dev, pool) and most bytes to the folder
that is served; None if nothing that small is good enough."""
SIZES = (30, 100)
INT8 = "int8 export"
EPRSTMT = ("teacher", "teacher_ways", "teacher_lrs", "teacher_steps", "students",
           "student_lrs", "student_steps", "evaluations", "alpha", "temperature", "pool_rows",
           "batch_size", "max_length", "seed")  # fmt: skip
TITLES = ("teacher", "student_lrs", "student_steps", "evaluations", "alpha", "temperature",
          "batch_size", "max_length", "seed", "set_rows", "set_pool", "set_dev", "set_test",
          "set_teacher_steps", "set_teacher_lr", "set_student", "base_shape", "timed",
          "rounds")  # fmt: skip
COMPRESS = ("sets", "evaluations", "batch_size", "max_length", "seed", "set_rows", "set_pool",
            "set_dev", "set_test", "set_teacher_lr", "compress_model", "compress_steps",
            "compress_drop", "compress_epochs", "compress_candidates", "timed",
            "rounds")  # fmt: skip
LATENCY = ("small_shape", "base_shape", "tiny_model", "characters", "timed", "rounds",
           "max_length", "seed")  # fmt: skip


@dataclass(frozen=True)
class _Bench:
    """A call of `bench_landing`."""

    options: LandingBenchOptions
    home: Path
    compress: Compressor | None

    def kept(
        self, name: str, settings: tuple[str, ...], identity: Mapping[str, Any],
        work: Callable[[Path], Found],
    ) -> Found:  # fmt: skip
        """Return what a finished part found, or let it work in the folder of its key."""
        told = {
            "part": name, "version": __version__,
            "options": {each: getattr(self.options, each) for each in settings}, **identity,
        }  # fmt: skip
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        folder = self.home / f"{name}-{key[:12]}"
        record = folder / "part.json"
        if record.is_file():
            found = json.loads(record.read_text(encoding="utf-8"))
            log.info("%s: of an earlier call, %s", name, folder)
            return [Measured(**each) for each in found["figures"]], found["details"]
        folder.mkdir(parents=True, exist_ok=True)
        figures, details = work(folder)
        write_json(record, {"key": told, "figures": [asdict(each) for each in figures],
                            "details": details})  # fmt: skip
        return figures, details

    def eprstmt(self) -> Found:
        """Teach students of a 30th and a 100th of the teacher's parameters."""
        check_names(self.options.students)
        rows = eprstmt(self.options)
        made_of = [self.options.teacher, *self.options.students]
        identity = {"rows": rows.digest(), "weights": [_identity(each) for each in made_of]}
        return self.kept("eprstmt", EPRSTMT, identity, lambda home: self._teach(rows, home))

    def _teach(self, rows: Rows, home: Path) -> Found:
        school = School(self.options, rows, home)
        teacher = school.few_shot_teacher()
        size, teaching = parameters(teacher), right_of(teacher, rows.test)
        table = [_row("teacher", size, teaching)]
        known = floors(rows, self.options.seed)
        candidates: list[tuple[float, float, dict[str, tuple[float, str]]]] = []
        for student in self.options.students:
            arms = {arm: school.search(student, arm, teacher) for arm in ARMS}
            right = {arm: right_of(each.folder, rows.test) for arm, each in arms.items()}
            plain, taught, placebo = (right[arm] for arm in ARMS)
            own = parameters(arms[ARMS[1]].folder)
            table += [_row(f"{student}, {arm}", own, right[arm], each)
                      for arm, each in arms.items()]  # fmt: skip
            more, chance = gain(taught, plain), gain(placebo, plain)["points"]
            share = 100 * float(taught.mean() / teaching.mean())
            candidates.append((size / own, arms[ARMS[1]].dev, {
                "size": (size / own, f"{own:,} of {size:,}"),
                "gain": (more["points"], f"{student}; 95% [{more['low']:+.1f}, "
                         f"{more['high']:+.1f}]; placebo {chance:+.1f}"),
                "share": (share, f"{student}; teacher {100 * teaching.mean():.1f}, "
                          f"{_best(known)}"),
            }))  # fmt: skip
        figures = [
            judge(f"{kind}_{tier}", *said)
            for tier in SIZES
            for kind, said in _of_size(candidates, tier).items()
        ]
        table += [_row(f"floor: {name}", None, right)
                  for name, right in known.items()]  # fmt: skip
        details = {"rows": table, "counts": rows.counts(), "notes": dict(rows.notes)}
        return figures, details

    def titles(self) -> Found:
        """Teach a student of a few MB on sets with many labels."""
        figures: list[Measured] = []
        details: dict[str, Any] = {}
        for name in self.options.sets:
            try:
                rows = labelled_set(self.options, name)
            except DataError as error:
                details[name] = {"skipped": str(error).splitlines()[0]}
                continue
            made_of = (self.options.teacher, self.options.set_student)
            identity = {"rows": rows.digest(), "set": name, "machine": machine(1)["cpu"],
                        "weights": [_identity(each) for each in made_of]}  # fmt: skip
            work = partial(self._title, name, rows)
            found, about = self.kept(name, TITLES, identity, work)
            figures, details = [*figures, *found], {**details, name: about}
        if not figures:
            raise DataError("; ".join(f"{k}: {v['skipped']}" for k, v in details.items()))
        return figures, details

    def _title(self, name: str, rows: Rows, home: Path) -> Found:
        options, school = self.options, School(self.options, rows, home)
        teacher = school.tuned("teacher", options.teacher, options.set_teacher_steps,
                               options.set_teacher_lr)  # fmt: skip
        arms = {arm: school.search(options.set_student, arm, teacher) for arm in ARMS}
        dev = Path(school.files["dev"])
        served = ready(arms[ARMS[1]].folder, int8=True, texts=dev)
        large = ready(teacher, int8=False, texts=dev)
        base = run_of_shape(options, options.base_shape, home, steps=1)
        shape = ready(base, int8=False, texts=base.parent / "train.jsonl")
        taught, right = right_of(Path(large.folder), rows.test, "onnx"), right_of(
            Path(served.folder), rows.test, "auto")  # fmt: skip
        sides = {"student": served, "teacher": large, f"{options.base_shape}, fp32": shape}
        texts = [str(each["text"]) for each in rows.test[: options.timed]]
        times = take_turns(
            {key: answerer(Path(each.folder)) for key, each in sides.items()}, texts, options.rounds
        )
        ratio, wide = (faster(times, "student", key) for key in list(sides)[1:])
        note = f"{served.kind}; teacher {100 * taught.mean():.1f}, student {100 * right.mean():.1f}"
        known = floors(rows, options.seed)
        budget = f"{_best(known)}; {len(rows.train)} labels"
        figures = [
            judge(f"{name}_bytes", served.bytes / 1e6, f"{options.set_student}, {served.kind}"),
            judge(f"{name}_share", 100 * float(right.mean() / taught.mean()), f"{note}; {budget}"),
            judge(f"{name}_speed", ratio["median"], f"{ratio['low']:.1f} to {ratio['high']:.1f}; "
                  f"{Path(options.teacher).name} in fp32"),
            judge(f"{name}_speed_base", wide["median"], f"{wide['low']:.1f} to "
                  f"{wide['high']:.1f}; {options.base_shape} of random weights in fp32"),
        ]  # fmt: skip
        size = parameters(arms[ARMS[1]].folder)
        table = [_row("teacher, fp32", parameters(teacher), taught),
                 _row(f"{options.set_student}, distilled, as served", size, right)]  # fmt: skip
        table += [_row(f"{options.set_student}, {arm}", size, right_of(each.folder, rows.test),
                       each) for arm, each in arms.items()]  # fmt: skip
        table += [_row(f"floor: {key}", None, found)
                  for key, found in known.items()]  # fmt: skip
        clocks = [{"model": key, "bytes": sides[key].bytes, **_clock(times[key])} for key in sides]
        return figures, {"rows": table, "times": clocks, "counts": rows.counts(),
                         "notes": dict(rows.notes), "machine": machine(1)}  # fmt: skip

    def compressed(self) -> Found:
        """Make a fine-tuned model smaller and measure it beside itself in fp32."""
        name = self.options.sets[-1]
        rows = labelled_set(self.options, name)
        how = "easynlp compress" if self.compress else INT8
        identity = {"rows": rows.digest(), "how": how, "machine": machine(1)["cpu"],
                    "weights": _identity(self.options.compress_model)}  # fmt: skip
        return self.kept("compress", COMPRESS, identity,
                         lambda home: self._compress(name, how, rows, home))  # fmt: skip

    def _compress(self, name: str, how: str, rows: Rows, home: Path) -> Found:
        options, school = self.options, School(self.options, rows, home)
        run = school.tuned("run", options.compress_model, options.compress_steps,
                           options.set_teacher_lr)  # fmt: skip
        dev = Path(school.files["dev"])
        plain = Path(ready(run, int8=False, texts=dev).folder)
        int8 = Path(ready(run, int8=True, texts=dev).folder)
        sides, note = {"fp32": plain, INT8: int8}, how
        if self.compress is not None:
            budget = int(_bytes(plain) * (1 - FIGURES["compress_bytes"].target / 100))
            made = self.compress(run, home / "compressed", school.files, budget)
            if made is None:
                how, note = INT8, f"{INT8}, for no candidate of {budget / 1e6:.1f} MB was kept"
            else:
                sides[how] = made
        right = {key: right_of(folder, rows.test, "auto") for key, folder in sides.items()}
        times = take_turns(
            {key: answerer(folder) for key, folder in sides.items()},
            [str(each["text"]) for each in rows.test[: options.timed]], options.rounds,
        )  # fmt: skip
        lost, ratio = gain(right["fp32"], right[how]), faster(times, how, "fp32")
        size = {key: _bytes(folder) for key, folder in sides.items()}
        figures = [
            judge("compress_bytes", 100 * (1 - size[how] / size["fp32"]),
                  f"{note}: {size['fp32'] / 1e6:.1f} to {size[how] / 1e6:.1f} MB"),
            judge("compress_drop", lost["points"],
                  f"{how}; 95% [{lost['low']:+.1f}, {lost['high']:+.1f}]; {name}"),
            judge("compress_speed", ratio["median"],
                  f"{how}; {ratio['low']:.1f} to {ratio['high']:.1f}"),
        ]  # fmt: skip
        table = [_row(key, None, right[key]) for key in sides]
        table += [_row(f"floor: {key}", None, found)
                  for key, found in floors(rows, options.seed).items()]  # fmt: skip
        clocks = [{"model": key, "bytes": size[key], **_clock(times[key])} for key in sides]
        return figures, {"rows": table, "times": clocks, "counts": rows.counts(),
                         "notes": dict(rows.notes), "machine": machine(1)}  # fmt: skip

    def latency(self) -> Found:
        """Time the tiers."""
        identity = {"machine": machine(1)["cpu"]}
        return self.kept("latency", LATENCY, identity, lambda home: latency(self.options, home))

    def metakd(self) -> Found:
        """Read what ``easynlp bench metakd`` found."""
        report = _report(self.options.metakd, "metakd", ("gains",))
        figures = []
        for key, arm in (("metakd_kd", "kd"), ("metakd_pooled", "kd, pooled")):
            gained = report["gains"][arm]
            half = gained["half_width"]
            spread = "" if half is None else f" ± {100 * half:.1f} over domains"
            placebo = 100 * report["gains"]["metakd, shuffled"]["mean"]
            note = f"against {arm}{spread}; against the placebo {placebo:+.1f}"
            figures.append(judge(key, 100 * gained["mean"], note))
        return figures, {"report": str(self.options.metakd)}

    def server(self) -> Found:
        """Read what ``easynlp bench serve --peer --json`` found."""
        report = _report(self.options.server, "server", ("overload", "spread_ratio"))
        shed, half = report["overload"], report["half_p99_ms"] / report["idle_p50_ms"]
        lost = report["lost"] + shed["failed"] + shed["unanswered"] + shed["surplus"]
        spread = f"{report['lowest']:.2f} to {report['highest']:.2f}"
        figures = [
            judge("server_ratio", report["ratio"],
                  f"{report['clients']} clients, {report['backend']}, {spread}; "
                  f"{report['spread_ratio']:.2f} over a run a request on all cores"),
            judge("server_lost", lost, f"of {shed['sent']} under overload"),
            judge("server_shed", shed["refused"], f"{shed['answered']} answered"),
            judge("server_half", half, f"{report['half_p99_ms']:.1f} ms at "
                  f"{report['half_rate']:.0f} requests/s"),
        ]  # fmt: skip
        return figures, {"report": str(self.options.server)}


def bench_landing(
    options: LandingBenchOptions, compress: Compressor | None = None
) -> dict[str, Any]:
    """Run the parts asked for; return every figure with its target and verdict.

    Args:
        options: Parts, budgets and files.
        compress: What part ``compress`` measures; by default the int8 export.

    Returns:
        ``figures`` (a row each: part, figure, value, target, ``reached``, note), ``details`` by
        part (arms with intervals, floors, times), ``skipped`` (parts to reasons), ``options`` and
        ``command``. A figure that was not measured has no value, and its note says why. The same
        is written to ``report.json`` in the output folder.

    Raises:
        ConfigError: If options are wrong.

    Example:
        >>> bench_landing(LandingBenchOptions(parts=("latency",)))["figures"]   # doctest: +SKIP
    """
    asked = options.chosen()
    home = Path(options.output)
    home.mkdir(parents=True, exist_ok=True)
    bench = _Bench(options, home, compress)
    parts: dict[str, Callable[[], Found]] = {
        "eprstmt": bench.eprstmt, "titles": bench.titles, "compress": bench.compressed,
        "latency": bench.latency, "metakd": bench.metakd, "server": bench.server,
    }  # fmt: skip
    skipped = {name: "not asked for" for name in parts if name not in asked}
    found: dict[str, Measured] = {}
    details: dict[str, Any] = {}
    for name in asked:
        log.info("%s ...", name)
        try:
            figures, details[name] = parts[name]()
        except (ConfigError, DataError, GateError, ModelError) as error:
            skipped[name] = str(error).splitlines()[0]
            log.warning("%s is left out: %s", name, skipped[name])
            continue
        found |= {each.key: each for each in figures}
    rows = []
    for key, figure in FIGURES.items():
        why = skipped.get(figure.part, "not measured")
        row = found.get(key) or Measured(key, None, None, why)
        rows.append({**asdict(figure), **asdict(row)})
    report = {"figures": rows, "details": details, "skipped": skipped, "machine": machine(1),
              "options": asdict(options), "command": options.command()}  # fmt: skip
    write_json(home / "report.json", report)
    return report


def _of_size(candidates: Sequence[tuple[float, float, Any]], tier: int) -> Any:
    """Return what the best student on dev of a size reached; of 30 times, one of fewer than 100.

    Where only smaller ones took part, they stand for it.
    """
    fit = [each for each in candidates if each[0] >= tier]
    near = [each for each in fit if tier == SIZES[-1] or each[0] < SIZES[-1]]
    return max(near or fit, key=lambda each: each[1], default=(0, 0, {}))[2]


def _identity(model: str) -> str:
    """Return a hash of the weights a model or run starts from."""
    if (Path(model) / META).is_file():
        return fingerprint(Path(model) / "model.safetensors")
    return weights_identity(model)


def _report(path: str | None, part: str, keys: Sequence[str]) -> dict[str, Any]:
    """Read another command's report.

    Raises:
        DataError: If there is none, or it is another's, or of an earlier version.
    """
    what = {"metakd": "easynlp bench metakd", "server": "easynlp bench serve --peer --json"}[part]
    if path is None:
        raise DataError(f"give the report of {what} with --{part}")
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"--{part} {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or keys[0] not in found:
        raise DataError(f"--{part} {path} is not the report of {what}")
    if missing := [key for key in keys if key not in found]:
        raise DataError(f"--{part} {path} has no {missing[0]}: run {what} again")
    return found


def _row(name: str, size: int | None, right: Any, arm: Arm | None = None) -> dict[str, Any]:
    said = {"arm": name, "parameters": size, **accuracy(right)}
    return said if arm is None else {**said, "dev": arm.dev, "lr": arm.lr, "tries": arm.tries}


def _best(known: Mapping[str, Any]) -> str:
    """Say which floor is the highest; a share of a teacher below it is worth little."""
    name = max(known, key=lambda each: float(known[each].mean()))
    return f"floor {100 * known[name].mean():.1f} ({name})"


def _clock(times: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in times.items() if key != "passes"}


def _bytes(folder: Path) -> int:
    """Return the size of the model file a folder is served from."""
    return sum(file.stat().st_size for file in folder.glob("*.onnx"))
