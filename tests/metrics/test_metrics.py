"""The door to all metrics."""

from __future__ import annotations

import subprocess
import sys


def test_import_is_cheap() -> None:
    """A task's YAML is read while tasks are listed: that must not load the checkers or NLTK."""
    code = "import sys, fairkv_eval.metrics, fairkv_eval.documents.sys_ifeval; "
    code += "print({'nltk', 'lm_eval', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
