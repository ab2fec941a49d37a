"""Options of ``easynlp distill``; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from easynlp.config import Count, NotNegative, Positive, Share, Steps, TrainConfig
from easynlp.errors import ConfigError
from easynlp.options import Range, pieces

__all__ = [
    "CohortConfig",
    "CohortOptions",
    "DistillConfig",
    "DistillOptions",
    "EndpointOptions",
    "SoftLoss",
]

SoftLoss = Literal["kl", "mse"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """How the student is trained: options of ``easynlp train``."""

    task: str = "text_classify"
    """What the student learns: text_classify or sequence_labeling; by default what the first
    teacher, if it is a run, was trained for."""
    model: str = field(default="tiny-zh", metadata={"learned": True})
    """The student, see `student`."""
    student: str = "tiny-zh"
    """Where the student starts: any name --model takes."""

    def plain(self) -> TrainConfig:
        """Return the same options as those of a run of the student."""
        return _of_model(self, self.student)


@dataclass(frozen=True, kw_only=True)
class CohortConfig(TrainConfig):
    """How a teacher and those who learn beside it are trained: options of ``easynlp train``."""

    task: str = "text_classify"
    """What all learn: text_classify or sequence_labeling."""
    model: str = field(default="tiny-zh", metadata={"learned": True})
    """The teacher, see `teacher`."""
    teacher: str = "tiny-zh"
    """Where the teacher starts: any name --model takes, of BERT's shape."""

    def plain(self) -> TrainConfig:
        """Return the same options as those of a run of the teacher."""
        return _of_model(self, self.teacher)


