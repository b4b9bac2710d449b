"""Command lines of `fairkv`, and sweeps."""

from __future__ import annotations

from bad_input import Case, command

SWEEP = ("--tasks", "sys_ifeval_demo", "--output_path", "{folder}/out")


def sweep(*flags: str, words: tuple[str, ...], files: dict[str, str] | None = None) -> Case:
    return command("sweep", *SWEEP, *flags, words=words, files=files)


CASES = [
    command("swep", words=("unknown command 'swep'", "Did you mean 'sweep'?")),
    command("sweep", "--ratio", "0.5", words=("--ratio", "Did you mean '--ratios'?")),
    command("leaderboard", words=("results",)),
    command("leaderboard", "{folder}/nowhere", words=("nowhere",)),
    command("leaderboard", "{folder}/a.json", files={"a.json": "{"}, words=("a.json",)),
    command("leaderboard", "--otput", "x", "{folder}", words=("--otput", "--output_path")),
    command("figures", "{folder}/nowhere", words=("nowhere",)),
    command("figures", "{folder}", "--only", "overview", "--all", words=("--all", "--only")),
    command("recommend", "{folder}/nowhere", words=("nowhere",)),
    command("findings", "{folder}/nowhere", words=("nowhere",)),
    command("findings", "results/baseline", "--size", "2", words=("size of 2", "0.02 is 2 points")),
    command("findings", "results/baseline", "--power", "0", words=("power=0", "0.05")),
    command("findings", "results/baseline", "--by-press", words=("--by-press", "--by_press")),
    command("findings", "results/baseline", "--format", "html", words=("html", "markdown")),
    command("compare", "{folder}/nowhere", "{folder}/else", words=("nowhere",)),
    command("publish", "{folder}/nowhere", "--output_path", "{folder}/out", words=("nowhere",)),
    command("breakdown", "{folder}/nowhere", words=("nowhere",)),
    command("breakdown", "{folder}", words=("directory", "samples_*.jsonl")),
    command("view", "x", "--task", "y", words=("--task", "Did you mean '--tasks'?")),
    command("completion", "fish", words=("fish", "bash")),
    command("sweep", "--ratios", "0", "0.3", "{folder}/s.yaml", words=("'0.3' is one word too many", "commas")),
    sweep(
        *("--presses", "tova", "--ratios", "0.5", "--include_path", "{folder}", "--tasks", "mine", "--dry_run"),
        words=("task 'mine' cannot be loaded", "nomodule"),
        files={"mine.yaml": "task: mine\ndataset_path: json\nprocess_results: !function nomodule.f\n"},
    ),
    command("cache", "--clear", "model", words=("unknown kind 'model'", "Did you mean 'models'?")),
    command("presses", "--jsn", words=("--jsn", "--json")),
    sweep("--presses", "tovva", "--ratios", "0.5", words=("tovva", "Did you mean 'tova'?")),
    sweep("--presses", "tova", "--ratios", "2", words=("ratio 2",)),
    sweep("--presses", "tova", "--ratios", "-0.5", words=("-0.5",)),
    sweep("--presses", "tova", "--ratios", "nan", words=("nan",)),
    sweep("--presses", "tova", "--ratios", "0:x:0.1", words=("0:x:0.1",)),
    sweep("--presses", "tova", "--ratios", "0.5:0.1:0.1", words=("0.5:0.1:0.1",)),
    sweep("--presses", "tova", "--ratios", "0:0.9:0", words=("0:0.9:0",)),
    sweep(
        *("--presses", "tova", "--ratios", "0.5", "--model_args", "pretrained={folder}/no-model"),
        words=("pretrained='", "no-model' cannot be loaded"),
    ),
    sweep("--presses", "tova", words=("ratios is missing",)),
    sweep("--ratios", "0.5", words=("presses is missing",)),
    sweep("--presses", "tova,wndow=4", "--ratios", "0.5", words=("wndow",)),
    sweep("--presses", "snapkv,window=0", "--ratios", "0.5", words=("window=0",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--fair", "perhaps", words=("fair='perhaps'",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--limit", "-1", words=("limit",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--batch_size", "0", words=("batch_size",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--gen_kwargs", "max_gen_toks=0", words=("max_gen_toks=0",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--gen_kwargs", "top_p=5,do_sample=true", words=("top_p=5",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--model_args", "ratio=0.5", words=("ratio=0.5",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--model_args", "drtype=float32", words=("drtype", "dtype")),
    sweep("--presses", "tova", "--ratios", "0.5", "--model_args", "kv_memory=inf", words=("kv_memory",)),
    sweep("--presses", "tova", "--ratios", "0.5", "--device", "bogus", words=("device",)),
]
