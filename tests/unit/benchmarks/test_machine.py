import torch
from safetensors.torch import save_file

from easynlp.benchmarks.machine import folder_size, machine, parameters


def test_folder_size_counts_files(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"123")
    assert folder_size(tmp_path) == 8
    assert folder_size(tmp_path / "a", tmp_path / "sub") == 8


def test_machine_names_processor_and_versions():
    found = machine(2)
    assert found["threads"] == "2"
    assert found["cpu"]
    assert found["numpy"].startswith("2")


def test_parameters_are_counted_from_the_header(tmp_path):
    weights = {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.int8)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert parameters(tmp_path) == 17
