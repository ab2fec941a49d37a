"""Options of exporting, serving and load-testing; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from easynlp.config import DataOptions
from easynlp.deployment.package import Format
from easynlp.errors import ConfigError
from easynlp.options import Range
from easynlp.pipeline import Backend

__all__ = ["CalibrateOptions", "ExportOptions", "LoadTestOptions", "ServeOptions"]

Count = Annotated[int, Range(1)]
Seconds = Annotated[float, Range(0)]
Precision = Annotated[float, Range(0, 1, above=True)]


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(DataOptions):
    """Options of ``easynlp calibrate``."""

    run: str
    """Run folder: its weights and its export are calibrated each by itself; or an export alone."""
    dev: str | None = None
    """Labelled data that was not trained on; by default the dev data of the run."""
    abstain_precision: Precision | None = None
    """Find the least score from which on so large a share of the answers is right, e.g. 0.95."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of ``easynlp export``."""

    run: str
    """Run folder to export."""
    int8: bool = False
    """Quantize to int8: a quarter of the size and, on most CPUs, two to three times the speed."""
    output: str | None = None
    """Folder to write; by default one called as the format in the run folder."""
    format: Format = "onnx"
    """onnx: a folder to predict with and serve; triton: a model repository for Triton Inference
    Server; docker: what an image of easynlp serve is built from."""
    texts: str | None = None
    """File of real texts to check the export on; by default the run's dev or train data."""
    max_drop: Annotated[float, Range(0, 100)] = 0.5
    """Points of the dev score int8 may cost; beyond, more careful ways of int8 are tried."""
    abstain_precision: Precision | None = None
    """Calibrate the export on the texts, which need labels, and find the least score from which on
    so large a share of the answers is right; by default as for the run, if that is calibrated."""
    force: bool = False
    """Keep an export that fails its check; export.json then says that it failed."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of ``easynlp serve``."""

    run: tuple[str, ...]
    """Run folder, or the onnx folder of an exported one; several as NAME=FOLDER NAME=FOLDER."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all, then set an API key."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    backend: Backend = "auto"
    """What computes; auto takes the first of int8, onnx and torch that is there."""
    threads: Count = 1
    """CPU threads of one call of an exported model."""
    workers: Annotated[int, Range(0, 64)] = 0
    """Batches of an exported model computed at the same time, each with --threads; 0: as many as
    there are cores for. A model in torch computes one at a time."""
    max_chars: Count = 20_000
    """Most characters of one text; longer ones are refused (422)."""
    max_texts: Count = 256
    """Most texts of one request (422)."""
    max_body: Count = 4 << 20
    """Most bytes of a request's body (413)."""
    max_queue: Count = 1024
    """Most texts waiting; a request that does not fit is told to come back (429)."""
    max_batch: Count = 32
    """Most texts computed together."""
    max_wait: Seconds = 0.002
    """Most seconds to wait for a batch as large as the last one; a lone client never waits, and
    nobody does for an int8 model, whose rows run one by one."""
    request_timeout: Annotated[float, Range(0.1)] = 30.0
    """Seconds a request may take to arrive (408), and then to be answered (503)."""
    drain_delay: Seconds = 0.0
    """Seconds to go on accepting requests after SIGTERM, with /readyz at 503 so that load
    balancers look elsewhere."""
    drain_timeout: Seconds = 30.0
    """Seconds that requests begun before SIGTERM may take to finish."""
    api_key_file: str | None = None
    """File whose first line is the API key clients must send."""
    api_key_env: str = "EASYNLP_API_KEY"
    """Environment variable that holds the API key, if there is no file."""
    abstain: bool = False
    """Give no label (null) below the threshold that easynlp calibrate found; a request can ask for
    the same, or for a threshold of its own."""
    access_log: bool = False
    """Log a line of JSON a request (never its text)."""

    def __post_init__(self) -> None:
        if self.max_queue < self.max_texts:
            raise ConfigError(
                f"--max-queue {self.max_queue} holds no request of --max-texts {self.max_texts} "
                f"texts: give --max-queue {self.max_texts} or more, or fewer --max-texts"
            )


@dataclass(frozen=True, kw_only=True)
class LoadTestOptions:
    """Options of ``easynlp bench serve``."""

    target: str
    """A run folder, which is served for the test, or the URL of a server."""
    clients: tuple[Count, ...] = (1, 8, 64)
    """Clients asking at the same time, one round after another."""
    seconds: Annotated[float, Range(0.1, 3600)] = 5.0
    """Length of a round."""
    texts: str | None = None
    """File of texts to ask about; by default the run's dev or train data, or made-up texts."""
    peer: bool = False
    """Compare with the same server running one request at a time, in turns, at saturation; then
    overload it, and measure at half its load. Takes a run folder, and the most of --clients."""
    backend: Backend = "auto"
    """What computes, with --peer; auto takes the first of int8, onnx and torch that is there."""
    remote: bool = False
    """Allow a server that is not on this machine."""
    api_key_env: str = "EASYNLP_API_KEY"
    """Environment variable that holds the API key to send."""
