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
from click.testing import CliRunner
from PIL import Image

import gansmith
from gansmith.cli import main

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
    "a wrong verb": ["-m", "gansmith", "tarin"],
    "a wrong recipe": ["-m", "gansmith", "train", "gann"],
    "a wrong top-level key": ["-m", "gansmith", "train", "--n_epoch", "3"],
    "a wrong value": ["-m", "gansmith", "train", "infogan", "--batch_size", "0"],
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
def test_it_answers_in_four_tenths_of_a_second_without_anything_heavy(args: list[str], tmp_path: Path) -> None:
    done, took = python(["-X", "importtime", *args], tmp_path)
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "gansmith" in modules and "gansmith.errors" in modules  # the list is read rightly
    assert not sorted(name for name in modules if name.partition(".")[0] in HEAVY)
    assert took < 0.4 or min(python(args, tmp_path)[1] for _ in range(3)) < 0.4


# ---- which way imports point -----------------------------------------------------------------------------------

# From the top down; a module imports those of lower floors and of its own part. The longest name that fits counts.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"papers.reproduction", "compare", "exactness", "translation"},
    {"comparison"},
    {"series"},
    {"training"},
    {"run.record"},
    {"papers.figures", "papers.points"},
    {"portable.publish", "portable.formats"},
    {"portable"},
    {"evaluation"},
    {"inference"},
    {"build", "hub"},
    {"engine", "state", "run.folder"},
    {"recipe"},
    {"augment"},
    {"games"},
    {"players", "objectives", "penalties", "priors", "schedules"},
    {"papers", "trust"},
    {"networks", "data", "run", "checkpoint", "distributed"},
    {"metrics", "sections", "launch", "world", "batch"},
    {"schema"},
    {"weights", "run.atomic"},
    {"errors", "_version", "strict_json", "allocator", "cuda_math", "tables"},
]
# What the lowest parts import of gansmith besides themselves.
LEAVES = {
    "networks": {"errors", "metrics", "schema", "weights"},
    "data": {"errors", "schema", "sections", "batch", "run.atomic"},
    "metrics": {"cuda_math", "errors", "weights"},
    "run": {"errors", "strict_json", "run.atomic"},
    "objectives": {"schema"},
    "penalties": {"errors", "schema"},
    "priors": {"schema"},
    "players": {"batch", "errors", "schema"},
    "schedules": {"errors", "schema"},
    "checkpoint": {"errors", "_version", "strict_json"},
    "distributed": {"errors", "launch", "world"},
    "launch": {"errors"},
    "schema": {"errors"},
    "sections": {"schema"},
    "weights": {"errors"},
    **dict.fromkeys(("batch", "world", "errors", "allocator", "strict_json", "tables", "_version"), set()),
}
PLACES = sorted(set.union(*FLOORS), key=len, reverse=True)


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name below gansmith, its syntax tree) of every module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(sources())


def imports(name: str, tree: ast.Module) -> set[str]:
    """The modules of gansmith that one imports anywhere in it, but for the types that a checker alone looks at."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inner = {one.removeprefix("gansmith.") for one in found if one.startswith("gansmith.")}
    return {one if one in MODULES else one.rpartition(".")[0] for one in inner} - {""}


# gansmith/__init__.py names the public ones lazily.
EDGES = [(name, target) for name, tree in MODULES.items() if name for target in sorted(imports(name, tree))]


def place(dotted: str) -> str:
    return next(one for one in PLACES if dotted == one or dotted.startswith(f"{one}."))


def floor(dotted: str) -> int:
    [at] = [i for i, places in enumerate(FLOORS) if place(dotted) in places]
    return at


def test_imports_point_down() -> None:
    assert len(EDGES) > 100 and {place(name) for name in MODULES if name} == set(PLACES)
    assert not [
        f"{name} imports {target}"
        for name, target in EDGES
        if place(name) != place(target) and floor(target) <= floor(name)
    ]


def test_the_lowest_parts_know_nothing_of_the_rest() -> None:
    assert not [
        f"{name} imports {target}"
        for name, target in EDGES
        if place(name) in LEAVES and place(target) not in {place(name), *LEAVES[place(name)]}
    ]


def test_games_meet_nothing_but_their_parts() -> None:
    allowed = {"batch", "errors", "games", "networks", "objectives", "penalties", "players", "priors", "schema"}
    assert {place(target) for name, target in EDGES if place(name) == "games"} <= allowed


def test_one_family_imports_no_other() -> None:
    """Networks share `blocks` and frozen features; games what every game is, and the game that some refine."""
    shared = {
        "networks.blocks",
        "networks.perceptual",
        "games.game",
        "games.critique",
        "games.pool",
        "games.two_player",
    }
    for kind in ("networks", "games"):
        assert {target for name, target in EDGES if place(name) == place(target) == kind} <= shared


def test_no_imports_go_in_a_circle() -> None:
    left = {name: {target for one, target in EDGES if one == name} for name in MODULES}
    while ends := [name for name, targets in left.items() if not targets & set(left)]:
        for name in ends:
            del left[name]
    assert not left


def test_no_code_comes_out_of_files() -> None:
    """No pickle in any guise: a checkpoint or a recipe from a stranger runs nothing."""
    names = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "yaml.load", "yaml.unsafe_load"}
    wrong = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [one for one in imported if one.partition(".")[0] in ("pickle", "dill", "marshal", "shelve")]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                safe = called == "torch.load" and name == "weights" and keywords.get("weights_only") == "True"
                odd = (called in names and not safe) or (
                    called.endswith("np.load") and keywords.get("allow_pickle") == "True"
                )
                wrong += [f"{name}: {called}"] * (odd or keywords.get("shell") == "True")
    assert wrong == ["schema: eval"]  # of the types in the signatures of what is imported already


def test_modules_are_imported_by_name_where_trust_is_asked_and_in_tables_alone() -> None:
    importing = {name for name, tree in MODULES.items() if "import_module" in ast.unparse(tree)}
    assert importing == {"", "recipe", "data.load"}


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
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in order in one folder, trainings shortened to 3 rounds, or to 3 more where a run goes on."""
    monkeypatch.chdir(tmp_path)
    Path("PICTURES").mkdir()
    Image.new("L", (32, 32)).save("PICTURES/a.png")
    Image.new("L", (32, 32)).save("PICTURE", "PNG")

    def run(*words: str) -> None:
        done = CliRunner().invoke(main, list(words))
        said = f"gansmith {shlex.join(words)}\n{done.output}"
        assert done.exit_code == 0 and (done.exception is None or isinstance(done.exception, SystemExit)), said

    more = 0
    for words in commands():
        if "FOLDER" in words:  # of one's own pictures
            continue
        for found, recipe in re.findall(r"(runs/(\w+)-\w+-001)", shlex.join(words)):
            if not Path(found).exists():  # which another command would have made
                run("train", recipe, "--steps", "3", "--quiet")
        if words[0] == "train" and "--dry-run" not in words:
            more += 3
            if "--minutes" in words:
                at = words.index("--minutes")
                words = words[:at] + words[at + 2 :]
            words = [*words, "--steps", str(more)]
        if words[0] == "compare":
            words = [*words, "--steps", "3", "--seeds", "1", "--n", "50"]
        if words[0] == "verify":
            words = [*words, "--steps", "2"]
        if words[0] == "evaluate":
            words = [*words, "--n", "200"]
        run(*words)
    assert Path("runs").is_dir()


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
