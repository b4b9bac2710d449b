"""A digest of functions: every way in which an edit reaches an answer changes it, and housekeeping does not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fairkv_eval.errors import UsageError
from fairkv_eval.source_digest import digest

# {what is used: (the module, a part of it, what replaces that part)}
CHANGES = {
    "a lambda": ("rule = lambda x: x + 1", "x + 1", "x - 1"),
    "a lambda in a fragment": ("RULES = {\n    'a': lambda x: x + 1,\n}\nrule = RULES['a']", "+ 1", "- 1"),
    "one of two lambdas in a line": ("f, rule = lambda x: x, lambda x: -x", "x, lambda x: -x", "-x, lambda x: x"),
    "a closure's value": ("def make(by):\n    def rule(x): return x * by\n    return rule\nrule = make(2)", "2)", "3)"),
    "a closure's function": (
        "def one(x): return 1\ndef two(x): return 2\n"
        "def make(f):\n    def rule(x): return f(x)\n    return rule\nrule = make(one)",
        "make(one)",
        "make(two)",
    ),
    "a decorator that wraps": (
        "from functools import wraps\n"
        "def twice(f):\n    @wraps(f)\n    def g(x): return 2 * f(x)\n    return g\n@twice\ndef rule(x): return x",
        "2 * f",
        "3 * f",
    ),
    "what a wrapping decorator wraps": (
        "from functools import wraps\n"
        "def twice(f):\n    @wraps(f)\n    def g(x): return 2 * f(x)\n    return g\n@twice\ndef rule(x): return x",
        "rule(x): return x",
        "rule(x): return -x",
    ),
    "a decorator that marks": (
        "def mark(f):\n    f.sign = 1\n    return f\n@mark\ndef rule(x): return rule.sign * x",
        "sign = 1",
        "sign = -1",
    ),
    "a cached helper": (
        "from functools import cache\n@cache\ndef helper(x): return x + 1\ndef rule(x): return helper(x)",
        "+ 1",
        "+ 2",
    ),
    "a partial's function": (
        "from functools import partial\ndef scaled(x, by): return x * by\nrule = partial(scaled, by=2)",
        "x * by",
        "x / by",
    ),
    "a partial among the globals": (
        "from functools import partial\ndef scaled(x, by): return x * by\nhelper = partial(scaled, by=2)\n"
        "def rule(x): return helper(x)",
        "by=2",
        "by=3",
    ),
    "a class's method": (
        "class Helper:\n    def value(self): return 1\ndef rule(x): return Helper().value()",
        "return 1",
        "return 2",
    ),
    "a base class": (
        "class Base:\n    def value(self): return 1\nclass Helper(Base): pass\ndef rule(x): return Helper().value()",
        "return 1",
        "return 2",
    ),
    "a class's attribute": (
        "BY = 2\nclass Helper:\n    by = BY\ndef rule(x): return Helper.by * x",
        "BY = 2",
        "BY = 3",
    ),
    "a static method's helper": (
        "def one(): return 1\nclass Helper:\n    @staticmethod\n    def value(): return one()\n"
        "def rule(x): return Helper.value()",
        "return 1",
        "return 2",
    ),
    "an object's attribute": (
        "class Helper:\n    def __init__(self, by): self.by = by\nh = Helper(2)\ndef rule(x): return h.by * x",
        "Helper(2)",
        "Helper(3)",
    ),
    "a callable object": ("class Rule:\n    def __call__(self, x): return x\nrule = Rule()", "return x", "return -x"),
    "a bound method": (
        "class Rule:\n    by = 2\n    def call(self, x): return self.by * x\nrule = Rule().call",
        "by = 2",
        "by = 3",
    ),
    "a default": ("BY = 2\ndef rule(x, by=BY): return x * by", "BY = 2", "BY = 3"),
    "a keyword's default": ("BY = 2\ndef rule(x, *, by=BY): return x * by", "BY = 2", "BY = 3"),
    "a dict": ("BY = {'a': 1}\ndef rule(x): return BY['a']", "1}", "2}"),
    "a list": ("BY = [[1]]\ndef rule(x): return BY[0][0]", "[[1]]", "[[2]]"),
    "a set": ("BY = {1}\ndef rule(x): return x in BY", "{1}", "{2}"),
    "bytes": ("BY = b'a'\ndef rule(x): return BY", "b'a'", "b'b'"),
    "a pattern": ("import re\nBY = re.compile('a')\ndef rule(x): return BY.sub('', x)", "'a'", "'b'"),
    "a tensor": ("import torch\nBY = torch.tensor([1.0])\ndef rule(x): return BY", "1.0", "2.0"),
    "a table of functions": (
        "def one(x): return 1\ndef two(x): return 2\nTABLE = {'a': one, 'b': two}\ndef rule(x): return TABLE['a'](x)",
        "'a': one, 'b': two",
        "'a': two, 'b': one",
    ),
    "a value set at import": ("TABLE = {}\nTABLE['a'] = 1\ndef rule(x): return TABLE['a']", "= 1", "= 2"),
    "a function of a library": (
        "from math import floor as f\ndef rule(x): return f(x)",
        "floor as f",
        "ceil as f",
    ),
    "two helpers exchanged": (
        "def one(x): return 1\ndef two(x): return 2\na, b = one, two\ndef rule(x): return a(x) + 2 * b(x)",
        "a, b = one, two",
        "a, b = two, one",
    ),
}


def digest_of(folder: Path, code: str, **modules: str) -> str:
    """The digest of ``rule`` in a module of this code, beside helper modules."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("module_of_mine", *modules)]:
        del sys.modules[name]
    for name, text in {"module_of_mine": code, **modules}.items():
        (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    return digest([importlib.import_module("module_of_mine").rule])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.mark.parametrize("what", CHANGES)
def test_an_edit_that_reaches_an_answer(what: str, folder: Path) -> None:
    code, before, after = CHANGES[what]
    first = digest_of(folder, code)
    assert first == digest_of(folder, f'"""Words."""\n\n# A reason.\n{code}\n')
    assert before in code and first != digest_of(folder, code.replace(before, after))


@pytest.mark.parametrize(
    "code, helper",
    [
        ("import helper_of_mine\ndef rule(x): return helper_of_mine.weight()", "def weight(): return 1"),
        ("import helper_of_mine as h\ndef rule(x): return h.WEIGHT", "WEIGHT = 1"),
        ("import helper_of_mine as h\ndef rule(x): return h.f()", "def f(): return g()\ndef g(): return 1"),
        ("import helper_of_mine as h\ndef rule(x): return h.f()", "import math\nBY = 1\ndef f(): return math.pi * BY"),
        ("import between_of_mine as b\ndef rule(x): return b.helper_of_mine.weight()", "def weight(): return 1"),
    ],
)
def test_an_edit_of_a_helper_module(code: str, helper: str, folder: Path) -> None:
    between = "import helper_of_mine"
    first = digest_of(folder, code, between_of_mine=between, helper_of_mine=helper)
    assert first == digest_of(
        folder, code, between_of_mine=between, helper_of_mine=f"{helper}\ndef not_used(): return 5"
    )
    assert first != digest_of(folder, code, between_of_mine=between, helper_of_mine=helper.replace("1", "2"))


def test_code_that_may_use_any_attribute_of_a_module(folder: Path) -> None:
    code, helper = "import helper_of_mine as h\ndef rule(x): return getattr(h, x)()", "def weight(): return 1"
    first = digest_of(folder, code, helper_of_mine=helper)
    assert first != digest_of(folder, code, helper_of_mine=helper.replace("1", "2"))


def test_a_helper_package(folder: Path) -> None:
    package = folder / "package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from package_of_mine import inner\n")
    digests = set()
    for number in (1, 2):
        sys.modules.pop("package_of_mine.inner", None)
        (package / "inner.py").write_text(f"def weight(): return {number}\n")
        code = "import package_of_mine as p\ndef rule(x): return p.inner.weight()"
        digests.add(digest_of(folder, code, package_of_mine=""))
        (folder / "package_of_mine.py").unlink()
    assert len(digests) == 2


