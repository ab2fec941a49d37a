"""``easynlp bench metakd``: does MetaKD beat distilling domain by domain, and why?

Every arm has the same rows, student, passes and share of the labels. What an arm must beat:

- ``labels``: the student on its domain's labels, without a teacher;
- ``kd``: a teacher of the domain alone teaches the domain's student (vanilla KD);
- ``kd, pooled teacher``: a teacher of all domains teaches the domain's student;
- ``kd, pooled``: the same teacher teaches one student on the rows of all domains;
- ``metakd, shuffled``: MetaKD with weights dealt out by chance, in both stages.

Test rows are read once a run is done. Rows of a test file that also stand in the training file are
left out of training. Every training is a run folder; those that are complete are not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from easynlp.atomic import write_json
from easynlp.benchmarks.distill_settings import MetaKdOptions
from easynlp.benchmarks.statistics import mean_interval
from easynlp.benchmarks.task_floors import majority, right_of_floor, tfidf_svm
from easynlp.config import DataOptions, TrainConfig, to_yaml
from easynlp.data.diagnose import example_hash
from easynlp.dataset import read_all
from easynlp.distillation.domains import DomainRows, prototype_scores
from easynlp.distillation.meta_kd import meta_distill, meta_teacher
from easynlp.errors import DataError
from easynlp.fewshot.phases import keep_rows, train_once
from easynlp.fewshot.vectors import Encoder
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example, Field
from easynlp.tasks.labels import label_of
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["bench_metakd", "metakd_table", "read_domains"]

log = logging.getLogger("easynlp")
SETS = {
    "shopping": ("online_shopping_10_cats", "domain", "test"),
    "ocnli": ("ocnli_10k", "genre", "dev"),
}
"""Folder, the column that says the domain, and the file to test on (OCNLI's test has no labels)."""
TEACHERS = ("teacher", "teacher, pooled", "teacher, meta")
STUDENTS = ("labels", "kd", "kd, pooled teacher", "kd, pooled", "metakd", "metakd, shuffled")
FLOORS = {"majority": majority, "tfidf-svm": tfidf_svm}
META = "metakd"
_TEACH = f"{meta_teacher.__module__}:{meta_teacher.__qualname__}"
_LEARN = f"{meta_distill.__module__}:{meta_distill.__qualname__}"


@dataclass(frozen=True)
class Domain:
    """The rows of a domain."""

    name: str
    train: list[Example]
    dev: list[Example]
    test: list[Example]


@dataclass
class Scores:
    """Accuracy by arm, domain and seed."""

    found: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, arm: str, domain: str, value: float) -> None:
        """Note a score."""
        self.found.setdefault(arm, {}).setdefault(domain, []).append(value)

    def means(self, arm: str) -> dict[str, float]:
        """Return an arm's mean over seeds, by domain."""
        return {name: float(np.mean(values)) for name, values in self.found[arm].items()}


def bench_metakd(options: MetaKdOptions) -> dict[str, Any]:
    """Train and score all arms on every domain.

    Returns:
        ``accuracy`` (by arm and domain, a mean over seeds), ``means`` (of each arm over domains),
        ``gains`` (of MetaKD over every other arm, paired by domain, with a 95% t interval),
        ``left_out`` (domains, and why), ``rows`` and ``options``.

    Raises:
        DataError: If the data is not there, or fewer than two domains have enough rows.
        ConfigError: If the folder holds other figures.
    """
    domains, left_out = read_domains(options, options.seeds[0])
    folder = Path(options.output)
    written = to_yaml(options)
    claim: dict[str, Any] = {"overwrite": False, "name": META, "written": written,
                             "resume": (folder / f"{META}.yaml").is_file()}  # fmt: skip
    check_folder(folder, **claim)
    claim_folder(folder, **claim)
    scores = Scores()
    for seed in options.seeds:
        drawn = domains if seed == options.seeds[0] else read_domains(options, seed)[0]
        _Seed(options, seed, drawn, folder / str(seed), scores).run()
    arms = [*FLOORS, *TEACHERS, *STUDENTS]
    names = [each.name for each in domains]
    accuracy = {arm: scores.means(arm) for arm in arms}
    report = {
        "accuracy": accuracy,
        "means": {arm: asdict(mean_interval(list(accuracy[arm].values()))) for arm in arms},
        "gains": {
            arm: asdict(mean_interval([accuracy[META][n] - accuracy[arm][n] for n in names]))
            for arm in arms
            if arm != META
        },
        "left_out": left_out,
        "rows": {each.name: [len(each.train), len(each.dev), len(each.test)] for each in domains},
        "options": asdict(options),
    }
    write_json(folder / "report.json", report)
    return report


