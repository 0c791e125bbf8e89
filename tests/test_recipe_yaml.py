"""Recipe files: what they mean, and that anything else is refused with its line."""

from __future__ import annotations

import itertools
import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.errors import CheckpointError, UsageError
from moco.found_recipe import NAMES, find_recipe
from moco.plain_yaml import MOST_BYTES
from moco.recipe import Recipe
from moco.recipe_files import field_names, flat_fields, recipe_yaml, set_fields, write_recipe
from moco.recipe_yaml import read_recipe_file
from moco.recipes import CIFAR10_RESNET18, MOCO_V2, MOCO_V3_RESNET50, RECIPES
from moco.small import small_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
# the file's text after its first line, "base: moco-v2"; the line of the error and its words
WRONG_FIELDS: dict[str, tuple[str, int, str]] = {
    "unknown field": (
        "temprature: 0.1",
        2,
        "unknown field 'temprature'; did you mean 'temperature'?",
    ),
    "unknown below": (
        "optimizer:\n  lerning_rate: 0.1",
        3,
        "unknown field 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'?",
    ),
    "other part's": (
        "optimizer: {temperature: 0.1}",
        2,
        "unknown field 'optimizer.temperature'; did you mean 'temperature'?",
    ),
    "other people's": ("lr: 0.1", 2, "unknown field 'lr'; did you mean 'optimizer.learning_rate'?"),
    "number as name": ("1: 2", 2, "unknown field '1'; the fields are"),
    "merge": ("<<: {epochs: 3}", 2, "unknown field '<<'"),
    "long name": ("? " + "k" * 5000 + "\n: 1", 2, "unknown field 'kkk"),
    "list as name": ("? [a]\n: 1", 2, "a field's name must be one word"),
    "text": ("\ntemperature: warm", 3, "temperature must be a number, got 'warm'"),
    "long text": ("temperature: " + "k" * 5000, 2, "temperature must be a number, got 'kkk"),
    "not whole": ("batch_size: 2.5", 2, "batch_size must be a whole number, got 2.5"),
    "true": ("batch_size: true", 2, "batch_size must be a whole number, got True"),
    "nothing": ("temperature:", 2, "temperature must be a number, got None"),
    "number for text": ("source: 5", 2, "source must be text, got 5"),
    "list's length": (
        "views:\n  jitter:\n  - 1\n  - 2",
        3,
        "views.jitter must have 4 values, got 2",
    ),
    "choice": (
        "encoder.head: mpl",
        2,
        "encoder.head must be one of linear, mlp, mlp_bn, got 'mpl'",
    ),
    "no number": ("loss_scale: .nan", 2, "loss_scale must be a finite number"),
    "octal": ("batch_size: 0400", 2, "YAML reads 0400 as another number"),
    "minutes": ("epochs: 1:30", 2, "YAML reads 1:30 as another number"),
    "no date": ("source: 2001-99-99", 2, "the value of 'source' is not readable"),
    "too long a number": ("epochs: " + "9" * 5000, 2, "the value of 'epochs' is not readable"),
    "odd list": ("source: [{[1]: 2}]", 2, "the value of 'source' is not readable"),
    "twice": (
        "temperature: 0.1\ntemperature: 0.1",
        3,
        "'temperature' is given twice, first in line 2; keep one of them",
    ),
    "twice, written otherwise": (
        "optimizer:\n  learning_rate: 0.1\noptimizer.learning_rate: 0.2",
        4,
        "'optimizer.learning_rate' is given twice, first in line 3",
    ),
    "twice, by its last part": (
        "learning_rate: 0.1\noptimizer: {learning_rate: 0.2}",
        3,
        "'optimizer.learning_rate' is given twice, first in line 2",
    ),
    "part twice": (
        "optimizer: {learning_rate: 0.1}\noptimizer: {weight_decay: 0.2}",
        3,
        "'optimizer' is given twice, first in line 2",
    ),
    "base twice": ("epochs: 3\nbase: moco-v2", 3, "'base' is given twice, first in line 1"),
    "out of range": ("epochs: 2\ntemperature: -1", 3, "temperature must be from 0.0001, got -1"),
    "out of range below": (
        "epochs: 2\nviews:\n  gray_probability: 2",
        4,
        "views.gray_probability must be 0 to 1, got 2",
    ),
    "not together": ("epochs: 2\nbatch_size: 100", 3, "batch_size 100 does not split"),
    "not together, two": (
        "dictionary:\n  size: 10\nepochs: 2",
        3,
        "queue size 10 is smaller than the batch 256",
    ),
    "value for a part": ("optimizer: adam", 2, "'optimizer' holds fields; write them below it"),
    "nothing for a part": ("optimizer:\nepochs: 3", 2, "'optimizer' holds fields"),
    "list for a part": ("optimizer: [a]", 2, "'optimizer' holds fields"),
    "fields for a value": ("temperature:\n  a: 1", 3, "'temperature' takes a value"),
    "way out": ("name: ../../x", 2, "cannot name a directory; write a short one without '/'"),
    "path": ("name: a/b", 2, "cannot name a directory"),
    "no name": ("name: ''", 2, "cannot name a directory"),
    "dots": ("name: '..'", 2, "cannot name a directory"),
    "long for a name": ("name: " + "k" * 300, 2, "cannot name a directory"),
    "half a letter": ('name: "\\ud800"', 2, "cannot name a directory"),
    "anchor": ("name: &a b\nsource: *a", 2, "anchors and aliases (& and *) are not read"),
    "bomb": (
        "a: &a [x, x]\n"
        + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefg")),
        2,
        "anchors and aliases",
    ),
    "code": ("name: !!python/object/apply:os.system [touch ran]", 2, "tags (!) are not read"),
    "harmless tag": ("epochs: !!int 3", 2, "tags (!) are not read"),
    "depth": ("name: " + "[" * 5000, 2, "nested too deeply"),
    "depth below": ("- " * 3000, 2, "not readable as YAML"),
    "two documents": ("---\nepochs: 3", 2, "a second document begins here"),
    "tab": ("optimizer:\n\tlearning_rate: 0.1", 3, "a tab stands here; indent with spaces"),
    "open list": ("temperature: [1\nepochs: 3", 3, "not readable as YAML"),
    "open list at the end": ("temperature: [1", 2, "not readable as YAML"),
    "open quote": ("name: 'abc\n\n", 2, "not readable as YAML"),
    "no colon": ("epochs 3\ntemperature: 1", 2, "not readable as YAML"),
    "indented": ("  epochs: 3", 2, "not readable as YAML"),
    "two colons": ("name: a: b", 2, "not readable as YAML"),
    "escape": ('name: "\\q"', 2, "not readable as YAML"),
    "NUL": ("a\0b: 1", 2, "a character that no text has"),
}
WRONG_FILES: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", ":1", "the file is empty; begin it with a line such as 'base: moco-v2'"),
    "comment": (b"# nothing\n", ":1", "the file is empty"),
    "list": (b"# a\n- b\n", ":2", "a recipe file holds fields"),
    "text": (b"\n\nmoco-v2\n", ":3", "a recipe file holds fields"),
    "no base": (
        b"temperature: 0.1\n",
        ":1",
        "neither a base nor a whole recipe ('name' is missing); add a line such as 'base: moco-v2'",
    ),
    "unknown base": (
        b"# a\nbase: moco-v4\n",
        ":2",
        "unknown base 'moco-v4'; did you mean 'moco-v2'?",
    ),
    "base like none": (b"base: zzz\n", ":1", "the recipes are small, moco-v1"),
    "file as base": (b"base: other.yaml\n", ":1", "unknown base 'other.yaml'"),
    "list as base": (b"base: [moco-v2]\n", ":1", "base must be a recipe's name, got ['moco-v2']"),
    "nothing as base": (b"base:\n", ":1", "base must be a recipe's name"),
    "wrong type over small": (
        b"base: small\nepochs: many\n",
        ":2",
        "epochs must be a whole number, got 'many'",
    ),
    "binary": (bytes(range(256)), ":2", "this is not UTF-8 text; save it as UTF-8"),
    "latin-1": (b"base: moco-v2\n#\nname: caf\xe9\n", ":3", "this is not UTF-8 text"),
    "UTF-16": ("base: moco-v2".encode("utf-16"), ":1", "this is not UTF-8 text"),
    "other YAML": (b"%YAML 9.9\n---\nbase: moco-v2\n", ":1", "not readable as YAML"),
    "large": (b"#" * (MOST_BYTES + 1), "", "more than 64 kB is no recipe; name another file"),
}


