"""CP-Tuning: contrast what the model would write in the hole, and need no label words.

Xu et al. 2022, "Making Pre-trained Language Models End-to-end Few-shot Learners with Contrastive
Prompt Tuning" (arXiv 2204.00166). The text, soft tokens ``[PRO]`` that mean the same for every
task, and a mask whose vector stands for the text; pairs of rows teach it (`pair_loss`), and hidden
words of the rows keep the model a language model. A text is told by how alike its vector is to
those of the training rows, so no word has to stand for a label.

- ``variant=paper``: soft tokens, the mask's vector out of the last layer, the auxiliary masked
  language modeling.
- ``variant=easynlp`` is EasyNLP's code: a hard pattern, the vector out of the MLM head's first
  (*transform*) layer, no auxiliary term, and the nearest training row answers.
- ``variant=pooled`` is ours: as the paper's, but the vector is the mean over all tokens, the prompt
  among them. A sentence encoder, or what was distilled from one, says more there than at its mask.

How a vector becomes a label is chosen on dev among ``prototypes`` (the paper's: the mean cosine
with a label's rows), ``anchors`` (the nearest training row) and ``head`` (logistic regression). All
three are rows of one linear layer that is stored with the run, so the training file is not needed
to predict. The paper hides words in the very pass that gives the vector; here they are hidden in
a pass of their own, so that vectors in training are of whole texts, as in prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from easynlp.data.sampling import Source
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.one_label import AnswersAsClassifier
from easynlp.fewshot.template import Template, TemplateEncoder, add_soft_tokens
from easynlp.tasks.base import Batch, Example, Features, Field
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import check_length, label_of
from easynlp.tasks.text_classify import LABEL, TEXT, TEXT_B, ClassifyConfig, TextClassify
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone
    from easynlp.training.plan import Plan

__all__ = ["Config", "ContrastivePrompt", "cp_tuning"]

Inference = Literal["prototypes", "anchors", "head"]
Vector = Literal["hidden", "transform", "mean"]
VECTOR_OF: dict[str, Vector] = {"paper": "hidden", "easynlp": "transform", "pooled": "mean"}
"""Which vector each variant reads."""
INFERENCES: tuple[Inference, ...] = ("prototypes", "anchors", "head")
SHARPNESS = 10.0
"""Cosines times this are the logits of prototypes and anchors: an order, no calibration."""


@dataclass(frozen=True)
class ContrastConfig:
    """Options of contrastive prompts."""

    pattern: str = ""
    """The text with soft tokens and one mask; by default "{text}[PRO]*4[MASK]"."""
    vector: Vector = "hidden"
    """The mask's vector: out of the last layer, or of the MLM head's first layer; or the mean of
    all tokens' vectors."""
    max_length: int = 128
    """Most tokens of a row; the text is cut, never the pattern."""
    inference: Inference = "prototypes"
    """How a vector becomes a label; chosen on dev."""
    labels: tuple[str, ...] = ()
    """All labels, in order; learned from the training data."""
    owners: tuple[int, ...] = ()
    """The label of each stored training row; learned."""


Config = ContrastConfig


