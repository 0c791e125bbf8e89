"""Which module may import which: a module imports only from the layers below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moco

LAYERS = [
    {
        *("errors", "schedules", "distributed", "info_nce", "lars", "plain_files", "roll_call"),
        *("pickle_builds", "prediction", "memory", "waiting"),
    },
    {"batch_norm_kernels", "info_nce_kernels", "info_nce_chunks"},
    {"batch_norm_gpu", "info_nce_gpu"},
    {"plain_yaml", "checkpoint_reading", "run_records", "info_nce_paths"},
    {"inert"},
    {"specs", "bad_limit", "dictionaries", "batch_norm", "vision_transformer", "processes"},
    {"start_spec", "data", "nonfinite", "run_lock"},
    {"recipe"},
    {"recipes", "recipe_files", "small", "contrast", "encoders", "library_models", "watchdog"},
    {"cpu_kernels", "accumulation", "doctor"},
    {"compiling", "health"},
    {"cuda_graphs"},
    {"fast_encoders"},
    {"training_step"},
    {"checkpoint", "device", "evaluation", "fitting", "recipe_yaml", "recipe_words"},
    {"build", "found_recipe", "continuation", "saving", "step_figures", "signal_figures", "probe"},
    {"machine", "trackers"},
    {"fitted_recipe", "foreign"},
    {"start"},
    {"plan", "run_directory", "loading"},
    {"progress", "demo_data", "data_tools", "found_model", "signals"},
    {"session", "plan_batches", "plan_steps", "evaluate"},
    {"queue_filling", "session_start"},
    {"pretraining", "demo", "benchmark"},
    {"time_trial", "time_to"},
    {"rehearsal"},
    {"studies"},
    {"report"},
    {"export"},
    {"cli"},
    {"__main__"},
]
RANKS = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
WITHOUT_TORCH = [
    "__init__",
    "recipe",
    "recipes",
    "specs",
    "start_spec",
    "schedules",
    "errors",
    "bad_limit",
    "prediction",
    "small",
    "studies/__init__",
    "studies/spec",
    "studies/catalogue",
    "plain_files",
    "inert/__init__",
    "inert/pickles",
    "machine/__init__",
    "machine/packages",
    "machine/check",
    "machine/container",
    "plain_yaml",
    "recipe_files",
    "recipe_yaml",
    "recipe_words",
    "found_recipe",
    "__main__",
    "cli/__init__",
    "cli/commands",
    "cli/main",
    "cli/parser",
    "cli/output",
    "cli/json_file",
    "cli/recipes",
    "cli/study_options",
    "cli/bench_options",
    "cli/bench_time_to_options",
    "cli/shared_options",
    "cli/data_options",
    "cli/evaluate_options",
    "evaluation/__init__",
    "evaluation/linear_protocols",
    "evaluation/published",
    "cli/finetune_options",
    "cli/linear_options",
    "cli/compare_options",
    "cli/embed_options",
    "cli/import_options",
    "cli/demo_options",
    "cli/report_options",
    "cli/start_options",
    "evaluation/finetune_spec",
    "doctor/__init__",
    "doctor/signs",
    "doctor/evidence",
    "doctor/rules",
    "doctor/bands",
    "doctor/diagnosis",
    "cli/doctor_options",
    "cli/doctor",
    "cli/export_options",
    "export/__init__",
    "export/format_names",
    "export/card_text",
]
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "PIL",
    "safetensors",
    "rich",
    "yaml",
    "matplotlib",
}
YAML_ALLOWED = {"plain_yaml", "recipe_files", "recipe_yaml"}
SOURCE = Path(moco.__file__).parent
FILES = {path.relative_to(SOURCE).with_suffix("").as_posix(): path for path in SOURCE.rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
each_module = pytest.mark.parametrize("name", sorted(FILES))


def imports(name: str, *, only_when_loaded: bool = False) -> set[str]:
    """Return the dotted names a module imports, not those for type checkers."""
    found: set[str] = set()
    blocks: list[ast.AST] = [TREES[name]]
    while blocks:
        node = blocks.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if only_when_loaded and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found.add(str(node.module))
        blocks += ast.iter_child_nodes(node)
    return found


def calls(name: str) -> set[str]:
    """Return what a module calls, as written."""
    nodes = ast.walk(TREES[name])
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


@each_module
def test_imports_only_what_lies_below(name: str) -> None:
    unit = name.partition("/")[0]
    used = {module.split(".")[1] for module in imports(name) if module.startswith("moco.")}
    if unit == "__init__":  # it names its modules as text and imports them when first used
        assert not used
        return
    assert unit in RANKS, f"give {unit} a place in LAYERS"
    above = {other for other in used - {unit} if RANKS[other] >= RANKS[unit]}
    assert not above, f"{name} imports {above} from its own layer or above"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_loads_without_torch(name: str) -> None:
    loaded = {module.partition(".")[0] for module in imports(name, only_when_loaded=True)}
    assert not loaded & (HEAVY - ({"yaml"} if name in YAML_ALLOWED else set()))


@each_module
def test_only_recipes_are_yaml(name: str) -> None:
    assert "yaml" not in imports(name) or name in YAML_ALLOWED


@each_module
def test_only_checkpoints_are_pickles(name: str) -> None:
    used = imports(name) & {"pickle", "shelve", "joblib", "dill", "cloudpickle", "marshal"}
    used |= calls(name) & {"torch.load", "torch.save", "np.load", "numpy.load", "save", "load"}
    used -= {"load"} if name in ("demo", "studies/cells") else set()  # moco.load
    allowed = {
        "checkpoint": {"torch.save"},
        "checkpoint_reading": {"torch.load"},
        "export/pickles": {"torch.save", "pickle"},  # what other libraries ask for, written only
    }
    assert used == allowed.get(name, set())


def test_checkpoint_never_runs_what_it_loads() -> None:
    loads = [
        node
        for node in ast.walk(TREES["checkpoint_reading"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads
    for load in loads:
        assert "weights_only=True" in {ast.unparse(keyword) for keyword in load.keywords}


@each_module
def test_only_the_command_line_prints_and_exits(name: str) -> None:
    used = calls(name) & {"print", "sys.exit", "exit", "quit", "os._exit", "input"}
    assert not used or name.startswith("cli/") or name == "__main__"


@each_module
def test_modules_and_functions_are_short_and_named_for_what_they_do(name: str) -> None:
    assert not set(name.split("/")) & {"utils", "util", "misc", "common", "helpers", "helper"}
    assert len(FILES[name].read_text().splitlines()) <= 300
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = int(node.end_lineno or 0) - node.lineno + 1
            lines -= len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert lines <= 60, f"{node.name} has {lines} lines"
