"""Options of the benchmarks; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from easynlp.benchmarks.names import split_names
from easynlp.errors import ConfigError
from easynlp.options import Range, pieces

__all__ = ["FewclueOptions", "MaskedOptions", "ModelsOptions", "PretrainOptions",
           "SpeedOptions", "SplitOptions", "TokenizeOptions", "is_floor"]  # fmt: skip

FLOOR = "floor"
"""The floor that suits the task."""
FLOORS = (FLOOR, "chance", "majority", "tfidf-svm", "tfidf-cnb", "hypothesis-svm", "overlap",
          "keyword-rule", "keywords", "positions", "lsa", "nb-em", "self-trained")  # fmt: skip
"""Contenders that are no models."""
NINE = ("eprstmt", "csldcp", "tnews", "iflytek", "ocnli", "bustm", "csl", "cluewsc", "chid")
"""FewCLUE's tasks."""
FEW_ALL = "few_all"
"""The union of the splits, five times the labels: reported apart, never in a mean."""
FINETUNE, LP_FT, PUBLISHED = "finetune", "lp-ft", "finetune-published"
"""Before @ and a model's name: fine-tuned properly, or by the published recipe."""
METHOD = "method:"
"""Before the name of a few-shot method."""
ZERO_SHOT = "zero-shot"
"""PET without a training step."""
PREFIX = "probe:"
"""Before a model's name: not fine-tuned, but probed by logistic regression."""


def is_floor(name: str) -> bool:
    """Return whether a contender is no model."""
    return name in FLOORS


Count = Annotated[int, Range(1)]
Positive = Annotated[float, Range(0, above=True)]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """What benchmarks on FewCLUE's splits share: the data and the budget of training."""

    tasks: tuple[str, ...]
    """FewCLUE tasks: eprstmt, csldcp, tnews, iflytek, ocnli, bustm, csl, cluewsc, chid. One
    without data is left out, with a notice."""
    seeds: tuple[int, ...]
    """Seeds; a split's score is the mean over them."""
    data_root: str = "../shared/data/bench"
    """Folder that holds fewclue_eprstmt, fewclue_tnews …"""
    output: str
    """Folder of results. Finished cells in it are not computed again."""
    lrs: tuple[Positive, ...] = (1e-4, 3e-4, 1e-3)
    """Learning rates among which dev chooses, for every model and method."""
    epochs: Positive = 20.0
    """Passes over the training rows of a try, within the limits on steps."""
    min_steps: Count = 150
    """Fewest steps of a try."""
    max_steps: Count = 900
    """Most steps of a try."""
    evaluations: Count = 10
    """Checkpoints of a try among which dev chooses."""
    batch_size: Count = 16
    """Rows of a step."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: as torch decides."""
    json: bool = False
    """Print the report as JSON in place of the table."""

    def task_names(self) -> list[str]:
        """Return the tasks one by one; a comma may stand between them."""
        return pieces(self.tasks)


