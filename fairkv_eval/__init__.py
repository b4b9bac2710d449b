"""Evaluate language models under a compressed KV cache, inside lm-evaluation-harness.

Kept empty of imports: Python loads this file at every start of an interpreter that has the package (see `plugin`).
"""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("fairkv-eval")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
