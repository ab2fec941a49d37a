import numpy as np
import pytest

from easynlp.benchmarks.floors import LinearFloor, MajorityFloor
from easynlp.errors import DataError, ModelError

GOOD = ["房间干净，服务很好", "质量很好，非常满意", "位置方便，下次还来", "做工精致，值得购买"]
BAD = ["房间很脏，态度恶劣", "质量太差，非常失望", "位置偏僻，再也不来", "做工粗糙，不要购买"]
TEXTS, LABELS = GOOD + BAD, ["正面"] * 4 + ["负面"] * 4


def test_majority_floor_breaks_ties_by_name():
    floor = MajorityFloor()
    floor.fit(TEXTS, LABELS)
    assert floor.predict(["x", "y"]) == ["正面", "正面"]


@pytest.mark.parametrize(
    "labels", [LABELS, ["酒店", "购物", "酒店", "购物"] * 2, list("甲乙丙丁") * 2]
)
def test_linear_floor_saves_and_loads_to_the_same_answers(tmp_path, labels):
    pytest.importorskip("sklearn")
    floor = LinearFloor()
    floor.fit(TEXTS, labels)
    size = floor.save(tmp_path / "floor.npz")
    again = LinearFloor.load(tmp_path / "floor.npz")
    unseen = [*TEXTS, "服务态度恶劣\n很失望", "", "满意", "完全没见过的字龘龖"]
    assert again.predict(unseen) == floor.predict(unseen)
    assert floor.predict(TEXTS) == labels
    assert size == (tmp_path / "floor.npz").stat().st_size > 0


def test_linear_floor_refuses_one_class():
    with pytest.raises(DataError, match="two labels"):
        LinearFloor().fit(GOOD, ["正面"] * 4)


def test_linear_floor_refuses_pickles(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, grams=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ModelError, match="not a saved"):
        LinearFloor.load(path)