@dataclass(frozen=True, kw_only=True)
class ModelsOptions(SplitOptions):
    """Options of ``easynlp bench models``."""

    models: tuple[str, ...] = ("majority", "tfidf-svm", "random:tiny-zh", "tiny-zh")
    """Contenders: floors such as majority and tfidf-svm, or models as --model takes them, with
    methods behind plus signs (tiny-zh+r_drop:alpha=4), or probe:MODEL for a linear probe. The
    last one is compared with the others."""
    probe: bool = False
    """Probe every model too: logistic regression on its frozen sentence vectors."""
    tasks: tuple[str, ...] = ("eprstmt", "tnews", "csldcp", "iflytek", "bustm")
    """FewCLUE tasks: eprstmt, csldcp, tnews, iflytek, ocnli, bustm, csl, cluewsc, chid. One
    without data is left out, with a notice."""
    splits: tuple[str, ...] = ("0-4",)
    """Official splits: numbers, a range such as 0-4, or few_all, which is in no mean."""
    seeds: tuple[int, ...] = (42,)
    """Seeds; a split's score is the mean over them."""
    output: str = "runs/bench-models"
    """Folder of results. Finished cells in it are not computed again."""

    def contenders(self) -> list[str]:
        """Return the contenders one by one, probes last; a comma may stand between them.

        Example:
            >>> ModelsOptions(models=("majority,tiny-zh+r_drop:alpha=4,weight=1",)).contenders()
            ['majority', 'tiny-zh+r_drop:alpha=4,weight=1']
            >>> ModelsOptions(models=("majority", "tiny-zh+fgm"), probe=True).contenders()
            ['majority', 'tiny-zh+fgm', 'probe:tiny-zh']
        """
        names = pieces(self.models)
        if self.probe:  # a floor has no vectors, and a method changes none
            models = (n.partition("+")[0] for n in names if n not in FLOORS)
            names += [PREFIX + name.removeprefix(PREFIX) for name in models]
        return sorted(dict.fromkeys(names), key=lambda name: name.startswith(PREFIX))

    def numbers(self) -> list[str]:
        """Return the splits one by one.

        Raises:
            ConfigError: If a range is none.

        Example:
            >>> ModelsOptions(splits=("0-2", "few_all")).numbers()
            ['0', '1', '2', 'few_all']
        """
        found: list[str] = []
        for part in (piece for given in self.splits for piece in given.split(",")):
            first, dash, last = part.strip().partition("-")
            if not dash:
                found.append(first)
            elif first.isdigit() and last.isdigit() and int(first) <= int(last):
                found += [str(number) for number in range(int(first), int(last) + 1)]
            else:
                raise ConfigError(f'--splits "{part}" is no range such as 0-4')
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class FewclueOptions(SplitOptions):
    """Options of ``easynlp bench fewclue``."""

    contenders: tuple[str, ...] = ("chance", "majority", "floor", "finetune-published", "finetune")
    """Who takes part: floors (floor is the one of each task; chance, majority, tfidf-svm …),
    finetune-published (FewCLUE's 3 epochs), finetune (trained properly), lp-ft, method:NAME (a
    few-shot method), zero-shot, fuzzy-pet, probe:MODEL, knn, centroid, over unlabelled text
    self-training, committee and ipet, vote (several together), or your own as
    package.module:Name. Behind colons options
    (method:pet:prompt=lm-bff:alpha=1e-4), behind @ another model."""
    model: str = "tiny-zh"
    """The model of contenders that name none."""
    against: str = ""
    """The contender that the others are compared with, by a paired bootstrap; by default the
    last one."""
    tasks: tuple[str, ...] = NINE
    """FewCLUE tasks; by default all nine. Tasks may be added to a folder, not taken away."""
    splits: tuple[str, ...] = ("0-4",)
    """Official splits. Fewer than five are for a try: the table says so."""
    seeds: tuple[int, ...] = (13, 42, 87)
    """Seeds, fixed before the first cell; a split's score is the mean over them."""
    few_all: bool = False
    """Also train on few_all, five times the labels; reported apart, never in a mean."""
    drop_near_test: bool = False
    """Leave out unlabelled texts that are test rows, word for word or nearly, and say how many;
    without it such text is refused."""
    placebos: bool = False
    """Run every method's placebo arms too: shuffled labels and words, random pseudo-labels."""
    draws: Annotated[int, Range(100)] = 10_000
    """Draws of the bootstrap."""
    output: str = "runs/bench-fewclue"
    """Folder of results. Finished cells in it are not computed again."""
    write: str | None = None
    """Markdown file to write the tables to, e.g. docs/fewclue.md."""

    def command(self) -> str:
        """Return what to type for the same figures: no files and formats, no defaults.

        Example:
            >>> FewclueOptions(contenders=("floor",), few_all=True, seeds=(1, 2)).command()
            'easynlp bench fewclue --seeds 1 --seeds 2 --contenders floor --few-all'
        """
        said = ["easynlp bench fewclue"]
        for each in fields(self):
            value = getattr(self, each.name)
            if value == each.default or each.name in ("data_root", "output", "write", "json"):
                continue
            flag = "--" + each.name.replace("_", "-")
            parts = value if isinstance(value, tuple) else (value,)
            said += [flag if part is True else f"{flag} {part}" for part in parts]
        return " ".join(said)

    def names(self) -> list[str]:
        """Return the contenders one by one; a comma may stand between them.

        Example:
            >>> FewclueOptions(contenders=("majority,method:pet:prompt=lm-bff:x=1",)).names()
            ['majority', 'method:pet:prompt=lm-bff:x=1']
        """
        return split_names(self.contenders)

    def numbers(self) -> list[str]:
        """Return the splits one by one, few_all last.

        Raises:
            ConfigError: If few_all is among the splits: it is their union, not a sixth one.
        """
        found = ModelsOptions(splits=self.splits).numbers()
        if FEW_ALL in found:
            raise ConfigError(
                "few_all is no sixth split: it holds five times the labels, and a mean over it is "
                "higher. Ask for it with --few-all; it is reported apart"
            )
        return [*found, *[FEW_ALL] * self.few_all]


