"""The sub-commands of ``fairkv``, one module each.

A module has ``add_arguments(parser)``, which adds its options, ``EXAMPLES``, which end its help, and ``run(args)``,
which does the work and returns the exit status (None is 0). ``run`` raises UsageError if it cannot do the work. Heavy
packages are imported only there, so help and errors are quick.
"""

SUMMARIES = {
    "breakdown": "report accuracy and leakage of a run by class, pair, number and prompt length",
    "cache": "show what is kept on disk to start faster, how large it is and where; clear it",
    "compare": "compare two runs over the same documents: differences, intervals, p-values",
    "completion": "print a script that lets a shell complete this command",
    "figures": "draw results over the ratio, as PNG and SVG",
    "findings": "check the paper's findings one by one: estimate, interval, p-value, verdict, documents it would take",
    "leaderboard": "make a leaderboard of results: JSON, CSV, Markdown and a page, with paired differences",
    "presses": "list presses: what they keep, their parameters, what they can be combined with",
    "publish": "copy results for others: scores by document, without documents, prompts, answers and paths",
    "recommend": "find the strongest compression whose loss stays within a bound, with a stated confidence",
    "sweep": "run models × presses × ratios × tasks, each model loaded once; resumable",
    "tasks": "list tasks, or check them: files, documents, prompts, metrics",
    "view": "show which tokens of a prompt survive a policy: by layer and head, beside attention",
}
