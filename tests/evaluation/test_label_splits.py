from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation.label_splits import Amount, Split, draw_splits, read_split, write_split

CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0] * 200 + [1] * 60 + [2] * 14)
NAMES = [f"{CLASSES[label]}/{number:03}.png" for number, label in enumerate(LABELS.tolist())]
ONE, TEN, ALL = Amount(share=0.01), Amount(share=0.1), Amount(share=1.0)


def drawn(
    *amounts: Amount,
    draws: int = 3,
    seed: int = 0,
    labels: Tensor = LABELS,
    names: list[str] = NAMES,
) -> list[Split]:
    return draw_splits(labels, names, CLASSES, amounts, draws=draws, seed=seed)


def named(split: Split, names: list[str] = NAMES) -> set[str]:
    return {names[row] for row in split.rows.tolist()}


def test_shares_are_of_each_class_and_at_least_one() -> None:
    counts = {split.title: LABELS[split.rows].bincount().tolist() for split in drawn(ONE, TEN, ALL)}
    assert counts == {"1 %": [2, 1, 1], "10 %": [20, 6, 1], "all labels": [200, 60, 14]}


def test_so_many_per_class_are_the_same_number_of_each() -> None:
    for split in drawn(Amount(per_class=5)):
        assert split.title == "5 per class"
        assert LABELS[split.rows].tolist() == [0] * 5 + [1] * 5 + [2] * 5
        for label in range(3):
            assert sorted(split.places[LABELS[split.rows] == label].tolist()) == list(range(5))


def test_smaller_splits_of_a_draw_are_parts_of_larger_ones() -> None:
    splits = drawn(ONE, TEN, Amount(per_class=1), Amount(per_class=10))
    sets = {(split.title, split.draw): named(split) for split in splits}
    for draw in range(3):
        assert sets["1 %", draw] < sets["10 %", draw]
        assert sets["1 per class", draw] < sets["10 per class", draw]
        assert sets["1 per class", draw] <= sets["1 %", draw]
        assert not sets["10 %", draw] < sets["10 %", (draw + 1) % 3]


def test_a_split_is_fixed_by_seed_and_draw() -> None:
    before, again, other = drawn(TEN), drawn(TEN, ONE, draws=2), drawn(TEN, seed=1)
    assert [split.rows.tolist() for split in before[:2]] == [s.rows.tolist() for s in again[:2]]
    assert len({frozenset(named(split)) for split in [*before, *other]}) == 6
    # for good: lists that people keep must not change with a release
    assert sorted(named(drawn(Amount(per_class=2), draws=1)[0])) == PUBLISHED


PUBLISHED = ["a/064.png", "a/066.png", "b/248.png", "b/255.png", "c/261.png", "c/263.png"]


def test_a_split_does_not_depend_on_the_order_of_the_files_or_on_other_classes() -> None:
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    moved = [NAMES[row] for row in order.tolist()]
    for before, after in zip(
        drawn(TEN), drawn(TEN, labels=LABELS[order], names=moved), strict=True
    ):
        assert named(before) == named(after, moved)
    two = draw_splits(LABELS[:260], NAMES[:260], CLASSES[:2], [TEN], draws=1, seed=0)
    assert named(two[0]) == {name for name in named(drawn(TEN)[0]) if not name.startswith("c")}


def test_of_all_labels_there_is_one_draw_only() -> None:
    assert [split.draw for split in drawn(ALL, TEN)] == [0, 0, 1, 2]
    labels, names = torch.tensor([0, 1]), ("a", "b")  # a share of one image is that image
    splits = draw_splits(labels, names, ("x", "y"), [TEN, ALL], draws=5, seed=0)
    assert [(split.title, split.draw) for split in splits] == [("10 %", 0), ("all labels", 0)]


def test_rows_without_names_are_known_by_their_number() -> None:
    splits = draw_splits(LABELS, (), CLASSES, [TEN], draws=2, seed=0)
    assert splits[0].rows.tolist() != splits[1].rows.tolist()
    assert len(splits[0].rows) == 27


def test_amounts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DataError, match="class c has 14 train images, fewer than 15 per class"):
        drawn(Amount(per_class=15))
    for share, count in ((1.5, 0), (-0.1, 0), (0.0, 0), (0.0, -3), (float("nan"), 0)):
        with pytest.raises(UsageError):
            Amount(share=share, per_class=count)
    with pytest.raises(UsageError, match="twice"):
        drawn(TEN, TEN)
    with pytest.raises(UsageError, match="draws"):
        drawn(TEN, draws=0)


def test_a_split_is_written_and_read_back(tmp_path: Path) -> None:
    for split in drawn(TEN, Amount(per_class=3)):
        path = tmp_path / "split.txt"
        write_split(path, split, NAMES)
        found = read_split(path, LABELS, NAMES, CLASSES)
        assert torch.equal(found.rows, split.rows)
        for label in range(3):
            own = found.places[LABELS[found.rows] == label].tolist()
            assert sorted(own) == list(range(len(own)))


def test_a_published_list_of_bare_file_names_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1percent.txt"
    path.write_text("# as SimCLR's\n003.png\n\n./b/210.png\n  265.png \n")
    assert read_split(path, LABELS, NAMES, CLASSES).rows.tolist() == [3, 210, 265]
    assert read_split(path, LABELS, NAMES, CLASSES).title == "1percent.txt"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a/003.png\nd/9.png\n", "names d/9.png, which the train images do not have"),
        ("# nothing\n", "names nothing"),
        ("a/003.png\nb/210.png\n", "names no image of class c"),
        ("a/003.png\nb/210.png\nc/265.png\n003.png\n", "names a/003.png twice"),
    ],
)
def test_lists_that_do_not_fit_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=reason):
        read_split(path, LABELS, NAMES, CLASSES)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the split"):
        read_split(tmp_path / "none.txt", LABELS, NAMES, CLASSES)


def test_a_bare_name_that_two_images_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("1.png\n")
    with pytest.raises(DataError, match=r"1\.png, which"):
        read_split(path, torch.tensor([0, 1]), ["a/1.png", "b/1.png"], ("a", "b"))