@dataclass(frozen=True, kw_only=True)
class MaskedOptions:
    """Options of ``easynlp bench masked``."""

    models: tuple[str, ...] = ("random:tiny-zh", "tiny-zh")
    """Models with a masked-LM head, as --model takes them; the last one is compared with the
    others."""
    data: tuple[str, ...]
    """Held-out text: files, or folders of them (.txt, .gz, .zst), a paragraph a line. A file is
    a genre."""
    passages: Count = 200
    """Paragraphs drawn from a file."""
    characters: Annotated[int, Range(20, 500)] = 120
    """Most characters of a passage; the rest of its paragraph is cut."""
    rate: Annotated[float, Range(0, 1, above=True)] = 0.15
    """Share of the Chinese characters to hide, as whole words."""
    seed: int = 0
    """Seed of the draw of passages and words."""
    output: str | None = None
    """File to write the report to, as JSON."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: as torch decides."""
    json: bool = False
    """Print the report as JSON in place of the table."""

    def names(self) -> list[str]:
        """Return the models one by one; a comma may stand between them."""
        parts = (piece.strip() for given in self.models for piece in given.split(","))
        return list(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Options of ``easynlp bench speed``."""

    model: str = "tiny-zh"
    """The encoder both sides fine-tune and run."""
    data: str | None = None
    """Labelled texts; by default FewCLUE TNEWS (train_few_all), else the demo's reviews."""
    data_root: str = "../shared/data/bench"
    """Folder in which fewclue_tnews is looked for."""
    rounds: Annotated[int, Range(2)] = 7
    """Timed rounds; sides take turns within each. One more round before them is not counted."""
    steps: Count = 30
    """Training steps of a round."""
    texts: Count = 256
    """Texts to predict in a round."""
    batch_size: Count = 32
    """Rows of a training step, and of a call of prediction in batches."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text, for both sides."""
    threads: Count = 1
    """CPU threads, the same for both sides."""
    output: str | None = None
    """File to write the report to, as JSON."""
    json: bool = False
    """Print the report as JSON in place of the tables."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """Options of ``easynlp bench pretrain``."""

    corpus: tuple[str, ...] = ()
    """Text files (a paragraph a line, blank lines between documents), or folders of them; by
    default the demo's reviews."""
    characters: Count = 500_000
    """Most characters to take of the corpus."""
    vocabulary: str = "tiny-zh"
    """The model whose tokenizer both sides use."""
    layers: Count = 4
    """Depth of the encoder."""
    hidden_size: Count = 256
    """Width of the encoder; a multiple of the heads."""
    heads: Count = 4
    """Attention heads."""
    ffn: Annotated[int, Range(0)] = 0
    """Width of the feed-forward layers; 0: four times the encoder's."""
    row_length: Annotated[int, Range(8, 512)] = 128
    """Tokens of a training row, for both sides."""
    mask_rate: Annotated[float, Range(0.01, 0.9)] = 0.15
    """Share of the tokens to predict, for both sides."""
    batch_size: Count = 32
    """Rows of a training step."""
    steps: Count = 5
    """Training steps of a round."""
    rounds: Annotated[int, Range(2)] = 5
    """Timed rounds; sides take turns within each. One more round before them is not counted."""
    threads: Count = 1
    """CPU threads, the same for both sides."""
    output: str | None = None
    """File to write the report to, as JSON."""
    json: bool = False
    """Print the report as JSON in place of the table."""


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """Options of ``easynlp bench tokenize``."""

    model: str | None = None
    """Folder with a tokenizer.json of BERT's kind; by default a vocabulary of 21,128 tokens is
    trained on the texts."""
    data_root: str = "../shared/data/bench"
    """Folder that holds fewclue_eprstmt, fewclue_tnews …: all their texts are compared."""
    fuzz: Annotated[int, Range(0)] = 100_000
    """Random Unicode strings to compare."""
    seed: int = 0
    """Seed of the random strings."""
    texts: Count = 1000
    """Texts of a set that are timed."""
    batch_size: Count = 32
    """Texts of a call in batches."""
    rounds: Annotated[int, Range(2)] = 15
    """Timed rounds; sides take turns within each. One more round before them is not counted."""
    output: str | None = None
    """File to write the report to, as JSON."""
    json: bool = False
    """Print the report as JSON in place of the tables."""
