"""Metadata of tasks, declared tasks, and the YAML of sweeps, presses and tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bad_input import Case, call, command

from fairkv_eval import plugin
from fairkv_eval.declared import DeclaredTask
from fairkv_eval.documents.demo import sys_ifeval_demo
from fairkv_eval.documents.raccoon import raccoon
from fairkv_eval.documents.sys_ifeval import sys_ifeval
from fairkv_eval.documents.sys_multi import sys_multi
from fairkv_eval.eviction.press_files import load_press

PRESS = "press: mine\nscore: !function fairkv_eval.scores.knorm\n"
SWEEP = "tasks: sys_ifeval_demo\noutput_path: out\npresses: tova\n"
INSTRUCTED = {"key": 1, "prompt": "p", "instruction_id_list": ["length_constraints:number_words"]}


def metadata(builder: Any, words: tuple[str, ...], **names: Any) -> Case:
    """A builder's metadata."""

    def build(folder: Path) -> None:
        plugin.install()
        builder(version=1.0, config_source="inline", **names)

    return call(f"{builder.__name__} {names}", build, *words)


def declared(words: tuple[str, ...], rows: str | list[Any] = '{"a": "x"}', **keys: Any) -> Case:
    """A declared task over these rows."""
    text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))

    def load(folder: Path) -> None:
        (folder / "rows.jsonl").write_text(text, encoding="utf-8")
        source = {"metadata": {"version": 1.0}}
        DeclaredTask({"task": "mine", "data": str(folder / "rows.jsonl"), "user": "Hi?", **source, **keys})

    return call(f"{keys} over {text}", load, "task mine: ", *words)


def instructed(words: tuple[str, ...], **fields: Any) -> Case:
    return declared(("row 1: ", *words), [INSTRUCTED | fields], metrics="ifeval")


def press(text: str, *words: str) -> Case:
    """A press file."""

    def load(folder: Path) -> None:
        (folder / "mine.yaml").write_text(text)
        load_press(str(folder / "mine.yaml"))

    return call(text, load, "mine.yaml", *words)


def sweep(text: str, *words: str, base: str = SWEEP) -> Case:
    """A sweep file."""
    case = command("sweep", "{folder}/s.yaml", files={"s.yaml": base + text}, words=("s.yaml", *words))
    return Case(f"{case.name}: {text}", case.run, case.words, case.status)


def arguments(kwargs: Mapping[str, Any], *words: str) -> Case:
    return instructed(words, kwargs=[kwargs])


