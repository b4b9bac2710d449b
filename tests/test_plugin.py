"""The plain harness knows our model and our tasks, and nothing else about it changes.

Most tests start a fresh interpreter: they are about what one holds when it starts, and need the package installed.
"""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from few_builtins import START_UP, write

import fairkv_eval
from fairkv_eval.files import resource_dir
from fairkv_eval.plugin import HarnessFinder, with_task_folder

CHECKOUT = Path(__file__).resolve().parents[1]
PTH = CHECKOUT / "autoload" / "fairkv_eval.pth"
DEMOS = {"sys_ifeval_demo", "raccoon_demo"}


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    try:
        version("fairkv-eval")
    except PackageNotFoundError:
        pytest.fail("these tests need the package installed, as `make test` does it: pip install -e .")


@pytest.fixture(scope="session")
def few_builtins(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("few_builtins"))


@pytest.fixture
def run(tmp_path):
    """Run a command away from the checkout, in a clean environment; returns the finished process, or fails."""

    def run_command(*command: object, pythonpath: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        inherited = {k: v for k, v in os.environ.items() if k not in ("FAIRKV_AUTOLOAD", "PYTHONPATH")}
        added = {"PYTHONPATH": str(pythonpath)} if pythonpath else {}
        argv = [str(part) for part in command]
        done = subprocess.run(argv, env=inherited | added | env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return run_command


@pytest.fixture
def python(run):
    """Run code in a fresh interpreter and return what its last printed line holds as JSON."""

    def run_python(code: str, *options: str, **kwargs):
        done = run(sys.executable, *options, "-c", "import json, sys\n" + code, **kwargs)
        return json.loads(done.stdout.splitlines()[-1])

    return run_python


def our_names() -> set[str]:
    """Names that the YAMLs of tasks/ declare, read without the harness."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    names: set[str] = set()
    for path in resource_dir("tasks").glob("**/*.yaml"):
        config = yaml.load(path.read_text(encoding="utf-8"), Loader)
        names |= {config[key] for key in ("task", "group") if isinstance(config.get(key), str)}
        tags = config.get("tag") or []
        names |= {tags} if isinstance(tags, str) else set(tags)
    return names


LOADED = "print(json.dumps(sorted(sys.modules)))"
IN_REGISTRY = "print(json.dumps(sorted(registry.model_registry.keys())))"
NAMES = "from lm_eval.tasks import TaskManager\nprint(json.dumps(TaskManager({}).all_tasks))"


# ---- at interpreter start


def test_start_loads_only_two_small_modules(python):
    added = set(python(LOADED)) - set(python(LOADED, FAIRKV_AUTOLOAD="0"))
    assert added == {"fairkv_eval", "fairkv_eval.plugin"}


def test_autoload_0_leaves_the_interpreter_alone(python):
    code = "import lm_eval.models; from lm_eval.api import registry\n" + IN_REGISTRY
    assert "fairkv" not in python(code, FAIRKV_AUTOLOAD="0")
    assert "fairkv" in python(code, FAIRKV_AUTOLOAD="1")


def test_pth_is_silent_when_the_package_is_gone(run, tmp_path):
    (tmp_path / PTH.name).write_text(PTH.read_text())
    done = run(sys.executable, "-S", "-c", f"import site; site.addsitedir({str(tmp_path)!r}); print('alive')")
    assert (done.stdout, done.stderr) == ("alive\n", "")


def test_pth_is_one_import_line():
    (line,) = PTH.read_text().splitlines()
    assert line.startswith("import ")  # `site` executes such lines only, and takes any other for a folder


def test_broken_package_does_not_break_the_harness(run, python, tmp_path):
    broken = tmp_path / "fairkv_eval"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('broken')")
    assert run(sys.executable, "-c", "pass", pythonpath=tmp_path).stderr == ""
    names = python("import lm_eval.models; from lm_eval.api import registry\n" + IN_REGISTRY, pythonpath=tmp_path)
    assert "hf" in names and "fairkv" not in names


# ---- models


def test_fairkv_joins_all_builtin_models(python):
    code = """
import lm_eval.models
from lm_eval.api import registry
missing = set(lm_eval.models.MODEL_MAPPING) - set(registry.model_registry.keys())
lazy = registry.model_registry._objs["fairkv"]
print(json.dumps([sorted(missing), lazy, "torch" in sys.modules]))
"""
    assert python(code) == [[], "fairkv_eval.model:FairKV", False]


@pytest.mark.parametrize("order", [("hf", "fairkv"), ("fairkv", "hf")])
def test_hf_and_fairkv_in_one_interpreter(python, order):
    code = f"""
from lm_eval.api.registry import get_model
classes = {{name: get_model(name) for name in {order!r}}}
from lm_eval.models.huggingface import HFLM
print(json.dumps([classes["hf"] is HFLM, classes["fairkv"] is not HFLM, issubclass(classes["fairkv"], HFLM)]))
"""
    assert python(code) == [True, True, True]


def test_harness_with_its_own_discovery_is_left_alone(python):
    code = """
from lm_eval.api import registry
registry.load_plugins = lambda: None
import lm_eval.models
"""
    assert "fairkv" not in python(code + IN_REGISTRY)


def test_a_name_already_taken_stays(run):
    code = """
from lm_eval.api import registry
registry.model_registry.register("fairkv", target="other.module:Other")
import lm_eval.models
print(registry.model_registry._objs["fairkv"])
"""
    done = run(sys.executable, "-c", code)
    assert done.stdout == "other.module:Other\n" and "fairkv_eval" not in done.stderr


def test_entry_point_names_the_model():
    (point,) = entry_points(group="lm_eval.models", name="fairkv")
    from fairkv_eval.model import FairKV

    assert point.load() is FairKV


# ---- tasks


def test_demo_tasks_are_ours():
    assert our_names() >= DEMOS


def test_tasks_are_indexed_beside_builtin_ones(python, few_builtins):
    names = set(python(NAMES.format(""), pythonpath=few_builtins))
    plain = set(python(NAMES.format(""), pythonpath=few_builtins, FAIRKV_AUTOLOAD="0"))
    assert "gsm8k" in plain and not plain & our_names()
    assert names == plain | our_names()


@pytest.mark.long
def test_every_builtin_task_is_still_there(python):
    names = python(NAMES.format(""))
    plain = python(NAMES.format(""), FAIRKV_AUTOLOAD="0")
    assert set(names) == set(plain) | our_names() and len(names) == len(plain) + len(our_names())


def test_without_defaults_ours_are_not_listed_either(python):
    assert python(NAMES.format("include_defaults=False")) == []


def test_a_users_task_of_the_same_name_wins(python, few_builtins, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("task: sys_ifeval_demo\ndataset_path: json\n")
    code = f"""
from lm_eval.tasks import TaskManager
index = TaskManager(include_path={str(tmp_path)!r}).task_index
print(json.dumps([str(index["sys_ifeval_demo"].yaml_path), str(index["raccoon_demo"].yaml_path)]))
"""
    user, ours = python(code, pythonpath=few_builtins)
    assert user == str(mine)
    assert Path(ours).is_relative_to(resource_dir("tasks"))


def test_ours_come_right_after_the_builtin_folder():
    builtin, ours, user = Path("builtin"), Path("ours"), Path("user")
    assert with_task_folder([builtin, user], builtin, ours) == [builtin, ours, user]
    assert with_task_folder([user], builtin, ours) == [user]
    assert with_task_folder([builtin, ours], builtin, ours) == [builtin, ours]


def test_missing_tasks_are_a_warning_and_builtin_ones_stay(run, few_builtins):
    code = """
import fairkv_eval.files
def resource_dir(name): raise FileNotFoundError("no folder " + name)
fairkv_eval.files.resource_dir = resource_dir
from lm_eval.tasks import TaskManager
print("gsm8k" in TaskManager().all_tasks)
"""
    environment = {"pythonpath": few_builtins, "FAIRKV_AUTOLOAD": "0"}
    assert run(sys.executable, "-c", code, **environment).stdout == "True\n"
    hooked = code.replace("from lm_eval", "import fairkv_eval.plugin; fairkv_eval.plugin.install()\nfrom lm_eval")
    done = run(sys.executable, "-c", hooked, **environment)
    assert done.stdout == "True\n"
    assert "could not extend lm_eval.tasks.manager (FileNotFoundError: no folder tasks)" in done.stderr


@pytest.mark.parametrize("command", ["lm_eval", "lm-eval", "-m lm_eval"])
def test_command_lists_our_tasks(run, few_builtins, command):
    script = Path(sys.executable).parent / command
    argv = [sys.executable, "-m", "lm_eval"] if command.startswith("-m") else [script]
    listed = run(*argv, "ls", "tasks", pythonpath=few_builtins).stdout
    cells = {line.split("|")[1].strip() for line in listed.splitlines() if line.startswith("|")}
    assert cells >= our_names() | {"gsm8k"}


# ---- the finder


def test_install_after_the_harness_was_imported(python):
    code = """
import lm_eval.models, lm_eval.tasks
from lm_eval.api import registry
before = "fairkv" in registry.model_registry
from fairkv_eval import plugin
plugin.install(); plugin.install()
finders = sum(isinstance(finder, plugin.HarnessFinder) for finder in sys.meta_path)
index = lm_eval.tasks.manager.TaskIndex
wrapped_once = not hasattr(index.__base__, "indexes_fairkv")
print(json.dumps([before, "fairkv" in registry.model_registry, finders, index.indexes_fairkv, wrapped_once]))
"""
    assert python(code, FAIRKV_AUTOLOAD="0") == [False, True, 1, True, True]


def test_loader_keeps_its_type_source_and_resources(python):
    code = """
import importlib, importlib.resources, inspect
import lm_eval.models, lm_eval.tasks.manager as manager
importlib.reload(manager)
print(json.dumps([
    type(manager.__loader__).__name__,
    manager.__spec__.origin == manager.__file__,
    "class TaskManager" in inspect.getsource(manager),
    (importlib.resources.files("lm_eval.models") / "huggingface.py").is_file(),
    manager.TaskIndex.indexes_fairkv,
]))
"""
    assert python(code) == ["SourceFileLoader", True, True, True, True]


@pytest.mark.parametrize("place", [0, 1])
def test_lives_with_another_finder_that_asks_all_finders(python, place):
    code = f"""
class Other:
    def find_spec(self, name, path=None, target=None):
        if name == "lm_eval.models":
            specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)
            return next((spec for spec in specs if spec), None)
sys.meta_path.insert({place}, Other())
import lm_eval.models
from lm_eval.api import registry
"""
    assert {"hf", "fairkv"} <= set(python(code + IN_REGISTRY, FAIRKV_AUTOLOAD="1"))


def test_other_modules_are_none_of_its_business():
    finder = HarnessFinder()
    assert finder.find_spec("json") is None
    assert finder.find_spec("lm_eval.models.dummy") is None


# ---- the package


def test_version_is_the_installed_one():
    assert fairkv_eval.__version__ == version("fairkv-eval")
    with pytest.raises(AttributeError, match="nothing"):
        fairkv_eval.nothing  # noqa: B018


def test_resource_dir_names_what_is_missing():
    with pytest.raises(FileNotFoundError, match="no folder 'recipes'"):
        resource_dir("recipes")


def test_wheel_works_without_the_checkout(python, run, tmp_path):
    pytest.importorskip("hatchling", reason="comes with the dev extra")
    build = f"import os; os.chdir({str(CHECKOUT)!r}); from hatchling.build import build_wheel; build_wheel({{!r}})"
    run(sys.executable, "-c", build.format(str(tmp_path)))
    (wheel,) = tmp_path.glob("fairkv_eval-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)

    for name in ("tasks", "presses"):
        files = {p.relative_to(CHECKOUT) for p in (CHECKOUT / name).rglob("*.*") if "__pycache__" not in p.parts}
        assert files == {p.relative_to(site / "fairkv_eval") for p in (site / "fairkv_eval" / name).rglob("*.*")}
    assert (site / PTH.name).read_text() == PTH.read_text()
    assert not (site / "tests").exists() and (site / "fairkv_eval" / "py.typed").exists()

    # -S: no site-packages, so no editable install of ours either; the harness is put on the path by hand.
    harness = Path(str(find_spec("lm_eval").origin)).parents[1]
    code = f"""
import site
site.addsitedir({str(site)!r})
sys.path.append({str(harness)!r})
exec({START_UP!r})
from lm_eval.tasks import TaskManager
index = TaskManager().task_index
import fairkv_eval.files
print(json.dumps([str(index["sys_ifeval_demo"].yaml_path), str(fairkv_eval.files.resource_dir("presses"))]))
"""
    task, presses = (Path(path) for path in python(code, "-S"))
    assert task.is_relative_to(site / "fairkv_eval" / "tasks") and presses == site / "fairkv_eval" / "presses"
