from __future__ import annotations

import errno

import pytest

from easynlp.atomic import write_folder
from easynlp.errors import RunError

safetensors = pytest.importorskip("safetensors")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "No space left on device",
        ),
    ],
)
def test_a_full_disk_is_an_error_in_a_line_and_leaves_nothing(tmp_path, error, said):
    target = tmp_path / "run"
    write_folder(target, lambda folder: (folder / "a").write_text("old") and None)

    def fill(folder):
        (folder / "a").write_text("new")
        raise error

    with pytest.raises(RunError, match=f"cannot write .*run: .*{said}.*Nothing was changed"):
        write_folder(target, fill)
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_another_error_is_passed_on(tmp_path):
    def fill(folder):
        raise safetensors.SafetensorError("invalid dtype")

    with pytest.raises(safetensors.SafetensorError, match="dtype"):
        write_folder(tmp_path / "run", fill)
    assert not any(tmp_path.iterdir())
