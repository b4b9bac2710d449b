"""A model of a sweep, loaded once for all its cells."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from fairkv_eval import provenance
from fairkv_eval.harness.storage_check import check_storage
from fairkv_eval.model import FairKV
from fairkv_eval.pretrained import HUB_NAME
from fairkv_eval.sweep.config import Sweep


@dataclass(frozen=True)
class LoadedModel:
    """``lm``: the harness model; ``arguments``: its model arguments in the sweep, without those of a policy."""

    lm: FairKV
    arguments: Mapping[str, Any]

    @classmethod
    def load(cls, sweep: Sweep, arguments: Mapping[str, Any]) -> LoadedModel:
        """Load one of the sweep's models, seeded as `lm_eval` seeds it. UsageError for a storage that it cannot
        have."""
        random.seed(sweep.seed[0])
        numpy.random.seed(sweep.seed[1])
        torch.manual_seed(sweep.seed[2])
        lm = FairKV(**arguments, batch_size=sweep.batch_size, device=sweep.device)
        for policy in sweep.policies:
            check_storage(lm.model, policy)
        return cls(lm, arguments)

    @property
    def name(self) -> str:
        """The model's name without a machine's paths."""
        return provenance.model_name(self.arguments.get("pretrained") or HUB_NAME)

    def identity(self) -> dict[str, Any]:
        """Everything about the model that can change an answer, as plain values."""
        return self.lm.identity()
