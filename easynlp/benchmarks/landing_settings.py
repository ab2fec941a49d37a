"""Options of ``easynlp bench landing``; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from easynlp.config import Count, NotNegative, Positive, Share, Steps
from easynlp.errors import ConfigError, did_you_mean
from easynlp.options import Range, pieces

__all__ = ["PARTS", "LandingBenchOptions"]

PARTS = ("eprstmt", "titles", "compress", "latency", "metakd", "server")
"""Parts of the table, in its order; the last two are read from reports of other commands."""
Set = Literal["chnsenticorp", "thucnews_title10"]


@dataclass(frozen=True, kw_only=True)
class LandingBenchOptions:
    """Options of ``easynlp bench landing``."""

    parts: tuple[str, ...] = PARTS
    """Parts to run: eprstmt, titles, compress, latency, metakd, server. One whose data is not
    there is left out, and the table says why."""
    data_root: str = "../shared/data/bench"
    """Folder that holds fewclue_eprstmt, chnsenticorp and thucnews_title10."""
    output: str = "runs/bench-landing"
    """Folder of results. Finished parts in it are not run again while weights, options and data
    are the same."""
    teacher: str = "../shared/models/e5-small-zh"
    """Where teachers start: any name --model takes."""
    teacher_ways: tuple[str, ...] = ()
    """eprstmt: ways the teacher may learn, as for easynlp fewshot; by default all."""
    teacher_lrs: tuple[Positive, ...] = (1e-4, 3e-4)
    """Learning rates of the teacher among which dev chooses."""
    teacher_steps: Count = 100
    """eprstmt: optimizer steps of a try of the teacher."""
    students: tuple[str, ...] = ("hashed_ngram:buckets=32749", "hashed_ngram:buckets=10007")
    """eprstmt: students, as --model takes them; the table shows one of at most a 30th of the
    teacher's parameters and one of at most a 100th."""
    student_lrs: tuple[Positive, ...] = (3e-3, 1e-2, 3e-2)
    """Learning rates of students among which dev chooses, the same for every arm."""
    student_steps: Count = 3000
    """Optimizer steps of a try of a student, the same for every arm."""
    evaluations: Count = 20
    """Checkpoints of a try among which dev chooses."""
    alpha: Share = 0.2
    """Share of the labels in what a taught student learns."""
    temperature: Positive = 2.0
    """Answers are compared at it."""
    pool_rows: Steps = 0
    """Most unlabelled texts to teach on; 0: all."""
    batch_size: Count = 32
    """Rows of a step."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text."""
    sets: tuple[Set, ...] = ("chnsenticorp", "thucnews_title10")
    """titles: chnsenticorp, thucnews_title10; compress takes the last."""
    set_rows: Count = 2000
    """titles, compress: labelled rows to learn from; a small budget."""
    set_pool: Steps = 4000
    """titles: further training texts, whose labels are not read, to teach on."""
    set_dev: Count = 500
    """titles, compress: most dev rows."""
    set_test: Count = 2000
    """titles, compress: most test rows."""
    set_teacher_steps: Count = 200
    """titles: optimizer steps of the teacher."""
    set_teacher_lr: Positive = 1e-4
    """titles: learning rate of the teacher."""
    set_student: str = "hashed_ngram"
    """titles: the student."""
    compress_model: str = "tiny-zh"
    """compress: the model that is fine-tuned on the last of --sets and then compressed."""
    compress_steps: Count = 200
    """compress: optimizer steps of that fine-tuning."""
    compress_drop: NotNegative = 0.5
    """compress: most points of dev a candidate may lose."""
    compress_epochs: Positive = 3.0
    """compress: passes to recover in."""
    compress_candidates: Count = 3
    """compress: shapes to try."""
    small_shape: str = "4x312"
    """latency: layers x width of the small BERT; the weights do not matter."""
    base_shape: str = "12x768"
    """titles, latency: layers x width of a base-size teacher."""
    tiny_model: str = "hashed_ngram"
    """latency: the tiny tier."""
    characters: Annotated[int, Range(8, 500)] = 30
    """latency: characters of a text."""
    timed: Annotated[int, Range(8)] = 200
    """Texts that are timed."""
    rounds: Annotated[int, Range(2)] = 5
    """Timed passes over them; models take turns."""
    metakd: str | None = None
    """report.json of easynlp bench metakd."""
    server: str | None = None
    """What easynlp bench serve --peer --json printed, as a file."""
    seed: Steps = 42
    """Of everything."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads of training; 0: as torch decides. Everything is timed on one."""
    write: str | None = None
    """Markdown file to write the tables to, e.g. docs/bench-landing.md."""
    json: bool = False
    """Print the report as JSON in place of the tables."""

    def chosen(self) -> list[str]:
        """Return the parts asked for, in the table's order.

        Raises:
            ConfigError: If there is none of a name.

        Example:
            >>> LandingBenchOptions(parts=("latency,eprstmt",)).chosen()
            ['eprstmt', 'latency']
        """
        asked = pieces(self.parts)
        for name in asked:
            if name not in PARTS:
                raise ConfigError(
                    f'--parts "{name}" is none.{did_you_mean(name, PARTS)} '
                    f"Parts: {', '.join(PARTS)}"
                )
        return [name for name in PARTS if name in asked]

    def command(self) -> str:
        """Return what to type for the same figures: no files and formats, no defaults.

        Example:
            >>> LandingBenchOptions(parts=("latency",), timed=50, json=True).command()
            'easynlp bench landing --parts latency --timed 50'
        """
        said = ["easynlp bench landing"]
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("output", "write", "json", "data_root") or value == each.default:
                continue
            flag = "--" + each.name.replace("_", "-")
            values = value if isinstance(value, tuple) else (value,)
            said += [f"{flag} {one}" for one in values]
        return " ".join(said)