@dataclass(frozen=True, kw_only=True)
class CohortOptions:
    """Who learns beside the teacher, and how."""

    students: tuple[str, ...] = ()
    """Models with the teacher's tokenizer, or shapes such as 2x128 (layers x width, random
    weights)."""
    assistant: str = ""
    """The same, of one that stands between: it learns from the teacher, and the students from it;
    empty: the students learn from the teacher."""
    alpha: Share = 0.5
    """Share of the labels in a learner's loss, the rest is whom it learns from."""
    temperature: Positive = 2.0
    """Answers are compared at this temperature; higher is softer."""
    relations: NotNegative = 0.1
    """Weight of the last layers' relations among tokens (MiniLMv2)."""
    extra: bool = True
    """Compare relations in a layer on top that is thrown away afterwards."""
    heads: Steps = 0
    """Heads in which relations are compared; 0: the number nearest to 12 that fits all widths."""
    frozen: bool = False
    """The teacher does not learn; for one that has learned before."""
    placebo: Literal["", "shuffled-source"] = ""
    """shuffled-source: learners get what was said of another row of the batch."""

    def __post_init__(self) -> None:
        """Cut names at commas, as those of teachers are."""
        object.__setattr__(self, "students", tuple(pieces(self.students)))


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Who teaches, on which texts, and how the student listens."""

    teacher: tuple[str, ...] = ()
    """Run folders, Hugging Face classifiers (folder or id) or llm:FILE; several, as in a,b, are an
    ensemble."""
    teacher_labels: str = ""
    """What the student calls a teacher's labels, "LABEL_0=差评;LABEL_1=好评"; else names agree."""
    teacher_length: Annotated[int, Range(8)] = 512
    """Most tokens a Hugging Face teacher reads of a text; a run knows its own."""
    teacher_precision: Literal["fp32", "bf16"] = "fp32"
    """Number format the teacher computes in."""
    vote: Literal["mean", "calibrated"] = "mean"
    """How several teachers are one: the mean of their probabilities; or their geometric mean, each
    aligned to the labels' shares and tempered on dev."""
    unlabeled: str | None = None
    """Texts without labels to learn the teacher's answers on."""
    augment: Steps = 0
    """Changed copies made of every training row, to learn the teacher's answers on."""
    augment_model: str = "tiny-zh"
    """The masked language model that puts other words into copies; empty: none does."""
    similar_words: str | None = None
    """A file of similar words for copies, a line word<TAB>similar,similar each."""
    alpha: Share = 0.2
    """Share of the labels in the loss, the rest is the teacher's; 1: plain training."""
    temperature: Positive = 2.0
    """Answers are compared at this temperature; higher is softer."""
    soft_loss: SoftLoss = "kl"
    """kl, times the temperature squared; or mse of the centred logits."""
    hidden: NotNegative = 0.0
    """Weight of the hidden states' distance, through a learned projection (TinyBERT)."""
    attention: NotNegative = 0.0
    """Weight of the attention maps' distance; both sides need as many heads."""
    relation: NotNegative = 0.0
    """Weight of the last layers' relations among tokens (MiniLMv2)."""
    layers: str = "uniform"
    """Layers of the student to layers of the teacher: uniform, last, top, bottom or 0:2,1:5."""
    student_layers: str = ""
    """Start the student from these layers of the first teacher, counted from 0, e.g. 0,3,7,11."""
    cache: str | None = None
    """Folder that keeps teachers' answers, for several runs to share; by default the run's own."""
    cache_dtype: Literal["fp16", "fp32"] = "fp16"
    """Number format answers are kept in."""
    placebo: Literal["none", "shuffled-teacher"] = "none"
    """Deal the teacher's answers out among the rows by chance: what is gained then, the teacher's
    knowledge of a text did not gain."""

    def __post_init__(self) -> None:
        """Cut names at commas here, so that whoever reads them sees one teacher each."""
        object.__setattr__(self, "teacher", tuple(pieces(self.teacher)))


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """A language model behind an OpenAI-compatible endpoint as teacher.

    The key is read from the environment when a request is made, and is never written or shown.
    """

    endpoint: str = ""
    """Address before /chat/completions, e.g. http://localhost:8000/v1."""
    endpoint_model: str = ""
    """Name of the model there."""
    endpoint_key: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; a missing one sends none."""
    instruction: str = ""
    """What the texts are and what is asked, in a sentence, to stand before the labels."""
    shots: Steps = 4
    """Training rows shown as examples, spread over the labels."""
    sureness: Annotated[float, Range(0.5, 1)] = 0.9
    """Probability its label is given; the rest is shared by the others."""
    reply_tokens: Count = 128
    """Most tokens of a reply."""
    max_requests: Count = 1000
    """Requests in all, failed ones and those of resumed runs included."""
    max_tokens: Steps = 0
    """Tokens in all, prompts and replies; 0: no limit."""
    max_cost: NotNegative = 0.0
    """Money in all, at the prices below; 0: no limit."""
    price_in: NotNegative = 0.0
    """Price of a million tokens of prompts."""
    price_out: NotNegative = 0.0
    """Price of a million tokens of replies."""
    requests_per_minute: NotNegative = 0.0
    """Most requests a minute; 0: no limit."""
    workers: Count = 4
    """Requests under way together."""
    timeout: Positive = 60.0
    """Seconds a request may take, a stalled one included."""
    retries: Steps = 4
    """How often a failed request is tried again."""
    backoff: NotNegative = 1.0
    """Seconds before the first new try, doubled every time; Retry-After goes before it."""

    def __post_init__(self) -> None:
        if not self.endpoint:
            return
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f'--endpoint "{self.endpoint}": an address that begins with http:// or https:// '
                "is wanted"
            )
        if not self.endpoint_model:
            raise ConfigError("the endpoint's model has no name: type --endpoint-model NAME")
        if self.max_cost and not (self.price_in or self.price_out):
            raise ConfigError(
                "--max-cost needs prices, else nothing ever costs anything: type --price-in and "
                "--price-out (of a million tokens), or cap with --max-requests or --max-tokens"
            )


def _of_model(config: TrainConfig, model: str) -> TrainConfig:
    given = {each.name: getattr(config, each.name) for each in fields(TrainConfig)}
    return TrainConfig(**{**given, "model": model})
