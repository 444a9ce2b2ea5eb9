"""A judge over real HTTP: whatever the endpoint does ends in a verdict, a retry, or no verdict and its cause."""

import asyncio
import copy
import email.utils
import json
import logging
import pickle
import re
import time
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
    user_text,
    verdict,
    wait_until,
)

from specs_lightning.judge import AnswerQuestion, ConsistencyQuestion, JudgeError, JudgeSettings
from specs_lightning.rewards import AccuracyReward, BudgetSpent, ConsistencyReward, Judge, RewardSum
from specs_lightning.scoring.math_verify import Verdict


def many(count: int) -> list[AnswerQuestion]:
    return [AnswerQuestion(f"question {i}", "red", "red" if i % 2 else "blue") for i in range(count)]


def test_verdicts_come_in_the_order_of_the_questions(server: JudgeServer) -> None:
    questions = many(20)
    assert [v.correct for v in ask(server, *questions)] == [bool(i % 2) for i in range(20)]
    assert len(server.requests) == 20


def test_a_request_carries_the_model_the_schema_and_nothing_hidden(server: JudgeServer) -> None:
    ask(server, RIGHT, temperature=None, request={"reasoning_effort": "low"})
    (request,) = server.requests
    assert request["model"] == "judge-1"
    assert request["response_format"]["json_schema"]["strict"] is True
    assert request["reasoning_effort"] == "low"
    assert "temperature" not in request
    assert data_of(request) == {"question": "?", "reference answer": "red", "given answer": "dark red"}
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("structured", "kind"), [("json_object", "json_object"), ("none", None)])
def test_an_endpoint_without_schemas_can_be_asked_too(server: JudgeServer, structured: str, kind: str | None) -> None:
    assert ask(server, RIGHT, structured=structured) == [Verdict(True)]
    assert server.requests[0].get("response_format", {}).get("type") == kind


FAULTS: dict[str, tuple[Reply | dict[str, Any], int, str]] = {
    # what the endpoint always does: the reply, the requests that it costs with two retries, and the cause
    "401": (Reply({"error": {"message": f"bad key {KEY}"}}, 401), 1, r"judge answered 401: .*bad key \[key\]"),
    "403": (Reply({"error": {"message": "no"}}, 403), 1, "judge answered 403: .*the key is taken from OPENAI_API_KEY"),
    "404": (Reply({"error": {"message": "no model"}}, 404), 1, "judge answered 404: .*check judge.base_url"),
    "400": (Reply({"error": {"message": "too long"}}, 400), 1, "judge answered 400: .*too long"),
    "429 without end": (Reply({"error": {"message": "slow"}}, 429), 3, "judge answered 429: .*slow"),
    "429 with a long wait": (
        Reply({"error": {"message": "slow"}}, 429, {"Retry-After": "3600"}),
        1,
        "judge answered 429: .*a wait of 3600 s",
    ),
    "429 without quota": (
        Reply({"error": {"message": "pay first", "code": "insufficient_quota"}}, 429),
        1,
        "judge answered 429: .*pay first",
    ),
    "500": (Reply({"error": {"message": "oh"}}, 500), 3, "judge answered 500: .*oh"),
    "503 as a page": (Reply("<html>busy</html>", 503, {"Content-Type": "text/html"}), 3, "judge answered 503: .*busy"),
    "hang": (Reply(completion("{}"), wait_s=30), 3, "judge timed out: no reply within 0.3 s"),
    "trickle": (Reply(trickle=True), 3, "judge timed out: no reply within 0.3 s"),
    "truncated JSON": (Reply(json.dumps(completion("{}"))[:80]), 3, "judge's reply is not JSON: "),
    "HTML page": (Reply("<html>log in</html>", 200, {"Content-Type": "text/html"}), 3, "judge's reply is not JSON"),
    "HTML page said to be JSON": (Reply("<html>log in</html>"), 3, "judge's reply is not JSON: .*log in"),
    "empty body": (Reply(""), 3, "judge's reply is not JSON"),
    "deeply nested": (Reply("[" * 200_000), 3, "judge's reply is not JSON"),
    "not a completion": (Reply([1, 2]), 3, "judge's reply is no chat completion"),
    "error with status 200": (Reply({"error": {"message": "oh"}}), 3, "judge's reply has no choices: .*oh"),
    "no choices": (completion("{}") | {"choices": []}, 3, "judge's reply has no choices"),
    "choices of nothing": (completion("{}") | {"choices": [None]}, 3, "judge's reply has no message"),
    "message without content": (completion("{}") | {"choices": [{"message": {"content": 5}}]}, 3, "has no message"),
    "refusal": (completion(None, refusal="I cannot help"), 1, "judge refused to answer: 'I cannot help'"),
    "content filter": (completion("", "content_filter"), 1, "judge refused to answer: 'content filter'"),
    "cut off": (completion('{"request": ', "length"), 1, "judge's reply cut off: longer than judge.max_tokens"),
    "no content": (completion(None), 1, "judge gave no verdict: not the JSON asked for"),
    "prose": (completion("The answer is correct."), 1, "judge gave no verdict: not the JSON asked for"),
    "another's verdict": (completion('{"request": "1", "verdict": "correct"}'), 1, "gave no verdict: not this request"),
}


