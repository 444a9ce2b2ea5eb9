"""A judge of a stand-in server, asked and closed."""

from typing import Any

from helpers.judge_servers import (
    JudgeServer,
)

from specs_lightning.judge import AnswerQuestion
from specs_lightning.rewards import Judge
from specs_lightning.scoring.math_verify import Verdict

KEY = "sk-secret-0123456789"
RIGHT, WRONG = AnswerQuestion("?", "red", "dark red"), AnswerQuestion("?", "red", "blue")


def ask(server: JudgeServer, *questions: Any, **settings: Any) -> list[Verdict]:
    judge = Judge(server.settings(**settings))
    try:
        return judge.ask(questions)
    finally:
        judge.close()