def read_domains(options: MetaKdOptions, seed: int) -> tuple[list[Domain], dict[str, str]]:
    """Return the domains with rows drawn from them, the largest first, and those left out.

    Raises:
        DataError: See `bench_metakd`.
    """
    home, column, held = SETS[options.data]
    folder = Path(options.data_root) / home
    pair = options.data == "ocnli"
    train, test = (_read(folder, name, column, pair) for name in ("train", held))
    known = {example_hash(each) for rows in test.values() for each in rows}
    found: list[Domain] = []
    left_out: dict[str, str] = {}
    wanted = options.rows + options.dev_rows
    for name in sorted(train, key=lambda each: (-len(train[each]), each)):
        distinct = {example_hash(each): each for each in train[name]}
        rows = [each for key, each in distinct.items() if key not in known]
        if len(rows) < wanted or name not in test:
            left_out[name] = f"{len(rows)} training rows; {wanted} are wanted"
            continue
        order = np.random.default_rng((seed, len(found))).permutation(len(rows))
        drawn = [rows[i] for i in order[:wanted]]
        some = np.random.default_rng((seed, len(found), 1)).permutation(len(test[name]))
        kept = [test[name][i] for i in sorted(some[: options.test_rows])]
        if len({each["label"] for each in drawn[: options.rows]}) < 2:
            left_out[name] = "its training rows have one label"
            continue
        found.append(Domain(name, drawn[: options.rows], drawn[options.rows :], kept))
    if options.domains:
        left_out |= {each.name: "not asked for" for each in found[options.domains :]}
        found = found[: options.domains]
    if len(found) < 2:
        raise DataError(
            f"{len(found)} domains have {wanted} rows; two are wanted", path=str(folder),
            hint="Lower --rows or --dev-rows.",
        )  # fmt: skip
    return found, left_out


def _read(folder: Path, name: str, column: str, pair: bool) -> dict[str, list[Example]]:
    """Return the labelled rows of a file by domain."""
    paths = sorted(folder.glob(f"{name}.jsonl*"))
    if not paths:
        raise DataError(
            f"there is no {name}.jsonl", path=str(folder),
            hint="bench metakd needs online_shopping_10_cats or ocnli_10k: give --data-root.",
        )  # fmt: skip
    text, second, label = TextClassify.fields
    fields = [text, label, Field("domain", (column,), target=True)]
    if pair:
        fields.insert(1, replace(second, required=True))
    found: dict[str, list[Example]] = {}
    for row in read_all(str(paths[0]), fields, DataOptions()):
        kept = {key: value for key, value in row.items() if key != "domain"}
        found.setdefault(str(row["domain"]), []).append(kept)
    return found


