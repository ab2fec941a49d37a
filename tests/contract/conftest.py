"""The tiny backbone a sample needs: an encoder for most, an encoder-decoder for some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.samples import SAMPLES


@pytest.fixture(scope="session")
def tiny_t5(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A T5 of 2 + 2 layers x 32 over the tiny vocabulary and its sentinels."""
    import torch
    from transformers import T5ForConditionalGeneration

    from easynlp.models.backbone import Backbone
    from easynlp.pretraining.architectures import Shape, make_config
    from easynlp.pretraining.vocabulary import save_vocabulary
    from easynlp.tasks.span_corruption import SENTINELS
    from easynlp.text.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    folder.mkdir()
    tokens = (tiny_folder / "vocab.txt").read_text(encoding="utf-8").split()
    save_vocabulary([*tokens, *SENTINELS], folder, max_length=128, extra=SENTINELS)
    shape = Shape(layers=2, hidden_size=32, heads=2, ffn=64, max_positions=128)
    torch.manual_seed(0)
    config = make_config("t5", shape, Tokenizer.load(folder))
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return Backbone.load(str(folder))


@pytest.fixture
def tiny_backbone(request: pytest.FixtureRequest, tiny_backbone: Any) -> Any:
    """The tiny BERT, or what the test's sample asks for."""
    given = getattr(getattr(request.node, "callspec", None), "params", {})
    sample = given.get("sample") or SAMPLES.get(given.get("name", ""))
    if sample is not None and sample.backbone == "t5":
        return request.getfixturevalue("tiny_t5")
    return tiny_backbone
