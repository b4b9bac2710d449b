"""What ``attn_implementation`` chooses, and what it says if that cannot be."""

from __future__ import annotations

import re
import shutil
import sys
from types import SimpleNamespace

import fake_flash
import pytest
import tiny
import torch

from fairkv_eval.attention import kernels, ragged
from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.flash import Flash
from fairkv_eval.attention.kernels import Packing, flash_attn_kernel, torch_kernel
from fairkv_eval.attention.ragged import Ragged
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine import attach
from fairkv_eval.engine.attach import attach_chosen, check_name
from fairkv_eval.errors import UnsupportedModelError, UsageError
from fairkv_eval.model import FairKV

NAMES = sorted(fake_flash.KERNELS)


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels on the CPU in float32, and no objection to either."""
    monkeypatch.setattr(attach, "KERNELS", dict(fake_flash.KERNELS))
    monkeypatch.setattr(attach, "obstacle", lambda device, dtype: None)
    monkeypatch.setattr(attach, "is_cuda", lambda device: True)


@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_on_a_cpu_it_is_sdpa(name: str) -> None:
    windows, backend, notes = attach_chosen(tiny.model(), name)
    assert (len(windows), backend, notes) == (3, SDPA, [])


@pytest.mark.parametrize("name, expected", [("auto", "varlen"), *((name, name) for name in NAMES)])
def test_on_cuda_it_is_a_flash_kernel(loops: None, name: str, expected: str) -> None:
    windows, backend, notes = attach_chosen(tiny.model(), name)
    assert isinstance(backend, Flash) and backend.name == expected and backend.calls
    assert (len(windows), notes) == (3, [])


def test_the_layers_a_kernel_cannot_run_are_noted(loops: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are bounded in every layer of a Gemma 2, so nothing is left for torch's kernel."""
    model = tiny.model("gemma2", attn_logit_softcapping=5.0, sliding_window=9)
    with pytest.raises(UsageError, match=r"'varlen' can run no layer of this model: .* does not bound logits"):
        attach_chosen(model, "varlen")
    model = tiny.model("gemma2", attn_logit_softcapping=5.0, sliding_window=9)
    windows, backend, notes = attach_chosen(model)
    assert backend is SDPA and windows == [9, None, 9] and "does not bound logits" in notes[0]
    model = tiny.model("gemma2", attn_logit_softcapping=5.0, sliding_window=9)
    assert attach_chosen(model, "flash_attention_2")[2] == []


def broken(*args, **kwargs):
    return args[0] * 1.5


