"""Memory of the machines, disk and time: sums that one can do by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers.planned_jobs import small_job

from specs_lightning.modules.step_speed import operations_a_token
from specs_lightning.plan.cost import ASSUMED_MFU, PROCESS_BYTES, Amount, cost_of
from specs_lightning.plan.job import Job
from specs_lightning.plan.memory import model_size
from specs_lightning.plan.settings import PlanSettings
from specs_lightning.policy.loading import LoRASettings, empty_model

GIVEN = PlanSettings(sampled_per_second=10, trained_per_second=5)
AMOUNT = Amount(sampled=1_000, samplers=2, trained=400, evaluated=200)


def on_gpus(job: Job, ranks: int = 1) -> Job:
    computing = replace(job.devices.computing, on_gpu=True)
    return replace(job, devices=replace(job.devices, computing=computing, ranks=ranks))


def test_each_device_does_its_share() -> None:
    assert cost_of(on_gpus(small_job(), 4), AMOUNT, GIVEN, 2).seconds == {
        "sampling": 1_000 / 10 / 2,
        "training": 400 / 5 / 4,
        "evaluations": 200 / 10 / 2,
    }


def test_a_token_that_is_only_read_costs_a_forward_pass() -> None:
    operations = operations_a_token(empty_model(small_job().config, small_job().policy))
    without, beside = (
        cost_of(small_job(), replace(AMOUNT, read=read), GIVEN, 2).seconds["training"] for read in (0, 400)
    )
    share = operations.forward / (operations.forward + operations.backward)
    assert beside == pytest.approx(without * (1 + share)) and 0.3 < share < 0.4


def test_of_a_cpu_nothing_is_assumed_of_a_gpu_its_rates_are_and_are_said() -> None:
    assert cost_of(small_job(), AMOUNT, PlanSettings(), 2).seconds == {}
    job = on_gpus(small_job())
    found = cost_of(job, AMOUNT, PlanSettings(), 2)
    operations = operations_a_token(empty_model(job.config, job.policy))
    rate = ASSUMED_MFU * 989e12 / (operations.forward + operations.backward)
    assert found.seconds["training"] == pytest.approx(400 / rate)
    assert [setting in note for setting, note in zip(("--sampled", "--trained"), found.assumed, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=4)])
def test_checkpoints_hold_what_is_trained_and_adams_two_numbers_of_each_weight(lora: LoRASettings | None) -> None:
    job = small_job()
    job = replace(job, policy=replace(job.policy, lora=lora))
    model = model_size(job)
    disk = cost_of(job, AMOUNT, GIVEN, 2).disk
    assert disk == {"3 checkpoints": 3 * 3 * model.trained, "the model": model.weights}
    assert (model.trained < model.weights / 10) == (lora is not None)


def test_a_process_takes_its_libraries_and_the_first_on_gpus_reads_the_model() -> None:
    assert cost_of(small_job(), AMOUNT, GIVEN, 2).host == {"processes": PROCESS_BYTES}
    host = cost_of(on_gpus(small_job(), 4), AMOUNT, GIVEN, 2).host
    assert host["processes"] == 4 * PROCESS_BYTES
    assert host["the model, as the first process reads it"] == model_size(small_job()).weights
