from __future__ import annotations

import logging

import pytest
import torch

from workers.llm.engines.voxtral.graphs import Recorder


def test_on_a_cpu_the_work_itself_is_what_runs() -> None:
    def work() -> None:
        raise AssertionError("called while it should be kept")

    assert Recorder(torch.device("cpu")).record(work, "the work") is work


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_recording_reads_and_writes_the_same_buffers() -> None:
    numbers, doubled = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    replay = Recorder(torch.device("cuda")).record(lambda: doubled.copy_(numbers * 2), "the doubling")
    numbers.copy_(torch.arange(4))
    replay()
    assert doubled.tolist() == [0, 2, 4, 6]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_cannot_be_recorded_goes_on_as_it_is_after_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = torch.ones(4, device="cuda")

    def waits_for_the_device() -> float:
        return float(numbers.sum().item())

    recorder = Recorder(torch.device("cuda"))
    with caplog.at_level(logging.WARNING):
        assert recorder.record(waits_for_the_device, "one") is waits_for_the_device
        assert recorder.record(waits_for_the_device, "another") is waits_for_the_device
    assert len(caplog.records) == 1
    assert waits_for_the_device() == 4
