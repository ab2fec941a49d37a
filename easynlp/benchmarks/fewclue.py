"""FewCLUE's nine tasks: which files a split is made of, and that they are whole.

Models are trained on ``train_i``, chosen on ``dev_i`` and scored once on ``test_public``, for
each of the five official splits i. Every row and every class counts; a folder with rows or
classes taken out is refused. How a row becomes examples is said in
`easynlp.benchmarks.encodings`; that files are the released ones in `easynlp.benchmarks.released`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from easynlp.benchmarks import encodings
from easynlp.benchmarks.seal import check_open
from easynlp.benchmarks.settings import FEW_ALL
from easynlp.data.readers import Row, read_rows
from easynlp.errors import ConfigError, DataError, did_you_mean
from easynlp.tasks.base import Example

__all__ = ["FEWCLUE", "OFFICIAL", "Split", "Suite", "check_classes", "find_file", "find_split",
           "find_suite", "read_split_file", "read_training"]  # fmt: skip

OFFICIAL = ("0", "1", "2", "3", "4")
"""The five splits a mean is made of."""


@dataclass(frozen=True)
class Suite:
    """One task of the benchmark.

    Attributes:
        folder: Its folder under the data root.
        test_rows: Rows of ``test_public``, all of them (of CHID: questions).
        classes: Labels in training (of CHID: candidates of a question).
        encode: Makes the examples of a row.
        tested: Labels that occur in ``test_public``, where they are fewer.
        paired: Whether an example is two texts.
    """

    folder: str
    test_rows: int
    classes: int
    encode: Callable[[Row, bool], list[Example]] = encodings.text
    tested: int = 0
    paired: bool = False

    @property
    def is_choice(self) -> bool:
        """Whether a row is a question with candidates, each an example of its own."""
        return self.encode is encodings.idiom

    @property
    def tested_classes(self) -> int:
        """Labels in the test file."""
        return self.tested or self.classes


FEWCLUE: dict[str, Suite] = {
    "eprstmt": Suite("fewclue_eprstmt", 610, 2),
    "csldcp": Suite("fewclue_csldcp", 1784, 67, tested=66),
    "tnews": Suite("fewclue_tnews", 2010, 15),
    "iflytek": Suite("fewclue_iflytek", 1749, 119, tested=98),
    "ocnli": Suite("fewclue_ocnli", 2520, 3, encodings.premise_pair, paired=True),
    "bustm": Suite("fewclue_bustm", 1772, 2, encodings.pair, paired=True),
    "csl": Suite("fewclue_csl", 2838, 2, encodings.keywords, paired=True),
    "cluewsc": Suite("fewclue_cluewsc", 976, 2, encodings.pronoun),
    "chid": Suite("fewclue_chid", 2002, 7, encodings.idiom, paired=True),
}
"""Task names to what they are; rows and classes as released in 2021."""


@dataclass(frozen=True)
class Split:
    """The three files of a task's split.

    While a contender learns, `test` is None: see `closed`. `unlabelled` is the task's unlabelled
    text, for contenders that want it; `believed` are rows of it that another contender labelled,
    to be learned from beside the training rows.

    Raises:
        DataError: If train and dev are not both of the split that `number` says.
    """

    task: str
    number: str
    train: Path
    dev: Path
    test: Path | None
    unlabelled: tuple[Example, ...] = field(default=(), repr=False, compare=False)
    believed: tuple[Example, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for kind, path in (("train", self.train), ("dev", self.dev)):
            stem = path.name.partition(".")[0]
            if "_" in stem and stem != f"{kind}_{self.number}":
                raise DataError(
                    f"split {self.number} of {self.task} may use {kind}_{self.number} only: "
                    "rows of other splits are more labels than the split has",
                    path=str(path),
                )

    def closed(self) -> Split:
        """Return the split without its test file, as a contender sees it."""
        return replace(self, test=None)


def find_suite(task: str) -> Suite:
    """Return a task by its name.

    Raises:
        ConfigError: If there is none.
    """
    if task not in FEWCLUE:
        raise ConfigError(
            f'unknown task "{task}".{did_you_mean(task, FEWCLUE)} Known: {", ".join(FEWCLUE)}'
        )
    return FEWCLUE[task]


def find_split(root: Path, task: str, number: str) -> Split:
    """Return the files of a split.

    Args:
        root: Folder that holds ``fewclue_tnews`` and its like.
        task: Key of `FEWCLUE`.
        number: ``0`` to ``4``, or ``few_all`` (five times the labels; not one of the five).

    Raises:
        ConfigError: If there is no such task or split.
        DataError: If the data is not there.
    """
    folder = root / find_suite(task).folder
    if number not in (*OFFICIAL, FEW_ALL):
        raise ConfigError(f'unknown split "{number}". Known: 0 to 4, and few_all')
    train, dev, test = (
        find_file(folder, name) for name in (f"train_{number}", f"dev_{number}", "test_public")
    )
    return Split(task, number, train, dev, test)


def find_file(folder: Path, name: str) -> Path:
    """Return a file of a task, packed or not.

    Raises:
        DataError: If it is not there.
    """
    for suffix in (".jsonl", ".jsonl.gz"):
        if (path := folder / (name + suffix)).is_file():
            return path
    raise DataError(
        f"{folder / name}.jsonl(.gz) is not there",
        hint="Name the folder that holds fewclue_tnews, fewclue_eprstmt … with --data-root",
    )


def read_split_file(path: Path | None, task: str, *, labelled: bool = True) -> list[Example]:
    """Read a file of a task as examples; a test file must be whole.

    Args:
        path: The file; None stands for a test file that is not open to a contender.
        task: Key of `FEWCLUE`.
        labelled: Whether rows must have labels; unlabelled text has none.

    Raises:
        DataError: If rows are wrong, or rows of the test file are missing or added.
    """
    suite = find_suite(task)
    check_open(path)
    assert path is not None
    rows = list(read_rows(str(path)))
    examples = [example for row in rows for example in suite.encode(row, labelled)]
    if path.name.startswith("test_public") and len(rows) != suite.test_rows:
        raise DataError(
            f"{len(rows)} rows, but the released test has {suite.test_rows}: scores on "
            "anything else cannot be compared",
            path=str(path),
        )
    return examples


def read_training(split: Split) -> list[Example]:
    """Read the rows a contender learns from: those of the file, all classes, and `believed`.

    Raises:
        DataError: If rows are wrong or classes are missing.
    """
    examples = read_split_file(split.train, split.task)
    check_classes(examples, split)
    return [*examples, *split.believed]


def check_classes(examples: Sequence[Example], split: Split) -> None:
    """Refuse training rows from which classes have been taken out.

    Raises:
        DataError: If the number of labels is not the released one.
    """
    suite = FEWCLUE[split.task]
    labels = {str(example["label"]) for example in examples}
    expected = 2 if suite.is_choice else suite.classes
    if len(labels) != expected:
        raise DataError(
            f"{len(labels)} classes, but {split.task} has {expected}", path=str(split.train)
        )
