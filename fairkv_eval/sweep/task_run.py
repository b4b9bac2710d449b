"""One task on one model of a sweep: its cells, the answers that they need, and their files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from tqdm import tqdm

from fairkv_eval import provenance
from fairkv_eval.engine.fidelity import Lead
from fairkv_eval.engine.jobs import Fidelity, Generation, Job
from fairkv_eval.engine.result import Result
from fairkv_eval.errors import naming
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness.context_check import check_evictable
from fairkv_eval.sweep.cell import Cell, cells_of, digest
from fairkv_eval.sweep.cell_files import CellWriter
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.evaluation import each_warning_once, evaluate_cell
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.journal import Answer, Answers, Journal, Key, Slot
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.progress import AnswerCounter, Bars
from fairkv_eval.sweep.tasks import build_requests

_DISTRIBUTIONS = 1024  # over the whole vocabulary, in memory at once


class TaskRun:
    """Answers, compares and writes the cells of one task on one model.

    cells: one per policy of the sweep. unfinished: those without files, or without the fidelity that is wanted.
    answers: those in the journals, of the unfinished cells and of the full cache if it is compared with them. todo:
    slots, keys and jobs of the missing answers, a request's cells side by side, so that they share its prefill.

    journalled: what the folder's journals hold, if they are read already. documents: which of all documents (by id) are
    answered; such cells cannot be written. The constructor builds all prompts, so that one that cannot run is reported
    before the first job of any task.
    """

    def __init__(
        self,
        sweep: Sweep,
        model: LoadedModel,
        task: Task,
        journalled: Answers | None = None,
        documents: Callable[[Iterable[int]], set[int]] = set,
    ) -> None:
        self.sweep, self.model, self.task = sweep, model, task
        self.folder = SweepFolder(sweep.output_path)
        self.requests = build_requests(sweep, model.lm, task)
        answered = documents(_document(request) for request in self.requests)
        repeats = {i: r.repeats or 1 for i, r in enumerate(self.requests) if _document(r) in answered}
        self.slots = [Slot(i, n) for i, count in repeats.items() for n in range(count)]
        self.cells = cells_of(sweep, model, task, self.requests)
        self.fidelity = sweep.fidelity and task.OUTPUT_TYPE == "generate_until"
        unfinished = [cell for cell in self.cells if not self.folder.finished(cell, self.fidelity)]
        compared = [self.full] if self.fidelity and unfinished else []
        journalled = journalled or self.folder.answers()
        self.answers = journalled.of(cell.answers_id for cell in (*unfinished, *compared))
        # If the full cache's files are there and its journal is lost, it is answered again, and its files with it.
        unfinished += [cell for cell in compared if any(cell.key(slot) not in self.answers for slot in self.slots)]
        self.unfinished = [cell for cell in self.cells if cell in unfinished]
        self.todo = list(self._missing())
        if not self.answers:
            with naming(f"task {task.task_name}"):
                check_evictable([job for *_, job in self.todo])
        self.began = time.time()

    @property
    def full(self) -> Cell:
        """The full cache's cell."""
        return next(cell for cell in self.cells if cell.policy == Policy())

    def jobs(self, slot: Slot, cells: Sequence[Cell]) -> list[Job]:
        """One request under the policies of several cells."""
        if not cells:
            return []
        return self.model.lm.jobs(self.requests[slot.request], [cell.policy for cell in cells], slot.repeat)

    def answer(self, journal: Journal, bars: Bars = tqdm) -> None:
        """Compute the missing answers in one engine run. The journal gets each as it comes."""
        self.began = time.time()
        self.model.lm.reset_totals()
        if not self.todo:
            return
        counter = AnswerCounter([key for _, key, _ in self.todo])
        with bars(total=len(self.todo), desc=self.task.task_name, unit="answer") as bar:
            for index, result in self.model.lm.run([job for *_, job in self.todo]):
                slot, key, job = self.todo[index]
                self.answers[key] = self._answer(slot, job, result)
                journal.write(key, self.answers[key])
                bar.set_postfix_str(counter.add(key, job, result), refresh=False)
                bar.update(1)

    def follow(self, journal: Journal, bars: Bars = tqdm) -> None:
        """Score every policy on the full cache's answers (fidelity), a few prompts at a time, because the full cache's
        distributions stay in memory meanwhile."""
        if not (self.fidelity and self.unfinished):
            return
        lengths = {slot: len(self.answers[self.full.key(slot)].tokens) for slot in self.slots}
        with bars(total=len(self.slots), desc=f"{self.task.task_name} fidelity", unit="prompt") as bar:
            for group in _groups(lengths):
                jobs = [self._fidelity_jobs(slot) for slot in group]
                # The full cache goes first: the others are compared with its distributions.
                self._compare([entries[0] for entries in jobs if entries], journal)
                self._compare([entry for entries in jobs for entry in entries[1:]], journal)
                bar.update(len(group))

    def write(self) -> None:
        """Evaluate the unfinished cells and write their files."""
        answered = {key.cell for _, key, _ in self.todo}
        alone = next((cell.id for cell in self.cells if answered == {cell.answers_id}), None)
        writer = CellWriter(self.sweep, self.folder, self.model, self.model.lm.get_model_info(), self.began, alone)
        reader = self.model.lm.engine(1).reader
        wants = self._generations() if self.unfinished else {}
        with each_warning_once():
            for cell in self.unfinished:
                answers = {slot: self.answers[cell.key(slot)] for slot in self.slots}
                results = evaluate_cell(self.task, self.requests, answers, self.sweep, self.model.lm)
                cut = sum(reader.cut(want, answers[slot].tokens) for slot, want in wants.items())
                writer.write(cell, results, answers, cut)

    def _generations(self) -> dict[Slot, Generation]:
        """What each generation wants; {} if the task's answers are log-likelihoods."""
        requests = {slot: self.requests[slot.request] for slot in self.slots}
        generate = self.model.lm.job_builder.generation
        return {slot: generate(of, slot.repeat) for slot, of in requests.items() if of.request_type == "generate_until"}

    def _missing(self) -> Iterator[tuple[Slot, Key, Job]]:
        """The answers of unfinished cells that no journal has."""
        for slot in self.slots:
            cells = [cell for cell in self.unfinished if cell.key(slot) not in self.answers]
            for cell, job in zip(cells, self.jobs(slot, cells), strict=True):
                yield slot, cell.key(slot), job

    def _answer(self, slot: Slot, job: Job, result: Result) -> Answer:
        """What the journal keeps of a result."""
        prompt = job.prompt
        context = digest([prompt.tokens[: prompt.context_length], prompt.segments, prompt.marks])[:16]
        commit = provenance.describe()["commit"]
        response = self.model.lm.answer(self.requests[slot.request], result)
        if isinstance(response, tuple):
            return Answer(result.telemetry, context, logprob=response[0], greedy=response[1], commit=commit)
        return Answer(result.telemetry, context, text=str(response), tokens=result.tokens, commit=commit)

    def _fidelity_jobs(self, slot: Slot) -> list[tuple[Key, Job]]:
        """Jobs that score the full cache's answer: under the full cache first, then under each policy whose fidelity is
        missing. None if no fidelity is."""
        policies = [cell for cell in self.unfinished if cell != self.full]
        cells = [self.full, *(cell for cell in policies if self.answers[cell.key(slot)].fidelity is None)]
        lead = self.answers[self.full.key(slot)]
        if len(cells) == 1 and lead.fidelity is not None:
            return []
        want = Fidelity(lead.tokens, Lead())
        jobs = [replace(job, want=want) for job in self.jobs(slot, cells)]
        return [(cell.key(slot), job) for cell, job in zip(cells, jobs, strict=True)]

    def _compare(self, entries: Sequence[tuple[Key, Job]], journal: Journal) -> None:
        """Run fidelity jobs; each result completes an answer, here and in the journal."""
        if not entries:
            return
        for index, result in self.model.lm.run([job for _, job in entries], _DISTRIBUTIONS):
            key = entries[index][0]
            assert result.fidelity is not None
            self.answers[key] = replace(self.answers[key], fidelity=result.fidelity)
            journal.write_fidelity(key, result.fidelity)


def _document(request: Instance) -> int:
    """The id of a request's document."""
    return int(request.doc_id)


def _groups(lengths: Mapping[Slot, int]) -> Iterator[list[Slot]]:
    """Group prompts so that the tokens of their answers need at most half of the distributions held in memory."""
    group: list[Slot] = []
    for slot, length in lengths.items():
        if group and sum(lengths[other] for other in group) + length > _DISTRIBUTIONS // 2:
            yield group
            group = []
        group.append(slot)
    yield group