CASES = [
    *(metadata(builder, ("unknown metadata 'promts'",), promts=25) for builder in (sys_multi, raccoon, sys_ifeval)),
    metadata(sys_multi, ("unknown metadata 'promts'. Did you mean 'prompts'?", "model_arguments"), promts=25),
    metadata(sys_ifeval_demo, ("unknown metadata 'defnse'",), defnse="standard_defense"),
    metadata(raccoon, ("unknown metadata 'window'",), press="knorm", window=4),
    metadata(sys_multi, ("model_arguments='x'", "a list of names"), y=1, model_arguments="x"),
    declared(("row 1: unknown field for doc_to_target 'anwser'",), doc_to_target="anwser"),
    declared(("row 2: unknown field for doc_to_target 'a'",), [{"a": "x"}, {"b": "x"}], doc_to_target="a"),
    declared(("row 1: doc_to_target: the field 'a' is null",), [{"a": None}], doc_to_target="a"),
    declared(("row 1: doc_to_target: 'b' is undefined",), doc_to_target="{{ b }}"),
    declared(("row 1: messages, user: 'b' is undefined",), user="{{ b }}"),
    declared(("row 1: messages, user: a value is null; the row's null fields: a",), [{"a": None}], user="{{ a }}"),
    declared(("row 1: the document with key None: its secret '' has no words",), secret="{{ '' }}", metrics="leakage"),
    declared(("its secret '***' has no words",), [{"a": "***"}], secret="{{ a }}", metrics="leakage"),
    declared(("multiple_choice needs doc_to_choice",), output_type="multiple_choice", doc_to_target=0),
    declared(
        ("row 1: doc_to_target: 2 is neither one of the choices",),
        output_type="multiple_choice",
        doc_to_target=2,
        doc_to_choice=["yes", "no"],
    ),
    declared(("generation_kwargs=3 is not allowed; it takes a mapping",), generation_kwargs=3),
    declared(("metric_list=[3] is not allowed; it takes a list of mappings",), metric_list=[3]),
    declared(("metrics=[3] is not allowed; it takes a name or a list of names",), metrics=[3]),
    declared(("metrics={'refusal': True} is not allowed",), metrics={"refusal": True}),
    declared(("unknown output_type 'generate'", "Did you mean 'generate_until'?"), output_type="generate"),
    declared(("doc_to_choice=3 is not allowed",), output_type="multiple_choice", doc_to_target=0, doc_to_choice=3),
    declared(("segments: takes a list of {name, text}",), segments=3),
    declared(("line 1: NaN is not a JSON value",), '{"a": NaN}'),
    declared(("line 1: Infinity is not a JSON value",), '{"a": [Infinity]}'),
    declared(("line 1: field 'a': a number is too large",), '{"a": 1e999}'),
    declared(("line 1: field 'a': the number 9223372036854775808… is too large",), '{"a": 9223372036854775808}'),
    declared(("line 1: field 'a': its text has half a character",), r'{"a": "\ud800"}'),
    declared(("line 1: the key 'a' is given twice",), '{"a": 1, "a": 2}'),
    declared(("row 2: the field 'a' is a whole number, and in row 1 a text",), [{"a": "x"}, {"a": 1}]),
    declared(("the rows do not fit into one table",), [{"a": [1]}, {"a": ["x"]}]),
    arguments({"num_words": 3, "relation": "at most"}, "relation='at most'", "'less than' or 'at least'"),
    arguments({"num_words": "3", "relation": "at least"}, "num_words='3'", "a whole number from 1"),
    arguments({"num_words": 0, "relation": "at least"}, "num_words=0"),
    arguments({"num_words": True, "relation": "at least"}, "num_words=True"),
    arguments({"num_words": 3}, "'relation' is missing"),
    arguments({"num_words": 3, "relation": "at least", "letter": "a"}, "unknown argument 'letter'"),
    instructed(("kwargs None is not allowed",), kwargs=[None]),
    instructed(("kwargs has 0 entries for 1 instructions",), kwargs=[]),
    instructed(("Did you mean 'punctuation:no_comma'?",), instruction_id_list=["punctuation:no_coma"], kwargs=[{}]),
    press(PRESS + "press: other\n", "line 3: the key 'press' is given twice"),
    press(PRESS.replace("mine", "none"), "'none' cannot be a press's name"),
    press(PRESS + "aliases: [none]\n", "'none' cannot be a press's name"),
    press(PRESS + "aliases: [tova]\n", "the alias 'tova' is a name of the built-in press 'tova'"),
    press(PRESS + "collects: yes\n", "collects must be true or false, not 'yes'"),
    press(PRESS + "sumary: x\n", "unknown key 'sumary'. Did you mean 'summary'?"),
    press(PRESS + "parameters: {size: {default: .nan}}\n", "default of parameter 'size' must be a finite number"),
    press(PRESS + "parameters: {size: {default: 1, min: 1:30}}\n", "min of parameter 'size' must be a number"),
    press("press: [mine\n", "not YAML"),
    sweep("ratios: 0.5\nlimit: 1:30\n", "limit='1:30' is not allowed"),
    sweep("ratios: 0.5\nlimit: .inf\n", "limit=inf is not allowed"),
    sweep("ratios: 0.5\nlimit: 1_0\n", "limit='1_0' is not allowed"),
    sweep("ratios: 0.5\nfidelity: on\n", "fidelity='on' is not allowed"),
    sweep("ratios: 0.5\nratios: 0.6\n", "line 5: the key 'ratios' is given twice"),
    sweep("ratios: 0:0.9:0.00000001\n", "at most 1,000 values, and this range makes 90,000,001"),
    sweep("ratios: []\n", "ratios=[] is not allowed"),
    sweep("ratios: .nan\n", "ratios=nan is not allowed"),
    sweep("ratios: 0.5\nfair: []\n", "fair=[] is not allowed"),
    sweep("ratios: 0.5\nfair: yes\n", "fair='yes' is not allowed"),
    sweep("budgets: 1e300\n", "budgets=1e+300 is not allowed"),
    sweep("budgets: [16, -4]\n", "budget -4 is not allowed"),
    sweep("ratios: 0.5\nseed: -1\n", "seed=-1 is not allowed"),
    sweep("ratios: 0.5\nratois: 0.6\n", "unknown key 'ratois'. Did you mean 'ratios'?"),
    sweep("presses: []\nratios: 0.5\n", "presses is missing", base="tasks: a\noutput_path: out\n"),
    sweep("presses: [{press: snapkv, window: []}]\nratios: 0.5\n", "window=[]", base="tasks: a\noutput_path: out\n"),
    sweep("presses: [{press: tova, keep: !function x}]\n", "the tag '!function'", base="tasks: a\noutput_path: out\n"),
    sweep("- 1\n", "it takes a mapping of keys, not list", base=""),
]
