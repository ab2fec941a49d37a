"""What can be set for a run: flat dataclasses, filled by `resolve`.

The docstring under a field is its help on the command line (``--batch-size``); its name is
the key in a recipe (``batch_size:``), in the environment (``EASYNLP_BATCH_SIZE``) and in
Python (``batch_size=``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from easynlp.errors import ConfigError, did_you_mean
from easynlp.options import Range, convert, resolve, to_yaml

__all__ = ["DataOptions", "PretrainConfig", "TrainConfig", "parse_method", "resolve", "to_yaml"]

Count = Annotated[int, Range(1)]
Steps = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Precision = Literal["auto", "bf16", "fp32"]
Optimizer = Literal["adamw", "lamb"]
Schedule = Literal["linear", "cosine", "constant"]
ONCE = {"once": True}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read data files; shared by all commands that do."""

    text: str | None = None
    """Column that holds the text (guessed from the usual names when not given)."""
    text_b: str | None = None
    """Column that holds the second text of a sentence pair."""
    label: str | None = None
    """Column that holds the label."""
    entities: str | None = None
    """Column that holds the entities."""
    encoding: str = "utf-8"
    """Encoding of the data files, e.g. gb18030."""
    schema: str | None = None
    """Columns of files without a header, as name:type:length, e.g. label:str:1,text:str:1."""
    header: bool | None = None
    """Whether csv and tsv files start with a header (guessed when not given)."""
    format: str | None = None
    """Format of the files (jsonl, csv, tsv, conll, conll_repair …) when the extension does not
    say it."""

    @property
    def columns(self) -> dict[str, str]:
        """Field names to the columns the user chose for them."""
        chosen = {name: getattr(self, name) for name in ("text", "text_b", "label", "entities")}
        return {name: column for name, column in chosen.items() if column is not None}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions):
    """Options of ``easynlp train``, whatever the task."""

    task: str
    """What to learn: text_classify, sequence_labeling, or your own package.module:Class."""
    train: str
    """Training data: jsonl, csv, tsv, parquet or CoNLL, also .gz and .zst."""
    output: str
    """Folder of the run: the model, its checkpoints, metrics and the resolved recipe."""
    dev: str | None = None
    """Data the best checkpoint is chosen on."""
    test: str | None = None
    """Data to score the best checkpoint on at the end; never used to choose anything."""
    model: str = "tiny-zh"
    """Where to start: tiny-zh (built in), a local folder, or a Hugging Face or ModelScope id; or
    text_cnn, bilstm or hashed_ngram, small and from random weights, e.g. bilstm:units=64."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on from the last checkpoint in the output folder."""

    method: tuple[str, ...] = ()
    """A method to train with, e.g. r_drop:alpha=4; several compose in the order given."""
    probe: Literal["no", "first", "after", "only"] = "no"
    """Fit the head by logistic regression: first, and fine-tune from there (with few labels);
    after training, on what the encoder then says (with --method setfit); only, nothing else."""
    probe_strength: Positive = 0.01
    """Inverse of the L2 penalty of --probe, on centred and scaled vectors."""
    label_names: str = "auto"
    """What the labels are called, for --probe to lean towards: "100=故事;101=文化", JSON or @FILE;
    labels: they say it themselves; auto: so, if they are words and have few rows each; no."""
    freeze_layers: Steps = 0
    """Keep the embeddings and this many of the lowest layers as they are."""
    freeze_embeddings: bool = False
    """Keep the embeddings as they are."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """What the learning rate is multiplied with from each layer to the one below it."""
    epochs: Positive = 3.0
    """Passes over the training data."""
    steps: Steps = 0
    """Optimizer steps; 0: as many as the epochs make."""
    batch_size: Count = 32
    """Rows of one optimizer step, over all processes and accumulation."""
    batch_tokens: Count = 16384
    """Most tokens, padding included, in one forward pass; larger batches are cut up."""
    accumulate: Count = 1
    """Cut every step into at least this many forward passes, to save memory."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass to save memory: same result, a third more
    time."""
    optimizer: Optimizer = "adamw"
    """adamw; or lamb for very large batches, at --lr of about 0.001 to 0.01."""
    lr: Positive = 1e-4
    """Peak learning rate: 1e-4 to 5e-4 suits small models, 1e-5 to 5e-5 large ones."""
    dropout: Share | None = None
    """Dropout of the encoder; by default what the model's configuration says."""
    weight_decay: NotNegative = 0.01
    """Decay of the weight matrices."""
    schedule: Schedule = "linear"
    """How the learning rate falls after warm-up."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises."""
    max_grad_norm: NotNegative = 1.0
    """Clip gradients to this norm; 0: never."""
    eval_every: Steps = 0
    """Steps between evaluations on dev; 0: once an epoch."""
    patience: Steps = 0
    """Stop after this many evaluations without a better score; 0: never."""
    save_every: Steps = 0
    """Steps between checkpoints to resume from; 0: at every evaluation."""
    log_every: Count = 10
    """Steps between lines in metrics.jsonl."""
    precision: Precision = "auto"
    """Number format; auto takes bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: Steps = 0
    """CPU threads; 0: as torch decides."""
    seed: Steps = 42
    """Same seed, data and machine: same weights."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Options of ``easynlp pretrain``: a model from raw text, by default BERT by masked words."""

    corpus: tuple[str, ...]
    """Text files (a paragraph a line, blank lines between documents), or folders of them: .txt,
    also .gz and .zst; or what easynlp corpus build wrote."""
    output: str
    """Folder of the run; the model it ends with works as --model."""
    exclude: tuple[str, ...] = ()
    """Names of corpus files to leave out, without suffix."""
    heldout: tuple[str, ...] = ()
    """Files the corpus must not show, a line of a .txt or every string in a row of other formats:
    paragraphs that share 30 characters in a row are left out."""
    heldout_rows: Steps = 256
    """Packed rows kept from training, to score masked accuracy on."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on from the last checkpoint in the output folder."""

    init: str | None = None
    """Go on from a checkpoint (built-in name, folder or hub id) and its tokenizer."""
    cut_vocab: Steps = 0
    """With --init: keep at most so many tokens, those the corpus uses most; 0: all."""
    keep_layers: str = ""
    """With --init: start from only these of its layers, counted from 0, e.g. 0,3,7,11."""
    vocab: str | None = None
    """A vocab.txt to use; without it a vocabulary is trained on the corpus. With --init it takes
    the place of the checkpoint's: shared tokens keep their vectors."""
    vocab_size: Annotated[int, Range(100)] = 8000
    """Entries of the vocabulary to train."""
    architecture: (
        Literal["bert", "ngram_bert", "roberta", "albert", "electra", "t5", "gpt2"] | None
    ) = None
    """What to make, in the shape below; by default what the objective trains, bert for mlm.
    ngram_bert is BERT with vectors for pairs of neighbouring tokens."""
    config_json: str | None = None
    """A JSON file of transformers configuration fields that go over the shape below."""
    layers: Count = 4
    """Depth of the encoder."""
    hidden_size: Count = 256
    """Width of the encoder; a multiple of the heads."""
    heads: Count = 4
    """Attention heads; 32 or 64 dimensions each are fast."""
    ffn: Count = 1024
    """Width of the feed-forward layers."""
    max_positions: Count = 512
    """Longest input the model will take, in tokens."""
    ngram_buckets: Count = 20_479
    """ngram_bert: hashed vectors for pairs of neighbouring tokens; best a prime number."""
    embedding_size: Steps = 0
    """albert, electra: width of the embeddings; 0: 128, or the hidden size if that is less."""
    inner_group_num: Count = 1
    """albert: distinct layers in the stack that is repeated until there are --layers."""

    objective: Literal["mlm", "electra", "causal", "t5"] | None = None
    """What to learn: masked words, replaced tokens, the next token, or missing spans; by default
    what the architecture is for."""
    masking: Literal["char", "word", "ngram", "similar"] = "word"
    """What is hidden whole: tokens, Chinese words, spans of 1 to 4 words, or such spans with
    similar words in their place instead of [MASK]."""
    similar_words: str | None = None
    """A file of similar words for --masking similar, a line word<TAB>similar,similar each; without
    it they are the nearest of the corpus' words by the vectors of --similar-model."""
    similar_model: str = "tiny-zh"
    """The encoder whose vectors say which words are similar."""
    dropout: Share = 0.0
    """Dropout while pre-training; text that is read once is not learned by heart."""
    rows: Literal["packed", "texts"] = "packed"
    """What a training row is: packed, full of tokens whatever the sentences; or texts, cut at
    sentence ends to many lengths (what --teacher needs)."""
    row_length: Annotated[int, Range(8)] = 128
    """Tokens of a packed training row; most tokens of a text."""
    per_file: Steps = 0
    """With --rows texts: most characters taken of one corpus file; 0: all."""
    teacher: str | None = None
    """With --rows texts: an encoder whose sentence vectors are computed once and kept, for
    --method sentence_distill; any tokenizer."""
    teacher_prefix: str = ""
    """Put before every text the teacher reads; the E5 family wants "query: "."""
    teacher_pooling: Literal["mean", "cls"] = "mean"
    """How the teacher's tokens become one vector."""
    cache: str | None = None
    """Folder that keeps texts and teacher's vectors, for several runs to share; by default the
    run's own folder."""
    embeddings: Literal["random", "teacher", "bag"] = "random"
    """How token embeddings start: teacher reads each token and turns its vector to our width; bag
    first learns embeddings whose sum points where the teacher's vector of a text points."""
    bag_epochs: Positive = 2.0
    """With --embeddings bag: passes over the texts for that."""
    mask_rate: Annotated[float, Range(0.01, 0.9)] = 0.15
    """Share of the tokens to predict; whole words are masked together."""
    method: tuple[str, ...] = ()
    """A method to train with, e.g. bag_of_words; several compose in the order given."""
    epochs: Positive = 1.0
    """Passes over the corpus."""
    steps: Steps = 0
    """Optimizer steps; 0: as many as the epochs make."""
    batch_size: Count = 64
    """Rows of one optimizer step."""
    accumulate: Count = 1
    """Cut every step into at least this many forward passes, to save memory."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass to save memory: same result, a third more
    time."""
    optimizer: Optimizer = "adamw"
    """adamw; or lamb for very large batches, at --lr of about 0.001 to 0.01."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NotNegative = 0.01
    """Decay of the weight matrices."""
    beta2: Annotated[float, Range(0, 0.99999)] = 0.98
    """AdamW's memory of squared gradients."""
    schedule: Schedule = "linear"
    """How the learning rate falls after warm-up."""
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    max_grad_norm: NotNegative = 1.0
    """Clip gradients to this norm; 0: never."""
    eval_every: Steps = 500
    """Steps between scores on the kept rows."""
    save_every: Steps = 100
    """Steps between checkpoints to resume from; 0: at every evaluation."""
    log_every: Count = 20
    """Steps between lines in metrics.jsonl."""
    precision: Precision = "auto"
    """Number format; auto takes bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: Steps = 0
    """CPU threads; 0: as torch decides."""
    workers: Count = 1
    """Processes to tokenize the corpus with."""
    seed: Steps = 42
    """Same seed, corpus and machine: same weights."""


def parse_method(spec: str, find: Callable[[str], Any]) -> tuple[str, dict[str, Any]]:
    """Read ``name:option=value,option=value`` by the signature of the method it names.

    Args:
        spec: A method's name and options; the name may be ``package.module:function``.
        find: Returns the method of a name (`easynlp.methods.find_method`).

    Returns:
        The name, and the options as the method's annotations want them.

    Raises:
        ConfigError: If there is no such method or option, or a value is of a wrong type.

    Example:
        >>> def r_drop(plan, alpha: float = 1.0): ...
        >>> parse_method("r_drop:alpha=4", lambda name: r_drop)
        ('r_drop', {'alpha': 4.0})

    A comma inside the value of a text option is part of it, unless what follows looks like the
    next option:

        >>> def pet(plan, pattern: str = "", alpha: float = 0.0): ...
        >>> parse_method("pet:pattern=so, it was [MASK],alpha=1", lambda name: pet)
        ('pet', {'pattern': 'so, it was [MASK]', 'alpha': 1.0})
    """
    name = _name(spec)
    function = find(name)
    parameters = dict(list(inspect.signature(function).parameters.items())[1:])  # less the plan
    annotations = _annotations(function)
    texts = {key for key in parameters if annotations.get(key, str) in (str, str | None)}
    written = _options(spec, name, texts)
    options: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in written.items():
        if key not in parameters:
            known = ", ".join(parameters) or "none"
            problems.append(
                f'method {name} has no option "{key}".{did_you_mean(key, parameters)} '
                f"Its options: {known}"
            )
            continue
        try:
            options[key] = convert(value, annotations.get(key, str))
        except ValueError as error:
            problems.append(f"method {name}, option {key}: {error}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in written:
            problems.append(f"method {name} needs {key}: write {name}:{key}=...")
    if problems:
        raise ConfigError("\n".join(problems))
    return name, options


def _name(spec: str) -> str:
    """Return the name in a spec; it may hold a colon of its own."""
    if "=" not in spec:
        module, colon, _ = spec.partition(":")
        if colon and "." not in module and importlib.util.find_spec(module) is None:
            raise ConfigError(f'method "{spec}": options are written name:option=value,...')
        return spec
    head, _, _ = spec.partition("=")
    name, colon, _ = head.rpartition(":")
    if not colon:
        raise ConfigError(f'method "{spec}" has no name; write name:option=value,...')
    return name


def _options(spec: str, name: str, texts: Container[str]) -> Mapping[str, str]:
    """Cut the options of a spec at its commas; one inside a text option is part of the text."""
    options: dict[str, str] = {}
    last = ""
    for part in spec[len(name) + 1 :].split(",") if "=" in spec else ():
        key, equals, value = part.partition("=")
        is_option = bool(equals) and key.strip().isascii() and key.strip().isidentifier()
        if not is_option and last in texts:
            options[last] += f",{part}"
            continue
        if not equals or not key.strip():
            raise ConfigError(f'method "{spec}": "{part}" is not option=value')
        last = key.strip()
        if last in options:
            raise ConfigError(f'method "{spec}" sets {last} twice')
        options[last] = value
    return {key: value.strip() for key, value in options.items()}


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotations that can be evaluated; those of ``TYPE_CHECKING`` names cannot."""
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    found: dict[str, Any] = {}
    for key, note in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={key: note})
        with contextlib.suppress(NameError, AttributeError):
            found |= typing.get_type_hints(alone, globalns=scope, include_extras=True)
    return found