def written(folder: Path, content: str | bytes, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path | str) -> str:
    began = time.monotonic()
    with pytest.raises(UsageError) as caught:
        find_recipe(str(path))
    assert time.monotonic() - began < 2
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 1400
    return line


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_wrong_field_is_told_with_its_line_and_what_to_do(case: str, tmp_path: Path) -> None:
    text, line, told = WRONG_FIELDS[case]
    path = written(tmp_path, f"base: moco-v2\n{text}\n")
    found = refusal(path)
    assert found.startswith(f"{path}:{line}: "), found
    assert told in found
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_told_with_its_line_and_what_to_do(case: str, tmp_path: Path) -> None:
    content, line, told = WRONG_FILES[case]
    path = written(tmp_path, content)
    found = refusal(path)
    assert found.startswith(f"{path}{line}: "), found
    assert told in found


def test_a_directory_a_pipe_and_nothing_at_all_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "this is no ordinary file" in refusal(tmp_path / "pipe.yaml")
    assert "this is no ordinary file" in refusal("/dev/zero")
    assert "this is a directory" in refusal(tmp_path)
    written(tmp_path, "base: moco-v2")
    near = f"No such file or directory; did you mean {tmp_path / 'mine.yaml'}?"
    assert refusal(tmp_path / "mine.yml") == f"{tmp_path / 'mine.yml'}: {near}"
    assert refusal(tmp_path / "none" / "a.yaml").endswith("; name a recipe file")
    assert "null" in refusal("a\0.yaml")
    (tmp_path / "link.yaml").symlink_to("link.yaml")
    assert "symbolic links" in refusal(tmp_path / "link.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = written(tmp_path, "base: moco-v2")
    path.chmod(0)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("asked", ["", "moco-v4", "mine", "a/b"])
def test_a_text_that_is_neither_name_nor_file_is_an_unknown_recipe(asked: str) -> None:
    assert refusal(asked).startswith(f"unknown recipe '{asked}'; ")


@pytest.mark.parametrize(
    "text",
    [
        "base: moco-v2\noptimizer.learning_rate: 1e-1\ndictionary.size: 1024",
        "base: moco-v2\noptimizer:\n  learning_rate: 0.1\ndictionary: {size: 1024}\nviews: {}",
        "dictionary: {size: 1024}\nlearning_rate: 0.1\nbase: 'moco-v2'",
        "\ufeffbase: moco-v2\r\nlearning_rate: 0.1\r\nsize: 1024",
        "---\n{base: moco-v2, size: 1024, learning_rate: 0.1}\n...\n",
    ],
)
def test_fields_can_be_written_in_full_below_their_part_or_by_the_last_part(
    text: str, tmp_path: Path
) -> None:
    found = find_recipe(str(written(tmp_path, text)))
    expected = set_fields(MOCO_V2, ["learning_rate=0.1", "size=1024", "name=mine"])
    assert found.recipe == replace(expected, source="moco-v2 with changes")
    assert found.name == "mine"


def test_name_and_source_are_the_file_s_or_say_what_changed(tmp_path: Path) -> None:
    same = find_recipe(written(tmp_path, "base: moco-v2\ntemperature: 0.2"))
    assert same.recipe == replace(MOCO_V2, name="mine")
    own = find_recipe(written(tmp_path, "base: moco-v2\nname: ours\nsource: us\ntemperature: 1"))
    assert own.name == "ours"
    assert own.recipe == set_fields(MOCO_V2, ["name=ours", "source=us", "temperature=1"])


def test_a_known_name_is_the_recipe_even_beside_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "base: moco-v1", "moco-v2")
    assert find_recipe("moco-v2").recipe == MOCO_V2
    changed = find_recipe(Path("moco-v2")).recipe
    assert changed is not None
    assert changed.temperature == 0.07
    written(tmp_path, "base: moco-v1", "plain")  # any ending, where it is there
    assert find_recipe("plain").name == "plain"
    for name in NAMES:
        assert find_recipe(name).recipe == RECIPES.get(name)
    assert find_recipe(MOCO_V2).recipe is MOCO_V2


