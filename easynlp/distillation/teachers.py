"""Who may teach: a run, a Hugging Face classifier or tagger, or several of them together.

Teachers answer in the student's terms (`easynlp.distillation.answers`); labels are matched by name.
Their weights are read when the first question is asked, so a teacher whose answers are all kept
costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from easynlp.distillation.answers import FLOOR, Wanted, fold_tags, on_characters, order_of
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.committee import LEAST
from easynlp.metrics import log_softmax
from easynlp.models.backbone import Backbone
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import BATCH_TOKENS, META, Pipeline, read_meta
from easynlp.tasks import find_task
from easynlp.tasks.base import Example, Features
from easynlp.tasks.labels import Labels
from easynlp.tasks.sequence_labeling import LabelingConfig, SequenceLabeling
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify

__all__ = ["ModelTeacher", "Teacher", "find_teacher", "read_names"]

BATCH = 64
"""Most texts of one call of a teacher."""


class Teacher(Protocol):
    """Answers a student's questions.

    Attributes:
        name: For people.
        fingerprint: Of all that decides an answer.
        fickle: Whether the same question may be answered another time though it was not now; its
            answers are kept by itself, if at all.
    """

    name: str

    @property
    def fickle(self) -> bool:
        """See above."""

    @property
    def fingerprint(self) -> str:
        """See above."""

    def answers(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Return an answer an example, in order; see `easynlp.distillation.answers`."""


