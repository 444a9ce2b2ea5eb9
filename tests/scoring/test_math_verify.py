"""math-verify in processes: verdicts, hard time limits, recovery, and no dependence on the caller's thread."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from specs_lightning.scoring import math_verify
from specs_lightning.scoring.math_verify import TIMED_OUT, Comparison, MathVerifier, VerifierError

HUGE_POWER = "9^{9^{9^{9}}}"


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2", True),
        ("x+1", "1+x", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("[1,2)", "(1,2]", False),
        ("6", "5 or 6", False),
        (r"2\pi", "not an expression {", False),
    ],
)
def test_verdicts(verifier, gold, answer, correct):
    assert verifier.compare([Comparison(gold, answer)])[0].correct is correct


@pytest.mark.parametrize("gold", [r"\foo{", "?", r"\foo"])
def test_an_unparseable_gold_is_never_correct(verifier, gold):
    verdict = verifier.compare([Comparison(gold, gold)])[0]
    assert verdict.correct is None
    assert "cannot parse the gold" in verdict.cause


def test_verdicts_keep_the_order_of_the_questions(verifier):
    questions = [Comparison("x", "x"), Comparison("x", "y"), Comparison("x", "x")]
    assert [verdict.correct for verdict in verifier.compare(questions)] == [True, False, True]


def test_any_text_survives_the_way_to_the_process(verifier):
    for answer in ["\ud800", "a\x00b", "\n", '"', "\u2028", "?" * 10**5]:
        assert verifier.compare([Comparison("x", answer)])[0].correct is False


def test_a_hostile_answer_costs_the_timeout_and_the_next_is_served():
    pool = MathVerifier(timeout_seconds=1.0)
    try:
        pool.compare([Comparison("x", "x")])  # starting isn't part of the measurement
        start = time.monotonic()
        assert pool.compare([Comparison("7", HUGE_POWER)])[0] == (None, TIMED_OUT)
        assert time.monotonic() - start < 3.0
        assert pool.compare([Comparison("x", "x")])[0].correct is True
    finally:
        pool.close()


def test_it_works_off_the_main_thread(verifier):
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.extend(verifier.compare([Comparison("x+1", "1+x")])))
    thread.start()
    thread.join()
    assert [verdict.correct for verdict in verdicts] == [True]


def test_a_process_that_dies_leaves_its_question_unscored_and_is_replaced():
    pool = MathVerifier(timeout_seconds=20.0)
    try:
        pool.compare([Comparison("x", "x")])
        worker = pool._idle.get()
        os.kill(worker._process.pid, signal.SIGTERM)
        worker._process.wait()
        pool._idle.put(worker)
        assert pool.compare([Comparison("x", "x")])[0] == (None, "the math-verify process was killed (SIGTERM)")
        assert pool.compare([Comparison("x", "x")])[0].correct is True
    finally:
        pool.close()


def test_a_child_that_is_killed_as_it_compares_is_not_said_to_have_timed_out_and_the_next_is_served():
    """As by a system that is out of memory."""
    pool = MathVerifier(timeout_seconds=60.0)
    try:
        pool.compare([Comparison("x", "x")])
        worker = pool._idle.get()
        pool._idle.put(worker)
        (child,) = psutil.Process(worker._process.pid).children()
        child.suspend()
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(pool.compare, [Comparison("7", "8")])
            child.kill()
            assert asked.result() == [(None, "the math-verify process was killed (SIGKILL)")]
        assert pool.compare([Comparison("x", "x")]) == [(True, None)]
        assert worker.alive and psutil.Process(worker._process.pid).children() != [child]
    finally:
        pool.close()


def test_what_is_sent_to_all_of_this_process_group_reaches_none_of_its_comparisons():
    """Ctrl-C, a closed terminal, a run that is told to stop: a training that is saved then keeps its verdicts."""
    pool = MathVerifier()
    try:
        pool.compare([Comparison("x", "x")])
        worker = pool._idle.get()
        pool._idle.put(worker)
        for process in (worker._process.pid, psutil.Process(worker._process.pid).children()[0].pid):
            assert os.getpgid(process) == worker._process.pid != os.getpgid(0)
    finally:
        pool.close()


def test_it_ends_with_the_process_that_asks():
    asking = """
import os
from specs_lightning.scoring.math_verify import Comparison, MathVerifier
pool = MathVerifier()
pool.compare([Comparison("x", "x")])
print(pool._idle.get()._process.pid, flush=True)
os._exit(0)
"""
    told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True).stdout
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(told)).wait(30)


def test_no_process_starts_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(math_verify, "_SCRIPT", "/nowhere")
    pool = MathVerifier()
    assert pool.compare([]) == []
    pool.close()


def test_a_process_that_cannot_start_is_an_error_not_a_zero(monkeypatch, tmp_path):
    monkeypatch.setattr(math_verify, "_SCRIPT", tmp_path / "missing.py")
    with pytest.raises(VerifierError, match="ended before its first answer"):
        MathVerifier().compare([Comparison("x", "x")])


def test_a_copy_has_processes_of_its_own(verifier):
    for twin in (copy.deepcopy(verifier), pickle.loads(pickle.dumps(verifier))):
        assert (twin.timeout_seconds, twin.workers) == (verifier.timeout_seconds, verifier.workers)
        assert twin._idle is not verifier._idle


@pytest.mark.parametrize("settings", [{"timeout_seconds": 0}, {"workers": 0}])
def test_limits_must_be_positive(settings):
    with pytest.raises(ValueError, match="must be"):
        MathVerifier(**settings)
