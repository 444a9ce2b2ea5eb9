"""A schema says what a file must have and which of its columns are a pair's sides."""

from __future__ import annotations

import pytest

from specs_lightning.data.schema_base import Schema


class Ranked(Schema):
    required = ("query", "worse")
    rejected = "worse"


@pytest.mark.parametrize(("existing", "missing"), [((), "query"), (("query",), "worse"), (("query", "worse"), None)])
def test_the_first_column_that_lacks_is_told(existing: tuple[str, ...], missing: str | None) -> None:
    assert Ranked().missing(existing) == missing


def test_sides_are_read_from_its_columns() -> None:
    row = {"chosen": "a", "worse": "b", "rejected": "c"}
    assert Ranked().sides(row) == ("a", "b")
    assert Schema().sides(row) == ("a", "c")
    assert Schema().sides({"completion": "a"}) == ("a", None)