class ModelTeacher:
    """A run folder or a Hugging Face model folder as teacher.

    Args:
        name: The folder, or a name `Backbone.load` finds.
        wanted: What the student asks.
        names: The teacher's labels to the student's, where they are called otherwise.
        max_length: Most tokens of a text, for a Hugging Face model; a run knows its own.
        precision: ``fp32`` or ``bf16``.
        device: Where to compute.

    Raises:
        ConfigError: If its labels are not the student's, or it answers another kind of question.
        ModelError: If there is no such model, or its head is not trained.

    Example:
        >>> teacher = ModelTeacher("runs/x", Wanted("label", ("好评", "差评")))  # doctest: +SKIP
        >>> teacher.answers([{"text": "很好"}])[0].shape                       # doctest: +SKIP
        (1, 2)
    """

    fickle: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        wanted: Wanted,
        *,
        names: Mapping[str, str] | None = None,
        max_length: int = 512,
        precision: str = "fp32",
        device: torch.device | None = None,
    ) -> None:
        self.name, self.wanted, self.precision = name, wanted, precision
        self.device, self.max_length = device or torch.device("cpu"), max_length
        self.is_run = (Path(name) / META).is_file()
        self._backbone = None if self.is_run else Backbone.load(name)
        self._check_kind()
        theirs = self._outputs()
        if wanted.kind == "tags":
            self._fold = fold_tags(theirs, wanted.labels, names or {}, name)
        else:
            self._order = order_of(theirs, wanted.labels, names or {}, name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides an answer: weights, tokenizer, options, which label is which.

        A run's calibration is part of it, since it moves the scores some tasks answer by.
        """
        folder = Path(self.name) if self._backbone is None else self._backbone.folder
        assert folder is not None
        wanted = self.wanted
        said: list[Any] = [wanted.kind, wanted.labels, wanted.pair, self.precision]
        said.append(self._fold.tolist() if wanted.kind == "tags" else self._order)
        if self._backbone is None:
            meta = read_meta(folder)
            said += [meta["task"], meta["config"], meta.get("calibration")]
        else:
            said += [self._outputs(), self.max_length, self._backbone.tokenizer.fingerprint()]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        weights = [*folder.glob("*.safetensors")] or [*folder.rglob("*.onnx")]
        for file in sorted([*weights, *folder.glob("tokenizer.json")]):
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.hexdigest()

    def answers(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Return log-probabilities of each example, rows of similar length run together."""
        if not self._by_logits:
            return self._from_scores(examples)
        task: Any = self.pipeline.task
        features = self.pipeline.encode([self._bare(each) for each in examples])
        found: list[np.ndarray] = [np.empty(0)] * len(features)
        for rows in _batches(features):
            chosen = [features[i] for i in rows]
            batch = task.collate(chosen)
            logits = self.pipeline.model.logits(batch).astype(np.float64)
            if self.wanted.kind == "tags":
                texts = [examples[i]["text"] for i in rows]
                parts = self._tables(texts, chosen, batch, logits)
            else:
                parts = [self._of_labels(row) for row in logits]
            for i, part in zip(rows, parts, strict=True):
                found[i] = part
        return found

    @cached_property
    def pipeline(self) -> Pipeline:
        """Its task and its model."""
        if self._backbone is None:
            has_weights = (Path(self.name) / "config.json").is_file()
            made = Pipeline.load(self.name, backend="torch" if has_weights else "auto")
            if isinstance(made.model, TorchModel):
                model = made.model.model.to(self.device)
                made.model = TorchModel(model, self.precision, self.device)
            return made
        task = self._hub_task(self._backbone)
        model, gaps = self._backbone.with_head_and_gaps(task.architecture)
        if gaps or self._backbone.folder is None:
            raise ModelError(
                f"{self.name} cannot teach: {len(gaps)} of its parameters are not in its weights "
                f"({', '.join(gaps[:3])}). A trained classifier or a run is wanted"
            )
        model.train(False).to(self.device)
        return Pipeline(task, TorchModel(model, self.precision, self.device))

    @property
    def _by_logits(self) -> bool:
        """Whether its logits are the labels' or tags' themselves."""
        return isinstance(self.pipeline.task, TextClassify | SequenceLabeling)

    def _check_kind(self) -> None:
        wanted = self.wanted
        if self._backbone is not None:
            if wanted.kind != "tags":
                said = getattr(self._backbone.config, "problem_type", None)
                several = said == "multi_label_classification"
                if said is not None and several != (wanted.kind == "labels"):
                    raise ConfigError(f"{self.name} is for {said}, the student is not")
            return
        meta = read_meta(self.name)
        config = meta["config"]
        task = find_task(meta["task"])
        kind = "tags" if issubclass(task, SequenceLabeling) else "label"
        kind = "labels" if config.get("multi_label") else kind
        if kind != wanted.kind or not config.get("labels"):
            says = {"label": "one label a text", "labels": "several labels a text",
                    "tags": "entities"}  # fmt: skip
            raise ConfigError(
                f"{self.name} ({meta['task']}) cannot teach {says[wanted.kind]}"
                + (f": it tells {says[kind]}" if kind != wanted.kind else "")
            )
        if issubclass(task, TextClassify) and bool(config.get("pair")) != wanted.pair:
            raise ConfigError(
                f"{self.name} reads {'pairs' if config.get('pair') else 'single texts'}, the "
                f"student {'pairs' if wanted.pair else 'single texts'}"
            )

    def _outputs(self) -> list[str]:
        """Return the names of its outputs; of a run that tags, its tags."""
        if self._backbone is not None:
            named: Any = self._backbone.config.id2label
            return [str(named[i]) for i in range(len(named))]
        labels = list(read_meta(self.name)["config"]["labels"])
        if self.wanted.kind != "tags":
            return labels
        return ["O", *(f"{role}-{kind}" for kind in labels for role in "BI")]

    def _hub_task(self, backbone: Backbone) -> Any:
        positions = getattr(backbone.config, "max_position_embeddings", None) or self.max_length
        if backbone.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= 2
        length = min(self.max_length, positions)
        if self.wanted.kind == "tags":
            config = LabelingConfig(
                max_length=length, overlap=length // 4, labels=self.wanted.labels
            )
            return _WholePieces(config, backbone.tokenizer)
        labels = Labels(tuple(self._outputs())).names
        return TextClassify(
            ClassifyConfig(
                max_length=length, labels=tuple(labels), pair=self.wanted.pair, pooling="first",
                multi_label=self.wanted.kind == "labels",
            ),
            backbone.tokenizer,
        )  # fmt: skip

    def _bare(self, example: Example) -> Example:
        """Return the texts alone: a teacher need not know the labels of what it is asked."""
        return {name: example[name] for name in ("text", "text_b") if name in example}

    def _of_labels(self, logits: np.ndarray) -> np.ndarray:
        ours = logits[self._order]
        if self.wanted.kind == "labels":
            found = np.stack([-np.logaddexp(0, ours), -np.logaddexp(0, -ours)], -1)
        else:
            found = log_softmax(ours)[None]
        result: np.ndarray = np.maximum(found, FLOOR)
        return result

    def _from_scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Answer by the probabilities of predictions, for tasks whose logits are something else."""
        theirs = self._outputs()
        names = [theirs[place] for place in self._order]
        said = self.pipeline.predict([self._bare(each) for each in examples])
        scores = np.array([[each["scores"][name] for name in names] for each in said])
        logs = np.log(np.maximum(scores, LEAST))
        return [log_softmax(row)[None] for row in logs]

    def _tables(
        self, texts: Sequence[str], features: Sequence[Features], batch: Any, logits: np.ndarray
    ) -> list[np.ndarray]:
        owned = batch["owned"].astype(bool)
        logs = log_softmax(logits[owned])
        probs = np.exp(logs) @ self._fold
        logs = np.maximum(np.log(np.maximum(probs, 1e-30)), FLOOR)
        starts, ends = batch["starts"][owned], batch["ends"][owned]
        cuts = np.cumsum([int(item["owned"].sum()) for item in features])[:-1]
        return [
            on_characters(*row)
            for row in zip(
                texts, np.split(starts, cuts), np.split(ends, cuts), np.split(logs, cuts),
                strict=True,
            )
        ]  # fmt: skip


class _WholePieces(SequenceLabeling):
    """A tagger that reads a vocabulary's pieces as its owner trained it to.

    By convention only the first piece of a Latin word was taught; the others follow it.
    """

    def __init__(self, config: LabelingConfig, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        self._characters.needed = False
        self._inner = np.array([name.startswith("##") for name in tokenizer.tokens()])

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode texts; the pieces behind a word's first are made part of it."""
        found = super().encode_batch(examples)
        for features in found:
            inner = self._inner[features["input_ids"]] & features["owned"]
            owners = np.flatnonzero(features["owned"] & ~inner)
            for place in np.flatnonzero(inner).tolist():
                before = owners[np.searchsorted(owners, place) - 1] if len(owners) else place
                if before < place:
                    features["ends"][before] = features["ends"][place]
                    features["owned"][place] = False
        return found


def find_teacher(spec: str, wanted: Wanted, **options: Any) -> Teacher:
    """Return the teacher of a name: a run, a Hugging Face folder or id, or ``llm:FILE``.

    Args:
        spec: The name; ``llm:FILE`` is an endpoint, described in a JSON file as
            `easynlp.distillation.endpoint.EndpointOptions`.
        wanted: What the student asks.
        **options: Of `ModelTeacher`.

    Raises:
        ConfigError: If its labels are not the student's.
        ModelError: If there is no such model.
    """
    if spec.startswith("llm:"):
        from easynlp.distillation.endpoint import EndpointTeacher

        return EndpointTeacher.read(spec.removeprefix("llm:"), wanted)
    return ModelTeacher(spec, wanted, **options)


def read_names(spec: str) -> dict[str, str]:
    """Read ``--teacher-labels``, ``theirs=ours;theirs=ours``.

    Raises:
        ConfigError: If it is not written so.

    Example:
        >>> read_names("LABEL_0=差评;LABEL_1=好评")
        {'LABEL_0': '差评', 'LABEL_1': '好评'}
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in spec.split(";"))):
        theirs, equals, ours = part.rpartition("=")
        if not equals or not theirs.strip() or not ours.strip():
            raise ConfigError(f'--teacher-labels: "{part}" is not theirs=ours')
        found[theirs.strip()] = ours.strip()
    return found


def _batches(features: Sequence[Features]) -> list[list[int]]:
    """Return the row numbers of each batch, rows of similar length together."""
    batches: list[list[int]] = []
    widths = [_width(item) for item in features]
    windows = [len(item.get("windows", (0,))) for item in features]
    tokens = 0
    for i in sorted(range(len(features)), key=widths.__getitem__):
        tokens += windows[i]
        if not batches or len(batches[-1]) == BATCH or tokens * widths[i] > BATCH_TOKENS:
            batches.append([])
            tokens = windows[i]
        batches[-1].append(i)
    return batches


def _width(features: Features) -> int:
    if "windows" in features:
        return int(features["windows"].max())
    return len(features["input_ids"])
