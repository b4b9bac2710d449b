"""A task by YAML alone: ``class: !function fairkv_eval.declared.DeclaredTask``, see tasks/README.md."""

from fairkv_eval.declared.task import DeclaredTask as DeclaredTask
