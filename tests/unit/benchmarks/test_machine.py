from easynlp.benchmarks.machine import folder_size, machine


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
