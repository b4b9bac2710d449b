"""Registers `--model fairkv` and the tasks of this package in the plain harness.

lm-eval 0.4.13 does not look for plugins, so `fairkv_eval.pth` calls `install()` at interpreter start, which puts a
finder before the others. The finder waits for a few modules of the harness and extends each right after its execution.
Registering earlier would hide the built-in models: the harness fills its registry only if that is empty.

Call `install()` yourself if the .pth was not read: in a notebook that ran during `pip install`, or with a PYTHONPATH
folder.
"""

import sys
from _thread import get_ident

TYPE_CHECKING = False  # `typing` alone would cost more than this whole module at every interpreter start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from pathlib import Path
    from types import ModuleType
    from typing import Any

MODEL_NAME = "fairkv"
MODEL_TARGET = "fairkv_eval.model:FairKV"


def install() -> None:
    """Extend the harness: at once if it is imported already, else as soon as it is. Safe to call again."""
    if not any(isinstance(finder, HarnessFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, HarnessFinder())
    for name in ADDITIONS:
        if name in sys.modules:
            _extend(sys.modules[name])


class HarnessFinder:
    """Finds no module by itself: the other finders find those it waits for, and it hooks into their execution."""

    def __init__(self) -> None:
        self._open_searches: set[tuple[int, str]] = set()  # by thread and module

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """The other finders' spec for a module of ADDITIONS, hooked; None for every other module."""
        if name not in ADDITIONS:
            return None
        search = (get_ident(), name)
        if search in self._open_searches:  # another finder that calls all finders, like this one, called back
            return None
        self._open_searches.add(search)
        try:
            for finder in list(sys.meta_path):
                find = None if finder is self else getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find else None
                if spec is not None:
                    _extend_after_execution(spec)
                    return spec
        finally:
            self._open_searches.discard(search)
        return None


def _extend_after_execution(spec: "ModuleSpec") -> None:
    """Replace `exec_module` on this one loader object, which keeps its type, sources and resources."""
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None or isinstance(loader, type):  # a class would be the loader of all modules of its kind
        return

    def exec_module(module: "ModuleType") -> None:
        execute(module)
        if module.__name__ in ADDITIONS:
            _extend(module)

    try:
        loader.exec_module = exec_module
    except Exception as error:
        _report(spec.name, error)


def _extend(module: "ModuleType") -> None:
    """Add our names to an executed module of the harness. An error in here must not break the harness."""
    try:
        ADDITIONS[module.__name__](module)
    except Exception as error:
        _report(module.__name__, error)


def _report(name: str, error: Exception) -> None:
    import logging

    logging.getLogger(__name__).warning("fairkv_eval could not extend %s (%s: %s)", name, type(error).__name__, error)


def _add_model(models: "ModuleType") -> None:
    """Register the model's name lazily, unless the harness discovers entry points itself (`load_plugins`)."""
    from lm_eval.api import registry

    if not hasattr(registry, "load_plugins") and MODEL_NAME not in registry.model_registry:
        registry.model_registry.register(MODEL_NAME, target=MODEL_TARGET)


def _add_tasks(manager: "Any") -> None:
    """Let TaskManager index our folder after the built-in one and before the user's: later ones win."""
    from pathlib import Path

    from fairkv_eval.files import resource_dir
    from fairkv_eval.harness.quiet import leave_out_remarks
    from fairkv_eval.harness.task_index import build_index

    plain = manager.TaskIndex
    if getattr(plain, "indexes_fairkv", False):
        return
    builtin, ours = Path(str(manager.__file__)).parent, resource_dir("tasks")

    def build(paths: "Iterable[Path]", **options: object) -> object:
        searched = with_task_folder(paths, builtin, ours)
        _warn_of_unreadable(path for path in searched if path not in (builtin, ours))
        index = plain.build(searched, **options) if options else build_index(plain, searched, builtin)
        leave_out_remarks(index)
        return index

    manager.TaskIndex = type("TaskIndex", (plain,), {"build": staticmethod(build), "indexes_fairkv": True})


def _shorten_tables(utils: "Any") -> None:
    """Let printed tables show the headline metrics of tasks that name some."""
    plain = utils.make_table

    def make_table(result_dict: "Any", column: str = "results", sort_results: bool = False) -> str:
        from fairkv_eval.headlines import NOTE, with_headlines

        shown, shortened = with_headlines(result_dict, column)
        table = str(plain(shown, column, sort_results))
        return f"{table}\n{NOTE}" if shortened and column == "results" else table

    utils.make_table = make_table


def _look_for_a_checkout(utils: "Any") -> None:
    """Let the harness ask git for the commit of the working directory only where there is one."""
    from fairkv_eval.harness.quiet import only_in_a_checkout

    utils.get_git_commit_hash = only_in_a_checkout(utils.get_git_commit_hash)


def _explain_results(evaluator: "Any") -> None:
    """Let samples say what the model's prompt was, and have all metrics, as the harness's loggers expect."""
    from fairkv_eval.harness.explanations import explaining

    evaluator.evaluate = explaining(evaluator.evaluate)


def _name_results(tracker: "Any") -> None:
    """Let result files name the default model, and a chat template that the documents asked for."""
    from fairkv_eval.harness.explanations import naming

    plain = tracker.EvaluationTracker
    plain.save_results_aggregated = naming(plain.save_results_aggregated)


def _know_groups(wandb: "Any") -> None:
    """Let the logger for W&B take groups for groups."""
    from fairkv_eval.harness.explanations import knowing_groups

    wandb.WandbLogger.post_init = knowing_groups(wandb.WandbLogger.post_init)


def _warn_of_unreadable(folders: "Iterable[Path]") -> None:
    """Warn of each YAML that the harness cannot read: it drops the file, and only says that the task is unknown."""
    import logging

    from fairkv_eval.harness.task_files import unreadable

    for problem in unreadable(folders):
        logging.getLogger(__name__).warning("left out, since it cannot be read: %s", problem)


def with_task_folder(paths: "Iterable[Path]", builtin: "Path", ours: "Path") -> "list[Path]":
    """The paths with ours right after the built-in one; unchanged if the built-in is absent or ours is present."""
    searched = list(paths)
    if builtin in searched and ours.resolve() not in [path.resolve() for path in searched]:
        searched.insert(searched.index(builtin) + 1, ours)
    return searched


ADDITIONS: "dict[str, Callable[[Any], None]]" = {
    "lm_eval.utils": _shorten_tables,
    "lm_eval.evaluator": _explain_results,
    "lm_eval.loggers.evaluation_tracker": _name_results,
    "lm_eval.loggers.wandb_logger": _know_groups,
    "lm_eval.loggers.utils": _look_for_a_checkout,
    "lm_eval.models": _add_model,
    "lm_eval.tasks.manager": _add_tasks,
}