@pytest.mark.parametrize("name", [*RECIPES, "small"])
def test_a_run_and_its_recipe_yaml_are_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = small_recipe(300, "cpu")[0] if name == "small" else RECIPES[name]
    write_recipe(tmp_path / "recipe.yaml", recipe)
    for asked in (tmp_path, tmp_path / "recipe.yaml", str(tmp_path)):
        found = find_recipe(asked)
        assert (found.name, found.recipe) == (name, recipe)
    (tmp_path / "recipe.yaml").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is not a"):
        find_recipe(tmp_path)


def test_a_whole_recipe_without_one_field_is_no_whole_recipe(tmp_path: Path) -> None:
    kept = [line for line in recipe_yaml(MOCO_V2).splitlines() if "shuffle_keys" not in line]
    path = written(tmp_path, "\n".join(kept))
    assert "('shuffle_keys' is missing)" in refusal(path)
    path.write_text("\n".join([*kept, "base: moco-v1"]))
    assert find_recipe(path).recipe == MOCO_V2


def test_the_small_recipe_s_changes_wait_for_the_images(tmp_path: Path) -> None:
    found = find_recipe(written(tmp_path, "base: small\ntemperature: 0.3\nepochs: 7"))
    assert (found.name, found.recipe) == ("mine", None)
    small, _ = small_recipe(300, "cpu", epochs=7)
    expected = set_fields(small, ["temperature=0.3", "name=mine"])
    assert found.over(small) == replace(expected, source="small with changes")
    assert found.over(small, {"temperature"}) == replace(small, name="mine")
    assert find_recipe("small").over(small) == small