@pytest.mark.parametrize(("fault", "requests", "cause"), FAULTS.values(), ids=FAULTS)
@pytest.mark.bad_input("judges' replies")
def test_a_fault_leaves_the_completion_unscored_with_its_cause(
    fault: Any, requests: int, cause: str, ask_prompt: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cache = tmp_path / "judge.sqlite"
    with judge_server(fault) as server, caplog.at_level(logging.DEBUG):
        waits = 0.3 if "timed out" in cause else 30.0  # a busy machine is no fault of the judge
        judge = Judge(server.settings(timeout_seconds=waits, cache=str(cache)))
        total_N, by_name = ask_prompt(judge)
        judge.close()
    assert total_N.isnan().all()
    (said,) = by_name["accuracy"].causes
    assert re.search(cause, said), said
    assert len(server.requests) == requests
    assert (judge.usage.requests, judge.usage.unscored, judge.usage.questions) == (requests, 1, 1)
    assert KEY not in said + caplog.text
    assert KEY.encode() not in cache.read_bytes()


@pytest.fixture
def ask_prompt(ask: Any, reply: Any) -> Any:  # of the rewards' conftest
    def run(judge: Judge) -> Any:
        reward = AccuracyReward(judge=judge)
        prompts, completions = [ask("red", "text")], [reply("<answer>dark red</answer>")]
        return RewardSum([reward], max_unscored_share=1.0).score(prompts, completions)

    return run


@pytest.mark.parametrize(
    "fault",
    [
        Reply({"error": {"message": "slow"}}, 429, {"Retry-After": "0.05"}),
        Reply({"error": {"message": "oh"}}, 500),
        Reply("<html>", 200, {"Content-Type": "text/html"}),
        Reply(json.dumps(completion("{}"))[:50]),
        completion("{}") | {"choices": []},
    ],
    ids=["429", "500", "HTML", "truncated", "no choices"],
)
def test_a_passing_fault_costs_a_retry(fault: Any) -> None:
    with judge_server(lambda request, number: fault if number == 1 else honest(request)) as server:
        assert ask(server, RIGHT) == [Verdict(True)]
        assert len(server.requests) == 2


def test_a_reply_that_does_not_come_costs_a_retry() -> None:
    hangs = Reply(completion("{}"), wait_s=20)
    with judge_server(lambda request, number: hangs if number == 1 else honest(request)) as server:
        assert ask(server, RIGHT, timeout_seconds=5) == [Verdict(True)]
        assert len(server.requests) == 2


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_kept_to(as_date: bool) -> None:
    times: list[float] = []

    def reply(request: dict[str, Any], number: int) -> Any:
        times.append(time.time())
        wait = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "0.4"
        return Reply({"error": {"message": "slow"}}, 429, {"Retry-After": wait}) if number == 1 else honest(request)

    with judge_server(reply) as server:
        assert ask(server, RIGHT) == [Verdict(True)]
    assert times[1] - times[0] >= (0.9 if as_date else 0.4)


def test_a_moment_to_wait_for_is_one_of_the_servers_clock() -> None:
    """Which is an hour ahead of this one's."""

    def reply(request: dict[str, Any], number: int) -> Any:
        ahead = [email.utils.formatdate(time.time() + 3600 + more, usegmt=True) for more in (0, 1)]
        headers = {"Date": ahead[0], "Retry-After": ahead[1]}
        return Reply({"error": {"message": "slow"}}, 429, headers) if number == 1 else honest(request)

    with judge_server(reply) as server:
        assert ask(server, RIGHT) == [Verdict(True)]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_neither_the_key_nor_the_question_goes_where_an_endpoint_sends_on_to(status: int) -> None:
    with judge_server() as elsewhere:
        sent_on = Reply("", status, {"Location": f"{elsewhere.url}/chat/completions"})
        with judge_server(sent_on) as server:
            server.models_reply = sent_on
            (verdict,) = ask(server, RIGHT)
            with pytest.raises(JudgeError, match=rf"answered {status}.*does not go on to .*judge.base_url must be"):
                Judge(server.settings()).check()
        assert verdict.correct is None and elsewhere.requests == []


def test_the_environment_does_not_turn_the_key_to_another_endpoint(
    server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    judge = Judge(JudgeSettings("judge-1", cache=None))
    assert str(judge._loop().client.base_url) == "https://api.openai.com/v1/"
    judge.close()


@pytest.mark.parametrize("url", ["http://gpu-node:8000/v1", "http://10.0.0.7/v1", "http://localhost.evil.com/v1"])
def test_a_key_is_shown_over_plain_http_to_this_machine_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JudgeError, match=r"OPENAI_API_KEY could be read on its way to .*judge\.plain_http") as error:
        Judge(JudgeSettings("judge-1", url))
    assert KEY not in str(error.value)
    Judge(JudgeSettings("judge-1", url, plain_http=True))
    for other in (url.replace("http:", "https:"), "http://127.0.0.1:1/v1", "http://[::1]:1/v1"):
        Judge(JudgeSettings("judge-1", other))
    monkeypatch.delenv("OPENAI_API_KEY")
    Judge(JudgeSettings("judge-1", url))


def test_no_more_than_so_many_requests_are_under_way() -> None:
    def slow(request: dict[str, Any], number: int) -> Any:
        return Reply(honest(request), wait_s=0.2)

    with judge_server(slow) as server:
        ask(server, *many(20), concurrency=4)
        assert server.most_at_once == 4


def test_an_endpoint_that_is_down_is_not_asked_of_every_question(server: JudgeServer) -> None:
    url = server.url
    server.stop()
    judge = Judge(JudgeSettings("judge-1", url, cache=None, retries=1, concurrency=2))
    verdicts = judge.ask(many(100))
    judge.close()
    assert {v.correct for v in verdicts} == {None}
    assert all(v.cause.startswith("judge unreachable: ") for v in verdicts)
    assert judge.usage.requests <= 2 * 2 * 2


def test_one_bad_question_does_not_take_the_others_with_it() -> None:
    def reply(request: dict[str, Any], number: int) -> Any:
        return Reply({"error": {"message": "oh"}}, 500) if "question 3" in user_text(request) else honest(request)

    with judge_server(reply) as server:
        verdicts = ask(server, *many(10), concurrency=2)
    assert [i for i, v in enumerate(verdicts) if v.correct is None] == [3]


class TestBudget:
    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_it_is_never_exceeded_in_requests_and_a_larger_one_goes_on(
        self, server: JudgeServer, tmp_path: Path, concurrency: int
    ) -> None:
        settings = {"cache": str(tmp_path / "judge.sqlite"), "concurrency": concurrency}
        with pytest.raises(BudgetSpent, match=r"budget of 5 requests is spent: raise judge.max_requests"):
            ask(server, *many(12), max_requests=5, **settings)
        assert len(server.requests) == 5
        assert len(ask(server, *many(12), max_requests=7, **settings)) == 12
        assert len(server.requests) == 12

    def test_retries_count(self) -> None:
        with judge_server(Reply("", 500)) as server:
            with pytest.raises(BudgetSpent):
                ask(server, RIGHT, max_requests=2, retries=5)
            assert len(server.requests) == 2

    def test_tokens_are_counted_as_the_endpoint_counts_them(self, server: JudgeServer) -> None:
        with pytest.raises(BudgetSpent, match="budget of 300 total tokens"):
            ask(server, *many(12), max_total_tokens=300, concurrency=1)
        assert len(server.requests) == 3  # of 110 each

    def test_it_ends_the_run_and_not_a_completion(self, server: JudgeServer, ask_prompt: Any) -> None:
        judge = Judge(server.settings(max_requests=1))
        judge.ask([RIGHT])
        with pytest.raises(BudgetSpent):
            ask_prompt(judge)
        judge.close()


class TestCheck:
    def test_an_endpoint_with_the_model_is_right(self, server: JudgeServer) -> None:
        Judge(server.settings()).check()
        assert server.requests == []

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            (Reply({"error": {"message": f"bad key {KEY}"}}, 401), r"answered 401: .*bad key \[key\].*OPENAI_API_KEY"),
            (Reply("<html>", 200, {"Content-Type": "text/html"}), "judge"),
            (Reply("", wait_s=30), "timed out"),
        ],
    )
    def test_a_wrong_one_is_refused_at_once(self, server: JudgeServer, reply: Reply, said: str) -> None:
        server.models_reply = reply
        with pytest.raises(JudgeError, match=said) as caught:
            Judge(server.settings(timeout_seconds=0.3)).check()
        assert KEY not in str(caught.value)

    def test_a_model_that_is_not_there_is_refused_and_the_others_named(self, server: JudgeServer) -> None:
        with pytest.raises(JudgeError, match=r"judge-2 is not at http.*there are: judge-1"):
            Judge(server.settings(model="judge-2")).check()

    def test_an_endpoint_without_a_list_is_given_the_benefit_of_the_doubt(self, server: JudgeServer) -> None:
        server.models_reply = Reply({"error": {"message": "no such page"}}, 404)
        Judge(server.settings()).check()

    def test_nobody_there(self, server: JudgeServer) -> None:
        server.stop()
        with pytest.raises(JudgeError, match=r"judge unreachable: .*judge-1 at http"):
            Judge(server.settings()).check()


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"concurrency": 0}, "judge.concurrency must be positive"),
            ({"max_requests": 0}, "judge.max_requests must be positive"),
            ({"timeout_seconds": -1.0}, "judge.timeout_seconds must be positive"),
            ({"retries": -1}, "judge.retries must not be negative"),
            ({"base_url": "localhost:8000"}, "is no address"),
            ({"base_url": "http://me:secret@host/v1"}, "holds a password"),
            ({"base_url": "http://host/v1?key=secret"}, "holds a password or a query"),
            ({"instructions": "/nowhere"}, "judge.instructions: /nowhere is no folder"),
        ],
    )
    def test_they_are_checked(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            JudgeSettings(model="m", **settings)

    def test_openais_endpoint_needs_a_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(JudgeError, match="set the environment variable OPENAI_API_KEY"):
            Judge(JudgeSettings("gpt-4o"))
        Judge(JudgeSettings("m", "http://localhost:1/v1"))

    def test_the_key_stays_in_the_process(self, server: JudgeServer) -> None:
        judge = Judge(server.settings())
        assert KEY not in repr(judge.settings)
        assert KEY.encode() not in pickle.dumps(judge)
        for twin in (copy.deepcopy(judge), pickle.loads(pickle.dumps(judge))):
            assert twin.ask([RIGHT]) == [Verdict(True)]
            twin.close()


def test_it_works_inside_a_running_event_loop_and_after_being_closed(server: JudgeServer) -> None:
    judge = Judge(server.settings())

    async def notebook() -> list[Verdict]:
        return judge.ask([RIGHT])

    assert asyncio.run(notebook()) == [Verdict(True)]
    judge.close()
    judge.close()
    assert judge.ask([WRONG]) == [Verdict(False)]
    judge.close()


def test_too_long_a_text_is_not_sent(server: JudgeServer) -> None:
    (said,) = ask(server, AnswerQuestion("?", "red", "red " * 5000))
    assert said == Verdict(None, "too long for the judge: 20000 characters of 8000")
    assert server.requests == []


class TestRewards:
    def test_rules_come_first_and_the_judge_is_asked_of_other_words_alone(
        self, server: JudgeServer, ask: Any, reply: Any, accuracy: AccuracyReward
    ) -> None:
        judge = Judge(server.settings())
        accuracy.judge = judge
        cases = [
            (ask("red", "text"), "Red.", 1.0),
            (ask("red", "text"), "a dark red", 1.0),
            (ask("red", "text"), "blue", 0.0),
            (ask("yes"), "no", 0.0),
            (ask("7"), "8", 0.0),
            (ask("x+1", "math"), "1+x", 1.0),
            (ask("B", choices=("red", "blue")), "crimson", 0.0),
        ]
        prompts = [prompt for prompt, _, _ in cases]
        values = accuracy(prompts, [reply(f"<answer>{text}</answer>") for _, text, _ in cases]).tolist()
        judge.close()
        assert values == [value for _, _, value in cases]
        assert {data_of(request)["given answer"] for request in server.requests} == {"a dark red", "blue"}

    def test_without_a_judge_other_words_are_wrong(self, ask: Any, reply: Any, accuracy: AccuracyReward) -> None:
        assert accuracy([ask("red", "text")], [reply("<answer>dark red</answer>")]).tolist() == [0.0]

    def test_a_judge_decides_consistency(self, ask: Any, reply: Any) -> None:
        def reads(request: dict[str, Any], number: int) -> Any:
            return verdict(request, "consistent" if "six" in data_of(request)["reasoning"] else "inconsistent")

        with judge_server(reads) as server:
            judge = Judge(server.settings())
            reward = ConsistencyReward(judge)
            texts = ["so it is six", "so 6", "no idea"]
            completions = [reply(f"<think>{text}</think><answer>6</answer>") for text in texts]
            completions.append(reply("nothing to be found in this whole long line of text"))
            assert reward([ask("6")] * 4, completions).tolist() == [1.0, 0.0, 0.0, 0.0]
            assert len(server.requests) == 3
            reward.close()

    def test_a_reward_keeps_its_own_judge(self) -> None:
        own, run = Judge(JudgeSettings("a", "https://h/v1")), Judge(JudgeSettings("b", "https://h/v1"))
        for reward in (AccuracyReward(judge=own), ConsistencyReward(own)):
            reward.use_judge(run)
            assert reward.judge is own
        for reward in (AccuracyReward(), ConsistencyReward()):
            reward.use_judge(run)
            assert reward.judge is run


def test_an_interrupted_call_pays_for_nothing_more() -> None:
    with judge_server(lambda request, number: Reply(honest(request), wait_s=0.1)) as server:
        judge = Judge(server.settings(concurrency=1))
        loop = judge._loop()
        task = asyncio.run_coroutine_threadsafe(judge._ask_all(many(50)), loop._loop)
        wait_until(lambda: len(server.requests) >= 2)
        task.cancel()
        time.sleep(0.2)
        asked = len(server.requests)
        time.sleep(0.3)
        assert len(server.requests) == asked < 10
        judge.close()


def test_consistency_questions_show_the_whole_reasoning(server: JudgeServer) -> None:
    server._reply = lambda request, number: verdict(request, "consistent")
    assert ask(server, ConsistencyQuestion("?", "first\nthen", "6")) == [Verdict(True)]
    assert data_of(server.requests[0]) == {"question": "?", "reasoning": "first\nthen", "answer": "6"}
