import json

import pytest

from easynlp.demo import run as demo
from easynlp.demo.settings import DemoOptions
from easynlp.errors import ConfigError


@pytest.mark.slow  # the road itself is walked in tests/unit/landing
def test_run_demo_end_to_end(tiny_folder, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    # The figures of the machine are not the matter here, nor is a good model.
    recipe = {"student_steps": 4, "student_lrs": (1e-3,), "evaluations": 1}
    monkeypatch.setattr(demo, "RECIPE", recipe)
    monkeypatch.setattr(demo, "MAX_LENGTH", 32)
    monkeypatch.setattr(demo, "TIMED", 8)
    output = tmp_path / "demo"
    report = demo.run_demo(DemoOptions(output=str(output), model=str(tiny_folder)))
    names = [row["name"] for row in report["rows"]]
    assert names == ["majority", "TF-IDF + SVM", "tiny fp32", "tiny int8"]
    rows = dict(zip(names, report["rows"], strict=True))
    assert rows["majority"]["accuracy"] == 0.5
    assert rows["TF-IDF + SVM"]["accuracy"] > 0.75
    assert 0 < rows["TF-IDF + SVM"]["bytes"] < 2e6
    assert 0 < rows["tiny int8"]["bytes"] < rows["tiny fp32"]["bytes"]
    for row in report["rows"]:
        assert row["low"] < row["accuracy"] < row["high"]
    assert report["export"]["agreement"] >= 0.9
    assert json.loads((output / "demo.json").read_text("utf-8"))["rows"] == report["rows"]
    assert "正面" in (output / "report.html").read_text("utf-8")
    assert demo.demo_table(report).row_count == 4
    steps = demo.next_steps(report)
    assert f"easynlp serve {output}/model" in steps
    assert (output / "model" / "easynlp.json").is_file()
    body = steps.partition("-d '")[2].rstrip("'")
    assert list(json.loads(body)) == ["texts"]
    with pytest.raises(ConfigError):
        demo.run_demo(DemoOptions(output=str(output), model=str(tiny_folder)))


def test_recipe_is_made_of_options_of_the_road():
    from easynlp.landing.settings import LandOptions

    assert set(demo.RECIPE) <= set(LandOptions.__dataclass_fields__)
