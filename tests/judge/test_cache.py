"""A question that was answered once is never paid for again."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.judge_calls import KEY, RIGHT, WRONG, ask
from helpers.judge_servers import (
    JudgeServer,
    Reply,
    completion,
    data_of,
    honest,
    judge_server,
)

from specs_lightning.judge.cache import JudgeCacheError
from specs_lightning.rewards import Judge
from specs_lightning.scoring.math_verify import Verdict


class TestCache:
    def test_the_same_question_is_paid_for_once_even_after_a_restart(self, server: JudgeServer, tmp_path: Path) -> None:
        cache = str(tmp_path / "new folder" / "judge.sqlite")
        assert ask(server, RIGHT, WRONG, RIGHT, cache=cache) == [Verdict(True), Verdict(False), Verdict(True)]
        judge = Judge(server.settings(cache=cache))
        assert judge.ask([WRONG, RIGHT]) == [Verdict(False), Verdict(True)]
        assert len(server.requests) == 2
        assert (judge.usage.cache_hits, judge.usage.requests, judge.usage.tokens) == (2, 0, 0)
        judge.close()

    def test_two_threads_with_one_question_pay_once(self) -> None:
        with judge_server(lambda request, number: Reply(honest(request), wait_s=0.3)) as server:
            judge = Judge(server.settings())
            verdicts: list[Verdict] = []
            threads = [threading.Thread(target=lambda: verdicts.extend(judge.ask([RIGHT]))) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            judge.close()
            assert verdicts == [Verdict(True)] * 3
            assert len(server.requests) == 1

    @pytest.mark.parametrize("change", [{"temperature": 1.0}, {"max_tokens": 99}, {"structured": "none"}])
    def test_another_setting_is_another_question(self, server: JudgeServer, tmp_path: Path, change: Any) -> None:
        cache = str(tmp_path / "judge.sqlite")
        ask(server, RIGHT, cache=cache)
        ask(server, RIGHT, cache=cache, **change)
        assert len(server.requests) == 2

    def test_a_reply_without_a_verdict_is_kept_and_a_failure_is_not(self, tmp_path: Path) -> None:
        cache = str(tmp_path / "judge.sqlite")
        with judge_server(completion("Hm.")) as server:
            for _ in range(2):
                assert ask(server, RIGHT, cache=cache)[0].correct is None
            assert len(server.requests) == 1
            server._reply = lambda request, number: Reply("", 500)
            for _ in range(2):
                assert ask(server, WRONG, cache=cache, retries=0)[0].correct is None
            assert len(server.requests) == 3

    def test_it_can_be_read_and_holds_no_key(self, server: JudgeServer, tmp_path: Path) -> None:
        cache = tmp_path / "judge.sqlite"
        ask(server, RIGHT, cache=str(cache))
        ((request, reply),) = sqlite3.connect(cache).execute("SELECT request, reply FROM replies").fetchall()
        assert data_of(json.loads(request))["given answer"] == "dark red"
        assert json.loads(json.loads(reply)["content"])["verdict"] == "correct"
        assert KEY.encode() not in cache.read_bytes()

    def test_a_file_that_is_none_is_refused(self, server: JudgeServer, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("not a database " * 100)
        with pytest.raises(JudgeCacheError, match=r"notes\.txt cannot be used .*move it away"):
            ask(server, RIGHT, cache=str(tmp_path / "notes.txt"))
