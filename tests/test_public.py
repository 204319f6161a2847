"""The public face: names, what is not imported, how fast it answers, which way imports point, and the README."""

import ast
import importlib
import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gansmith

PACKAGE = Path(gansmith.__file__).parent
ROOT = PACKAGE.parents[1]
HEAVY = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "rich", "safetensors", "tensorboard")

# ---- names -----------------------------------------------------------------------------------------------------


def test_all_is_sorted_complete_and_importable() -> None:
    assert gansmith.__all__ == sorted(gansmith.__all__)
    assert set(gansmith._HOMES) < set(gansmith.__all__) and dir(gansmith) == gansmith.__all__
    for name in gansmith.__all__:
        thing = getattr(gansmith, name)
        assert name == "__version__" or thing.__doc__, name
    for name, home in gansmith._HOMES.items():
        assert getattr(gansmith, name) is getattr(importlib.import_module(f"gansmith.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = gansmith.trian
    namespace: dict[str, object] = {}
    exec("from gansmith import *", namespace)
    assert set(gansmith.__all__) <= set(namespace)


def test_a_type_checker_sees_the_same_names() -> None:
    """What is imported lazily is named a second time under TYPE_CHECKING."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == {name: f"gansmith.{home}" for name, home in gansmith._HOMES.items()}
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", gansmith.__version__)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in text and "_version.py" in text


# ---- light and fast --------------------------------------------------------------------------------------------

LIGHT = {
    "import": ["-c", "import gansmith; gansmith.__version__, gansmith.UserError, gansmith.recipe_names()"],
    "--help": ["-m", "gansmith", "--help"],
    "train --help": ["-m", "gansmith", "train", "--help"],
    "sample --help": ["-m", "gansmith", "sample", "--help"],
    "a wrong verb": ["-m", "gansmith", "tarin"],
    "a wrong flag": ["-m", "gansmith", "train", "--n_epoch", "3"],
    "a wrong value": ["-m", "gansmith", "train", "infogan", "--batch_size", "0"],
    "a dry run": ["-m", "gansmith", "train", "wgan_gp", "--dry-run"],
    "recipes ls": ["-m", "gansmith", "recipes", "ls"],
}


def python(args: list[str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """A process of its own, and the seconds that the processor worked for it: other load does not count."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("args", LIGHT.values(), ids=LIGHT)
def test_nothing_heavy_is_imported_to_answer(args: list[str], tmp_path: Path) -> None:
    done, _ = python(["-X", "importtime", *args], tmp_path)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "gansmith" in modules and "gansmith.errors" in modules  # the list is read rightly
    assert not sorted(name for name in modules if name.partition(".")[0] in HEAVY)


@pytest.mark.parametrize("args", LIGHT.values(), ids=LIGHT)
def test_it_answers_in_less_than_four_tenths_of_a_second(args: list[str], tmp_path: Path) -> None:
    assert min(python(args, tmp_path)[1] for _ in range(3)) < 0.4


# ---- which way imports point -----------------------------------------------------------------------------------

# From the top down; a module may import those of lower floors, and of its own floor what is named in SAME_FLOOR.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"exactness", "profiling", "reproduction", "time_to_quality"},
    {"training"},
    {"record"},
    {"evaluation", "figures"},
    {"measures"},
    {"inference", "run"},
    {"build"},
    {"recipe", "state"},
    {"games", "schedules"},
    {"players", "objectives", "penalties", "priors"},
    {"networks", "data", "report", "metrics", "checkpoint", "receipts", "distributed"},
    {"schema", "launch", "world"},
    {"errors", "_version", "strict_json", "allocator", "cuda_math"},
]
# What imports nothing of gansmith but these.
LEAVES = {
    "networks": {"schema"},
    "data": {"errors"},
    "report": {"errors", "strict_json"},
    "metrics": {"cuda_math", "errors", "schema"},
    "objectives": set(),
    "penalties": {"errors"},
    "priors": {"schema"},
    "players": {"errors", "schema"},
    "schedules": {"errors", "schema", "players"},
    "checkpoint": {"errors", "_version", "strict_json"},
    "receipts": {"errors", "_version", "strict_json"},
    "distributed": {"errors", "launch", "world"},
    "world": set(),
    "launch": {"errors"},
    "schema": {"errors"},
    "errors": set(),
    "allocator": set(),
    "strict_json": set(),
    "_version": set(),
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name below gansmith, its syntax tree) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(name: str, tree: ast.Module) -> set[str]:
    """The modules of gansmith that one imports anywhere in it, as far as their first two parts: "data.stream"."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {inner.removeprefix("gansmith.") for inner in found if inner.startswith("gansmith.")}


EDGES = [
    (name, target)
    for name, tree in sources()
    if name  # gansmith/__init__.py names the public ones lazily
    for target in sorted(imports(name, tree))
]


def floor(part: str) -> int:
    [at] = [i for i, parts in enumerate(FLOORS) if part in parts]
    return at


def part_of(dotted: str) -> str:
    return dotted.partition(".")[0]


def test_every_module_has_its_floor() -> None:
    parts = {part_of(name) for name, _ in sources() if name}
    assert parts <= set.union(*FLOORS) and len(EDGES) > 60
    assert {"cli", "training", "build", "games", "players", "networks", "data", "report"} <= parts


def test_imports_point_down() -> None:
    wrong = []
    for name, target in EDGES:
        here, there = part_of(name), part_of(target)
        if here != there and there in set.union(*FLOORS) and floor(there) <= floor(here):
            # The names of games and networks, which hold strings, are all that a recipe may know of them.
            wrong.append(f"{name} imports {target}")
    assert not wrong


def test_the_lowest_parts_know_nothing_of_the_rest() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, target in EDGES
        if part_of(name) in LEAVES and part_of(target) not in {part_of(name), *LEAVES[part_of(name)]}
    ]
    assert not wrong


def test_nothing_below_build_knows_a_recipe() -> None:
    above = set.union(*FLOORS[: floor("build") + 1])
    knowing = {part_of(name) for name, target in EDGES if part_of(target) == "recipe"}
    assert "build" in knowing and knowing <= above


def test_games_meet_nothing_but_their_parts() -> None:
    allowed = {"games", "players", "objectives", "penalties", "priors", "networks", "schema", "errors"}
    wrong = [f"{name} imports {target}" for name, target in EDGES if part_of(name) == "games"]
    assert not [edge for edge in wrong if part_of(edge.rpartition(" ")[2]) not in allowed]


def test_one_network_family_imports_no_other() -> None:
    for kind in ("networks", "games"):
        for name, target in EDGES:
            if part_of(name) == kind == part_of(target):
                shared = {"games.game", "games.critique"}
                assert kind == "games" and ".".join(target.split(".")[:2]) in shared, f"{name} imports {target}"


def test_no_code_comes_out_of_files() -> None:
    """No pickle in any guise: a checkpoint or a recipe from a stranger runs nothing."""
    names = {"eval", "exec", "compile", "__import__"}
    wrong = []
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wrong += [
                    a.name for a in node.names if a.name.partition(".")[0] in ("pickle", "dill", "marshal", "shelve")
                ]
            elif isinstance(node, ast.ImportFrom) and node.module:
                wrong += [node.module for _ in [0] if node.module.partition(".")[0] in ("pickle", "dill", "marshal")]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if called in names or called in ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"):
                    wrong.append(f"{name}: {called}")
                if called in ("np.load", "numpy.load"):
                    wrong += [f"{name}: np.load may unpickle"] * (keywords.get("allow_pickle") == "True")
                if keywords.get("shell") == "True":
                    wrong.append(f"{name}: a shell")
    assert not wrong


# ---- the README ------------------------------------------------------------------------------------------------


def readme_lines() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def commands() -> list[list[str]]:
    """The words of every `gansmith ...` of a README's sh blocks, those after && too."""
    found = []
    for line in readme_lines():
        if line.rstrip().endswith("# not run"):
            continue
        for part in line.split("&&"):
            command = part.strip().removeprefix(".venv/bin/")
            if command.startswith("gansmith "):
                found.append(shlex.split(command, comments=True)[1:])
    return found


def test_the_readme_has_commands_and_each_is_one_line() -> None:
    assert len(commands()) >= 5
    assert not [line for line in readme_lines() if line.endswith("\\")]
    verbs = {words[0] for words in commands()}
    assert {"train", "sample", "interpolate", "recipes", "verify"} <= verbs


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_links_of_a_readme_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert len(links) > 3
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """All in order in one folder, trainings shortened to 3 rounds, or to 3 more where a run goes on."""
    more = 0
    for words in commands():
        if words[0] == "train" and "--dry-run" not in words:
            more += 3
            words = [*words, "--steps", str(more)]
        if words[0] == "verify":
            words = [*words, "--steps", "2"]
        done, _ = python(["-m", "gansmith", *words], tmp_path)
        assert done.returncode == 0, f"gansmith {shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert blocks
    short = "\n".join(blocks).replace("n_epochs=5", "steps=3")
    assert "steps=3" in short
    done, _ = python(["-c", f"{short}\nassert pictures.shape == (64, 1, 28, 28), pictures.shape"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "from_python.py"
    source = str(Path(gansmith.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, example],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples.png").exists() and (tmp_path / "path.png").exists()