def test_the_example_is_the_shortened_cifar_recipe() -> None:
    encoder = replace(
        CIFAR10_RESNET18.encoder, stem="strided", width=0.5, stage_blocks=(1, 1, 1, 1)
    )
    shortened = replace(  # as tests/learning/test_cifar10.py has it
        CIFAR10_RESNET18,
        name="cifar10_cpu",
        source="cifar10-resnet18 with changes",
        encoder=encoder,
        dictionary=replace(CIFAR10_RESNET18.dictionary, size=1024),
        batch_size=64,
        batch_norm_groups=4,
        epochs=5,
    )
    assert find_recipe(EXAMPLES / "cifar10_cpu.yaml").recipe == shortened


FINITE = st.floats(min_value=1e-4, max_value=1e6)


@settings(max_examples=15, deadline=None)
@given(
    temperature=FINITE,
    rate=FINITE,
    source=st.text(max_size=40),
    milestones=st.lists(st.integers(0, 10**6), max_size=5),
)
def test_any_values_come_back_from_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    temperature: float,
    rate: float,
    source: str,
    milestones: list[int],
) -> None:
    optimizer = replace(MOCO_V2.optimizer, learning_rate=rate, milestones=tuple(milestones))
    recipe = replace(MOCO_V2, temperature=temperature, source=source, optimizer=optimizer)
    path = written(tmp_path_factory.getbasetemp(), recipe_yaml(recipe), "any.yaml")
    assert find_recipe(path).recipe == recipe


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_anything_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), b"base: moco-v2\n" + content, "odd.yaml")
    refusal = ""
    try:
        find_recipe(path)
    except UsageError as error:
        refusal = str(error)
    assert not refusal or refusal.startswith(f"{path}:")
    assert "\n" not in refusal


def test_lines_are_kept_for_every_field(tmp_path: Path) -> None:
    path = written(tmp_path, recipe_yaml(MOCO_V3_RESNET50))
    file = read_recipe_file(path)
    assert list(file.fields) == list(field_names(Recipe))
    texts = path.read_text().splitlines()
    for name, line in file.lines.items():
        assert texts[line - 1].strip().startswith(f"{name.rpartition('.')[2]}:")
    assert math.isclose(flat_fields(MOCO_V3_RESNET50)["optimizer.learning_rate"], 9.6)