def refusing(*args, **kwargs):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize("function, message", [(broken, "its logits differ"), (refusing, "no kernel image")])
def test_a_kernel_that_fails_the_check_is_refused_and_auto_does_without(
    loops: None, function, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = fake_flash.TorchKernel(function, fake_flash.FLOATS)
    monkeypatch.setitem(attach.KERNELS, "varlen", lambda: kernel)
    with pytest.raises(UnsupportedModelError, match=f"with attn_implementation='varlen': .*{message}"):
        attach_chosen(tiny.model(), "varlen")
    windows, backend, notes = attach_chosen(tiny.model())
    assert (len(windows), backend) == (3, SDPA) and len(notes) == 1 and message in notes[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_device_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "KERNELS", dict(fake_flash.KERNELS))
    with pytest.raises(UsageError, match=f"'{name}' needs a CUDA device, and the model is on cpu"):
        attach_chosen(tiny.model(), name)


@pytest.mark.parametrize(
    "dtype, capability, message",
    [
        (torch.float32, (9, 0), r"half precision \(dtype=float16 or bfloat16\), and the model is in float32"),
        (torch.float16, (7, 5), "compute capability 8.0 or newer, and this one has 7.5"),
        (torch.bfloat16, (8, 0), None),
        (torch.float16, (12, 1), None),
    ],
)
def test_half_precision_and_a_recent_gpu_are_needed(dtype, capability, message, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = attach.obstacle(torch.device("cuda"), dtype)
    assert (found is None) if message is None else re.search(message, found or "")


@pytest.mark.parametrize(
    "name, message",
    [
        ("varlan", "unknown attn_implementation 'varlan'. Did you mean 'varlen'"),
        ("flash_attention", "Did you mean 'flash_attention_2'"),
        ("eager", "Allowed: auto, flash_attention_2, ragged, sdpa, varlen"),
        (None, "unknown attn_implementation None"),
        (2, "unknown attn_implementation 2"),
    ],
)
def test_an_unknown_name_is_an_error_before_anything_is_loaded(name: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FairKV("no/such-model", attn_implementation=name)


def test_flash_attn_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    message = r"'flash_attention_2' needs the package flash-attn .*\[flash\].* cannot be imported.*auto, sdpa, varlen"
    with pytest.raises(UsageError, match=message):
        FairKV("no/such-model", attn_implementation="flash_attention_2")


def test_flash_attn_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(flash_attn_varlen_func=lambda q, k, v: q, flash_attn_with_kvcache=lambda q: q)
    monkeypatch.setitem(sys.modules, "flash_attn", old)
    with pytest.raises(UsageError, match=r"from 2\.6 on .* the one installed is older"):
        flash_attn_kernel()


def test_flash_attn_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", fake_flash)
    assert flash_attn_kernel().name == "flash_attention_2"
    check_name("flash_attention_2")


OLD_VARLEN = [
    SimpleNamespace(varlen_attn=lambda query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal: query),
    None,  # before torch 2.10
]


@pytest.mark.parametrize("module", OLD_VARLEN)
def test_an_older_torch_is_called_by_the_operator_beneath(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(kernels, "older_varlen_attn", fake_flash.varlen_attn)
    kernel, ends = torch_kernel(), torch.tensor([0, 3], dtype=torch.int32)
    q = torch.randn(3, 2, 8)
    (expected,) = SDPA.packed([(q.transpose(0, 1),) * 3], Options(0.5))
    out = kernel.packed(q, q, q, Packing(ends, 3), Packing(ends, 3), Options(0.5))
    torch.testing.assert_close(out.transpose(0, 1), expected)


@pytest.mark.parametrize("module", OLD_VARLEN)
def test_a_torch_whose_kernel_knows_too_little(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [SimpleNamespace(name=name) for name in ("query", "scale")]
    operator = SimpleNamespace(default=SimpleNamespace(_schema=SimpleNamespace(arguments=arguments)))
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    with pytest.raises(UsageError, match=r"'varlen' needs a newer torch .*auto, sdpa, flash_attention_2"):
        torch_kernel()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_ragged_is_chosen_by_name_alone() -> None:
    windows, backend, notes = attach_chosen(tiny.model(), "ragged")
    assert isinstance(backend, Ragged) and backend.calls and (len(windows), notes) == (3, [])
    assert not isinstance(attach_chosen(tiny.model())[1], Ragged)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_what_ragged_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'ragged' needs dtype=float32 or bfloat16, and the model is in float64"):
        attach_chosen(tiny.model(dtype=torch.float64), "ragged")
    monkeypatch.setattr(attach, "embedding", lambda model: torch.empty(1, device="meta"))
    with pytest.raises(UsageError, match="'ragged' needs a model on the CPU, and this one is on meta"):
        attach_chosen(tiny.model(), "ragged")
    monkeypatch.undo()
    monkeypatch.setattr(ragged, "obstacle", lambda q, keys, values: "it is tired")
    with pytest.raises(UsageError, match=r"'ragged' can run no layer of this model: .*it is tired"):
        attach_chosen(tiny.model(), "ragged")


def test_ragged_without_a_compiler_is_refused_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(source: object) -> None:
        raise UsageError("there is no C++ compiler")

    monkeypatch.setattr(ragged, "library", missing)
    with pytest.raises(UsageError, match=r"'ragged' compiles a kernel .* there is no C\+\+ compiler.*sdpa runs every"):
        FairKV("no/such-model", attn_implementation="ragged")


def test_the_results_say_what_attended() -> None:
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), attn_implementation="sdpa")
    assert lm.get_model_info()["fairkv"]["attn_implementation"] == "sdpa"
    assert lm.attention is SDPA