@pytest.mark.parametrize("kind", ["Path(__file__).with_name('weights.txt')", "__file__.replace(FILE, 'weights.txt')"])
def test_a_data_file_that_a_constant_names(kind: str, folder: Path) -> None:
    code = f"from pathlib import Path\nFILE = 'module_of_mine.py'\nDATA = {kind}\ndef rule(x): return open(DATA).read()"
    (folder / "weights.txt").write_text("1")
    first = digest_of(folder, code)
    (folder / "weights.txt").write_text("2")
    assert first != digest_of(folder, code)


def test_two_constants_of_one_name_exchanged(folder: Path) -> None:
    code = "from helper_of_mine import f\nBY = 1\ndef rule(x): return f(x) - BY"
    helper = "BY = 2\ndef f(x): return x * BY"
    first = digest_of(folder, code, helper_of_mine=helper)
    assert first != digest_of(
        folder, code.replace("BY = 1", "BY = 2"), helper_of_mine=helper.replace("BY = 2", "BY = 1")
    )


def test_a_move_changes_nothing(folder: Path) -> None:
    helper = "def weight(): return 1"
    first = digest_of(folder, f"{helper}\ndef rule(x): return weight()")
    assert first == digest_of(
        folder,
        "from helper_of_mine import weight\ndef rule(x: int) -> int:\n    return weight()",
        helper_of_mine=helper,
    )


def test_what_has_no_source_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="the source of <lambda> cannot be read"):
        digest_of(folder, "rule = eval('lambda x: 0')")


def test_a_package_in_a_folder_of_its_own_is_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pip install --target` leaves a record beside it: an edit there is another version, and it may have no source."""
    target = folder / "target"
    (target / "package_of_theirs").mkdir(parents=True)
    (target / "package_of_theirs-1.0.dist-info").mkdir()
    (target / "package_of_theirs-1.0.dist-info" / "RECORD").write_text("package_of_theirs/__init__.py,sha256=x,9\n")
    monkeypatch.syspath_prepend(target)
    code = "import package_of_theirs as p\ndef rule(x): return p.Theirs().weight"
    digests = set()
    for number in (1, 2):
        made = f"Theirs = type('Theirs', (), {{'weight': {number}, '__module__': 'package_of_theirs'}})\n"
        (target / "package_of_theirs" / "__init__.py").write_text(made)
        sys.modules.pop("package_of_theirs", None)
        digests.add(digest_of(folder, code))
    assert len(digests) == 1
