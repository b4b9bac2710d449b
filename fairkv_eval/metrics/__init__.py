"""Scoring: what a response followed, what it leaked, and what the eviction did to its context.

The names that task YAMLs write (``!function fairkv_eval.metrics.ifeval_results``), handed on from the modules that
define them. The ``*_results`` functions are tasks' `process_results`. A metric that does not apply to a document (a
class it lacks, a segment it lacks, telemetry from a plain model) is left out of its result, and the harness then
averages over the documents that have it. All values are plain floats and bools.
"""

from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.metrics.fairness import spread as spread
from fairkv_eval.metrics.fairness import spread_stderr as spread_stderr
from fairkv_eval.metrics.fairness import worst_acc as worst_acc
from fairkv_eval.metrics.fairness import worst_acc_stderr as worst_acc_stderr
from fairkv_eval.metrics.ifeval import agg_inst_level_acc as agg_inst_level_acc
from fairkv_eval.metrics.ifeval import breakdown as breakdown
from fairkv_eval.metrics.ifeval import ifeval_results as ifeval_results
from fairkv_eval.metrics.ifeval import instruction_scores as instruction_scores
from fairkv_eval.metrics.keep_rates import telemetry as telemetry
from fairkv_eval.metrics.leaks import LEAK_THRESHOLDS as LEAK_THRESHOLDS
from fairkv_eval.metrics.leaks import leakage as leakage
from fairkv_eval.metrics.leaks import leakage_results as leakage_results
from fairkv_eval.metrics.leaks import official as official
from fairkv_eval.metrics.leaks import rouge as rouge
from fairkv_eval.metrics.preferences import preference as preference
from fairkv_eval.metrics.preferences import preference_results as preference_results
from fairkv_eval.metrics.refusals import refuses as refuses
from fairkv_eval.metrics.sys_multi import multi_results as multi_results

FAMILIES = CLASSES  # as sys_ifeval's README calls them