class _Seed:
    """All arms with one draw of the rows."""

    def __init__(
        self, options: MetaKdOptions, seed: int, domains: Sequence[Domain], home: Path,
        scores: Scores,
    ) -> None:  # fmt: skip
        self.options, self.seed, self.domains = options, seed, domains
        self.home, self.scores = home, scores
        self.names = tuple(each.name for each in domains)
        labels = {label_of(row["label"]) for each in domains for row in each.train}
        self.task = ClassifyConfig(max_length=options.max_length, labels=tuple(sorted(labels)))

    def run(self) -> None:
        """Train what is not trained yet and score everything."""
        for number, domain in enumerate(self.domains):
            self._write(str(number), domain.train, domain.dev)
            for name, make in FLOORS.items():
                right = right_of_floor(make(), domain.train, (), domain.test, self.seed)
                self.scores.add(name, domain.name, float(right.mean()))
        train, dev = (
            [row for each in self.domains for row in getattr(each, part)]
            for part in ("train", "dev")
        )
        self._write("all", train, dev)
        self._notes()
        self._teachers()
        self._students()

    def _teachers(self) -> None:
        shared = f"{_TEACH}:rows={self._file('all', 'rows.json')},corruption="
        shared += f"{self.options.corruption},weighting="
        self._each("teacher", lambda i: self._train(f"teacher-{i}", str(i), teacher=True))
        pooled = self._train("teacher-pooled", "all", teacher=True)
        self._each("teacher, pooled", lambda i: pooled)
        meta = self._train("teacher-meta", "all", f"{shared}typical", teacher=True)
        self._each("teacher, meta", lambda i: meta)
        self._train("teacher-shuffled", "all", f"{shared}shuffled", teacher=True)

    def _students(self) -> None:
        def taught(by: str) -> str:
            how = f"alpha={self.options.alpha},temperature={self.options.temperature}"
            return f"distill:teacher={self.home / by},{how},cache={self.home / 'answers'}"

        def meta(by: str, weighting: str, rows: str) -> str:
            plain = taught(by).removeprefix("distill:")
            return (
                f"{_LEARN}:{plain},transfer={self.options.transfer},weighting={weighting},"
                f"rows={self._file(rows, 'rows.json')}"
            )

        pooled = self._train("kd-all", "all", taught("teacher-pooled"))
        arms: dict[str, Callable[[str], Pipeline]] = {
            "labels": lambda i: self._train(f"labels-{i}", i),
            "kd": lambda i: self._train(f"kd-{i}", i, taught(f"teacher-{i}")),
            "kd, pooled teacher": lambda i: self._train(f"kdp-{i}", i, taught("teacher-pooled")),
            "kd, pooled": lambda i: pooled,
            "metakd": lambda i: self._train(
                f"metakd-{i}", i, meta("teacher-meta", "typical", i)),
            "metakd, shuffled": lambda i: self._train(
                f"shuffled-{i}", i, meta("teacher-shuffled", "shuffled", i)),
        }  # fmt: skip
        for arm, make in arms.items():
            self._each(arm, make)

    def _each(self, arm: str, make: Callable[[str], Pipeline]) -> None:
        """Score an arm on every domain's test rows."""
        for number, domain in enumerate(self.domains):
            found = make(str(number)).evaluate(domain.test)["accuracy"]
            log.info("%s, %s: %.4f", arm, domain.name, found)
            self.scores.add(arm, domain.name, found)

    def _train(self, name: str, rows: str, method: str = "", *, teacher: bool = False) -> Pipeline:
        options = self.options
        config = TrainConfig(
            task="text_classify", model=options.teacher if teacher else options.student,
            train=self._file(rows, "train.jsonl"), dev=self._file(rows, "dev.jsonl"),
            output=str(self.home / name), method=(method,) if method else (),
            epochs=options.teacher_epochs if teacher else options.epochs,
            lr=options.teacher_lr if teacher else options.lr, seed=self.seed,
            threads=options.threads,
        )  # fmt: skip
        return train_once(config, self.task)

    def _notes(self) -> None:
        """Write every row's domain and prototype score, of all rows and of each domain's."""
        if (self.home / "all.rows.json").is_file():
            return
        rows = [row for each in self.domains for row in each.train]
        numbers = [i for i, each in enumerate(self.domains) for _ in each.train]
        encoder = Encoder(self.options.teacher, self.options.max_length, self.seed)
        vectors = encoder.features(rows)["mean"]
        scores = prototype_scores(vectors, [label_of(row["label"]) for row in rows], numbers)
        for name in (*map(str, range(len(self.domains))), "all"):
            of = [i for i, number in enumerate(numbers) if name in ("all", str(number))]
            part = DomainRows(
                self.names, tuple(numbers[i] for i in of), tuple(float(scores[i]) for i in of)
            )
            part.save(self.home / f"{name}.rows.json")

    def _write(self, name: str, train: Sequence[Example], dev: Sequence[Example]) -> None:
        for part, rows in (("train", train), ("dev", dev)):
            keep_rows(Path(self._file(name, f"{part}.jsonl")), rows)

    def _file(self, rows: str, name: str) -> str:
        return str(self.home / f"{rows}.{name}")


def metakd_table(report: Mapping[str, Any]) -> Table:
    """Return a report as a table, in percent: a row for each arm, a column for each domain."""
    names = list(report["rows"])
    table = Table(title="Accuracy on test rows, in %; gain: MetaKD minus the arm, over domains")
    table.add_column("arm", no_wrap=True)
    for heading in (*names, "mean", "gain of MetaKD"):
        table.add_column(heading, justify="right")
    for arm, found in report["accuracy"].items():
        if arm in (TEACHERS[0], STUDENTS[0]):
            table.add_section()
        shown = ""
        if (gain := report["gains"].get(arm)) is not None:
            half = gain["half_width"]
            mean = round(100 * gain["mean"], 1) + 0.0  # no -0.0
            shown = f"{mean:+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
        cells = [f"{100 * found[name]:.1f}" for name in names]
        table.add_row(arm, *cells, f"{100 * report['means'][arm]['mean']:.1f}", shown)
    if report["left_out"]:
        table.caption = "left out: " + "; ".join(f"{k}: {v}" for k, v in report["left_out"].items())
    return table
