"""Classes of tasks that a YAML names, see tasks/README.md: one declared in full, one of the harness's."""

from fairkv_eval.declared.harness_task import HarnessTask as HarnessTask
from fairkv_eval.declared.task import DeclaredTask as DeclaredTask