class ContrastivePrompt(AnswersAsClassifier):
    """Tell which label a text has by its mask's vector; see the module's docstring.

    Args:
        config: Options, with `labels` known.
        tokenizer: Of the backbone; a pattern with soft tokens makes a copy that knows them.

    Raises:
        ConfigError: If the pattern is wrong, or has more than one mask.
    """

    name: ClassVar[str] = "contrastive_prompt"
    architecture: ClassVar[str] = "AutoModelForMaskedLM"
    metric: ClassVar[str] = "accuracy"
    fields: tuple[Field, ...] = (TEXT, TEXT_B, LABEL)
    Config: ClassVar[type[ContrastConfig]] = ContrastConfig

    def __init__(self, config: ContrastConfig, tokenizer: Tokenizer) -> None:
        self.template = Template.parse(config.pattern)
        if self.template.masks != 1:
            raise ConfigError(
                f'the pattern "{self.template}" has {self.template.masks} masks; one is wanted, '
                "whose vector stands for the text"
            )
        self.config = replace(config, pattern=str(self.template))
        self.tokenizer = add_soft_tokens(tokenizer, self.template.softs)
        self._encoder = TemplateEncoder(self.template, self.tokenizer, 1, config.max_length)
        self.soft_ids = self._encoder.soft_ids
        pair = "text_b" in self.template.fields
        self._classify = TextClassify(
            ClassifyConfig(labels=config.labels, pair=pair), self.tokenizer
        )
        self.labels, self.fields = self._classify.labels, self._classify.fields

    @classmethod
    def prepare(
        cls, config: ContrastConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> ContrastivePrompt:
        """Learn the labels (sorted; numbers by value), unless the options name them."""
        pair = "text_b" in Template.parse(config.pattern).fields
        known = TextClassify.prepare(
            ClassifyConfig(labels=config.labels, pair=pair), tokenizer, examples
        )
        return cls(replace(config, labels=known.config.labels), tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> ContrastivePrompt:
        """Make the task again from what `saved` returned."""
        tuples = {name: tuple(config[name]) for name in ("labels", "owners")}
        return cls(ContrastConfig(**{**config, **tuples}), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options and everything learned, as plain JSON values."""
        found = asdict(self.config)
        return {**found, "labels": list(found["labels"]), "owners": list(found["owners"])}

    def encode(self, example: Example) -> Features:
        """Fill the pattern and tokenize it; see `encode_batch`.

        Raises:
            DataError: If a text is missing or no string, or the label is unknown.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples: ``input_ids``, ``hole`` (the mask's place) and ``target``."""
        texts = [{name: text_of(e, name) for name in self.template.fields} for e in examples]
        rows: list[Features] = []
        for example, item in zip(examples, self._encoder.encode_batch(texts), strict=True):
            features: Features = {
                "input_ids": item.ids, "hole": int(item.holes[0]), "truncated": item.truncated
            }  # fmt: skip
            if "label" in example:
                features["target"] = self.labels.index_of(label_of(example["label"]))
            rows.append(features)
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack; ``masked_positions`` is the flat place of each row's mask."""
        batch = pad_rows([item["input_ids"] for item in features], self.tokenizer.pad_id)
        width = batch["input_ids"].shape[1]
        holes = np.array([item["hole"] for item in features], np.int64)
        batch["masked_positions"] = np.arange(len(features)) * width + holes
        if all("target" in item for item in features):
            batch["target"] = np.array([item["target"] for item in features], np.int64)
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of rows."""
        return len(batch["input_ids"])

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the masked language model, read at the mask, and the stored vectors.

        Raises:
            ModelError: If the transform layer is wanted and the weights hold none.
            ConfigError: If the model has no positions for `max_length` tokens.
        """
        from easynlp.fewshot.mask_vectors import MaskVectors

        check_length(backbone, self.config.max_length)
        model, gaps = backbone.with_head_and_gaps(self.architecture)
        if gaps and backbone.folder is not None and self.config.vector == "transform":
            raise ModelError(
                f"{backbone.name} has no masked-LM head of its own; with vector=hidden "
                "(variant=paper) none is needed"
            )
        names = dict(enumerate(self.labels))
        model.config.id2label, model.config.label2id = names, {n: i for i, n in names.items()}
        table: Any = model.get_input_embeddings()
        if (ids := 1 + max(self.soft_ids, default=0)) > table.num_embeddings:
            model.resize_token_embeddings(ids, mean_resizing=False)
        found = MaskVectors(
            model, 2 * len(self.labels) + len(self.config.owners), self.config.vector
        )
        found.read_answers(backbone.folder)
        return found

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the cross entropy of the answers, summed over rows; the method trains by pairs."""
        from torch.nn.functional import nll_loss

        return nll_loss(self.log_probs(output, batch), batch["target"], reduction="sum")

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities of the labels, (rows, labels)."""
        import torch

        logits = output.logits.float()
        labels = len(self.labels)
        if self.config.inference == "head":
            found = logits[:, labels : 2 * labels]
        elif self.config.inference == "prototypes":
            found = SHARPNESS * logits[:, :labels]
        else:
            owners = torch.tensor(self.config.owners, device=logits.device)
            near = logits[:, 2 * labels :]
            found = SHARPNESS * torch.stack(
                [near[:, owners == label].amax(1) for label in range(labels)], 1
            )
        result: torch.Tensor = found.log_softmax(-1)
        return result

    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return what the way in use says of each label, (texts, labels)."""
        labels = len(self.labels)
        found = logits[:, : 2 * labels].astype(np.float64)
        if self.config.inference == "head":
            answers = found[:, labels:]
        elif self.config.inference == "prototypes":
            answers = SHARPNESS * found[:, :labels]
        else:
            owners, near = np.array(self.config.owners), logits[:, 2 * labels :]
            answers = SHARPNESS * np.stack(
                [near[:, owners == label].max(1) for label in range(labels)], 1
            )
        return np.asarray(answers)


class Answers:
    """The stored vectors of a run: made from the training rows, one way of reading them in use.

    Args:
        task: Its `config` learns the training rows' labels and the way in use.
        model: Holds the vectors.
        names: Ways to choose among.
        shuffle: Seed with which labels are dealt out to the stored rows by chance; None: their own.
    """

    def __init__(
        self,
        task: ContrastivePrompt,
        model: torch.nn.Module,
        names: Sequence[Inference],
        shuffle: int | None = None,
    ) -> None:
        self.task, self.model, self.shuffle = task, model, shuffle
        self.names: Sequence[str] = tuple(names)

    def prepare(self, source: Source) -> None:
        """Make room for a vector of every training row."""
        rows = range(len(source.lengths))
        owners = tuple(self._dealt([int(source.features(i, 0)["target"]) for i in rows]).tolist())
        if missing := set(range(len(self.task.labels))) - set(owners):
            raise ConfigError(f'no training row has the label "{self.task.labels[min(missing)]}"')
        self.task.config = replace(self.task.config, owners=owners)
        self.use(self.names[0])
        model: Any = self.model
        model.resize_answers(2 * len(self.task.labels) + len(owners))

    def fit(self, source: Source, device: torch.device, strength: float) -> None:
        """Compute all training rows' vectors and what each way makes of them."""
        import torch

        from easynlp.training.head import read_rows
        from easynlp.training.regression import regress

        vectors, targets = read_rows(
            self.task, self.model, source, device, lambda output, batch: output.vectors
        )
        labels, targets = len(self.task.labels), self._dealt(targets)
        known = np.eye(labels)[targets]
        prototypes = (known.T @ vectors) / known.sum(0)[:, None]
        weight, bias = regress(vectors, targets, labels, strength, several=False)
        core: Any = self.model
        with torch.no_grad():
            rows = np.concatenate([prototypes, weight, vectors]).astype(np.float32)
            core.answers.weight.copy_(torch.from_numpy(rows))
            core.answers.bias.zero_()
            core.answers.bias[labels : 2 * labels] = torch.from_numpy(bias)

    def use(self, name: str) -> None:
        """Answer this way from now on."""
        chosen: Any = name
        self.task.config = replace(self.task.config, inference=chosen)

    def _dealt(self, targets: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the rows' labels, or the same ones dealt out by chance."""
        if self.shuffle is None:
            return np.asarray(targets)
        return np.random.default_rng(self.shuffle).permutation(np.asarray(targets))


def cp_tuning(
    plan: Plan,
    *,
    variant: Literal["paper", "easynlp", "pooled"] = "paper",
    pattern: str = "",
    inference: Literal["dev", "prototypes", "anchors", "head"] | None = None,
    mlm: float | None = None,
    mask_rate: float = 0.15,
    margin: float = 0.4,
    scale: float = 64.0,
    positive: float = 1.0,
    pool: Literal["batch", "group"] = "batch",
    mates: int = 1,
    random_anchors: bool = False,
    seed: int = 0,
) -> Plan:
    """Make a plan of text_classify one of contrastive prompts.

    Every row brings `mates` rows of its label and as many of others, so all batches mix labels.

    Args:
        plan: What to change, of text_classify or prompt_classify (its pattern is taken); no method
            may have come before it.
        variant: See the module's docstring; sets what is not given.
        pattern: ``{text}[PRO]*4[MASK]``; soft tokens and one mask.
        inference: How a vector becomes a label; ``dev``, with all variants but EasyNLP's, takes the
            best of three on dev, without dev the prototypes.
        mlm: Weight of the auxiliary masked language modeling; EasyNLP's variant has none, the
            others' 0.1 is ours. It costs a second pass.
        mask_rate: Share of a row's tokens hidden for it.
        margin: See `pair_loss`, also for `scale` and `positive`.
        scale: See `pair_loss`.
        positive: See `pair_loss`.
        pool: Compare all rows of a micro-batch, or a row with its mates only; then a step does not
            depend on how it is cut up.
        mates: Of each kind, for every row.
        random_anchors: A placebo: deal the labels out by chance among the stored training rows
            (training is as ever), so that anchors, prototypes and regression know nothing of
            them; what is still told right, chance and the choice on dev tell.
        seed: Of the draw of mates, beside the run's.

    Raises:
        ConfigError: If an option is wrong, or the plan does not fit.

    Example:
        >>> plan = cp_tuning(plan, pattern="{text}[PRO]*2[MASK]")     # doctest: +SKIP
    """
    from easynlp.fewshot.mask_vectors import contrast_term, language_term
    from easynlp.fewshot.mates import mated

    paper = variant != "easynlp"
    weight = (0.1 if paper else 0.0) if mlm is None else mlm
    if weight < 0 or margin < 0 or scale <= 0 or positive <= 0 or not 0 < mask_rate < 1:
        raise ConfigError(
            f"cp_tuning: mlm {weight:g}, margin {margin:g}, scale {scale:g}, positive "
            f"{positive:g}, mask_rate {mask_rate:g}; valid: 0 or more, 0 or more, over 0, over 0, "
            "between 0 and 1"
        )
    if plan.backbone is None or [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("cp_tuning makes the model anew, so it comes first among the methods")
    config = _config_of(plan.task, pattern, soft=paper)
    config = replace(config, vector=VECTOR_OF[variant])
    task = ContrastivePrompt(config, plan.backbone.tokenizer)
    model = task.build(plan.backbone)
    chosen = inference or ("dev" if paper else "anchors")
    names = INFERENCES if chosen == "dev" else (chosen,)
    answers = Answers(task, model, names, seed if random_anchors else None)
    made = mated(replace(plan, task=task, model=model, source=None), same=mates, other=mates,
                 seed=seed)  # fmt: skip
    answers.task = made.task  # type: ignore[assignment]
    options = {"margin": margin, "scale": scale, "positive": positive}
    terms = [contrast_term(options, pool=pool)]
    if weight:
        terms.append(language_term(task, weight, mask_rate))
    return replace(made, terms=tuple(terms), vectors_only=True, answers=answers)


def _config_of(task: Any, pattern: str, *, soft: bool) -> ContrastConfig:
    from easynlp.fewshot.prompt_classify import PromptClassify

    config = getattr(task, "config", None)
    if isinstance(task, PromptClassify):
        written = pattern or task.config.pattern
    elif isinstance(task, TextClassify) and not task.config.multi_label:
        tail = "[PRO]*4[MASK]" if soft else "[MASK]"
        pair = "[SEP]{text_b}" if task.config.pair else ""
        written = pattern or f"{{text}}{pair}{tail}"
    else:
        raise ConfigError("cp_tuning is for text_classify and prompt_classify, one label a text")
    assert config is not None
    return ContrastConfig(pattern=written, max_length=config.max_length, labels=config.labels)
