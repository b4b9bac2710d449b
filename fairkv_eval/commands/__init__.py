"""The sub-commands of ``fairkv``, one module each.

A module has ``add_arguments(parser)``, which adds its options, and ``run(args)``, which does the work, raises
UsageError where it cannot, and returns the exit status (None is 0). It imports what is heavy when it runs, so that help
and errors are quick.
"""

SUMMARIES = {
    "breakdown": "accuracy and leakage of a run by class, pair, number and prompt length",
    "compare": "compare two runs over the same documents: differences, intervals, p-values",
    "figures": "draw what results show over the ratio, as PNG and SVG",
    "leaderboard": "results as a leaderboard: JSON, CSV, Markdown and a page, with paired differences",
    "presses": "list presses: what they keep, their parameters, where they can be used",
    "publish": "copy results to pass on: scores by document, no documents, prompts, answers or paths",
    "recommend": "the strongest compression whose loss stays within a bound, with a stated confidence",
    "sweep": "models × presses × ratios × tasks on one loaded model: results of every cell, resumable",
    "tasks": "list tasks, or check them: files, documents, prompts, metrics",
    "view": "show what a policy keeps of a document: prompt, layers, heads, attention",
}
