"""What a sweep would cost, before it runs: its cells, the tokens they need, and a time estimated from a short run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.totals import Totals
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.run import check_launch
from fairkv_eval.sweep.task_run import TaskRun
from fairkv_eval.sweep.tasks import load_tasks

_STEPS = 8  # tokens per answer of the short run: enough for the first steps, which are slower, not to dominate


@dataclass(frozen=True)
class Tokens:
    """Tokens to compute: of contexts (each once), of tails, and at most this many new ones."""

    prefill: int = 0
    tail: int = 0
    decode: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prefill + other.prefill, self.tail + other.tail, self.decode + other.decode)

    def seconds(self, measured: Totals) -> float:
        """The time it takes at measured speeds."""
        measurements = (
            (self.prefill, measured.prefill_seconds, measured.prefill_tokens),
            (self.tail, measured.tail_seconds, measured.tail_tokens),
            (self.decode, measured.decode_seconds, measured.decode_tokens),
        )
        return sum(tokens * seconds / done for tokens, seconds, done in measurements if done)


def tokens_of(jobs: Sequence[Job]) -> Tokens:
    """The tokens of one engine run. Contexts that only begin alike share part of a prefill too; not counted."""
    prefill = sum(map(len, {job.context_tokens for job in jobs}))
    tail = sum(len(job.prompt.tokens) - job.prompt.context_length for job in jobs)
    tail += sum(len(job.want.continuation) - 1 for job in jobs if isinstance(job.want, LogLikelihood))
    return Tokens(prefill, tail, sum(job.want.max_tokens for job in jobs if isinstance(job.want, Generation)))


def tokens_of_fidelity(jobs: Sequence[Job]) -> Tokens:
    """The tokens of scoring the longest answers that these jobs may get. Contexts are prefilled for the full cache and
    again for the other policies."""
    tokens = tokens_of(jobs)
    return Tokens(2 * tokens.prefill, tokens.tail + tokens.decode)


@dataclass(frozen=True)
class Estimate:
    """The cells of one task on one model, and what the unfinished ones cost: answers, tokens, and seconds at most."""

    model: str
    task: str
    documents: int
    policies: tuple[str, ...]
    cells: int
    finished: int
    answers: int
    prefill_tokens: int
    tail_tokens: int
    max_decode_tokens: int
    seconds: float


def dry_run(sweep: Sweep) -> list[Estimate]:
    """Estimate each task on each model. Nothing is written."""
    check_launch(sweep)
    loaded = [(arguments, load_tasks(sweep, arguments)) for arguments in sweep.models]
    estimates = []
    for arguments, tasks in loaded:
        model = LoadedModel.load(sweep, arguments)
        # All prompts are built before the first short run, as a sweep does.
        journalled = SweepFolder(sweep.output_path).answers()
        estimates += [_estimate(run) for run in [TaskRun(sweep, model, task, journalled) for task in tasks.values()]]
    return estimates


def _estimate(run: TaskRun) -> Estimate:
    jobs = [job for *_, job in run.todo]
    fidelity_jobs = _fidelity_jobs(run)
    tokens = tokens_of(jobs) + tokens_of_fidelity(fidelity_jobs)
    return Estimate(
        model=str(run.model.arguments.get("pretrained", "default")),
        task=run.task.task_name,
        documents=len({request.doc_id for request in run.requests}),
        policies=tuple(cell.name for cell in run.cells),
        cells=len(run.cells),
        finished=len(run.cells) - len(run.unfinished),
        answers=len(jobs),
        prefill_tokens=tokens.prefill,
        tail_tokens=tokens.tail,
        max_decode_tokens=tokens.decode,
        seconds=tokens.seconds(measure(run.model.lm, jobs or fidelity_jobs)),
    )


def _fidelity_jobs(run: TaskRun) -> list[Job]:
    """The jobs whose answers are scored once more for fidelity, the full cache's among them."""
    if not run.fidelity or not run.unfinished:
        return []
    cells = [run.full, *(cell for cell in run.unfinished if cell != run.full)]
    return [job for slot in run.slots for job in run.jobs(slot, cells)]


def measure(model: FairKV, jobs: Sequence[Job]) -> Totals:
    """Run a full batch of the first jobs, with a few tokens each; return the totals of that run."""
    batch = jobs[: int(model.batch_size) if model.batch_size != "auto" else 16]
    model.reset_totals()
    for _ in model.run([_shortened(job) for job in batch]) if batch else ():
        pass
    return model.totals


def _shortened(job: Job) -> Job:
    if not isinstance(job.want, Generation):
        return job
    return replace(job, want=replace(job.want, max_tokens=min(_STEPS, job.want.max_tokens)))
