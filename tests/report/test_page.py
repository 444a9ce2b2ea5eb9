import re
from html import unescape
from pathlib import Path

import pytest
from helpers.synthetic_run import ATTACK, STAGES, sample, write_json, write_jsonl, write_run

from specs_lightning.errors import SpecsError
from specs_lightning.report import write_report
from specs_lightning.report.page import date, duration, flat, number, segments


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a finished run; drawn once, for all tests that only look at it."""
    path = write_report(write_run(tmp_path_factory.mktemp("run")))
    assert path.name == "report.html"
    return path.read_text(encoding="utf-8")


def small_run(folder: Path, **run: object) -> Path:
    write_json(folder / "run.json", {"name": "small", "stages": ["final"], **run})
    return folder


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def tables(page: str) -> list[str]:
    """The words of both tables of results."""
    return [words_of(table) for table in re.findall(r'<table class="results">.*?</table>', page, re.DOTALL)]


def test_the_page_says_what_the_run_is(page: str) -> None:
    for words in ("toy-specs", "seed 7", "2 March 2026", "50 min", *STAGES):
        assert words in page


def test_every_section_is_there_and_every_link_of_the_navigation_leads_to_one(page: str) -> None:
    sections = re.findall(r'<section id="([\w-]+)">', page)
    assert sections == ["results", "curves", "samples", "pairs", "statistics", "set-aside", "stages"]
    assert re.findall(r'<a href="#([\w-]+)">', page) == sections


def test_results_carry_interval_and_number_of_prompts_and_the_best_is_marked(page: str) -> None:
    main, further = tables(page)
    assert "Solved ID id, n = 500" in main and "30.0 26.1 to 34.2" in main
    assert "83.0 ★" in main and "84.0 ★" in further
    assert "−5.0" in main, "a negative gain carries a minus sign"


def test_where_numbers_of_prompts_differ_each_cell_has_its_own(tmp_path: Path) -> None:
    sets = [{"name": "id", "in_distribution": True}]
    models = [{"name": f"m{n}", "sets": {"id": {"n": n, "solved": 0.5}}} for n in (10, 20)]
    write_json(small_run(tmp_path) / "results.json", {"sets": sets, "models": models})
    main, _ = tables(write_report(tmp_path).read_text())
    assert "Solved ID id Solved" in main and "n = 10" in main and "n = 20" in main


def test_the_first_screen_is_what_came_out_then_the_table_then_curves_with_loss_last(page: str) -> None:
    results = page[page.index('<section id="results">') : page.index('<section id="curves">')]
    lead, *titles = re.findall(r'<p class="lead">.*?</p>|<table class="results">|<figcaption>.*?</figcaption>', results)
    assert words_of(lead).startswith(
        "final solves 83.0 % in distribution (base 30.0) and 44.0 % out of it (base 19.5). final has the highest Γ"
    )
    assert [words_of(title) for title in titles[1:6]] == [
        "Generalization Factor Γ",
        "Gain in distribution",
        "Gain out of distribution",
        "Reward",
        "Loss",
    ]
    main, _ = tables(page)
    assert re.findall("Solved ID|Solved OOD|Gain ID|Gain OOD|GF Γ|Correct|Format", main) == [
        "Solved ID",
        "Solved OOD",
        "Gain ID",
        "Gain OOD",
        "GF Γ",
    ]


def test_a_stage_has_one_colour_in_table_legend_and_figures(page: str) -> None:
    keys = dict(re.findall(r'style="--key: var\(--series-(\d)\)">(\w+)<', page))
    legends = re.findall(r'<li><i class="s(\d)"></i>(\w+)</li>', page[: page.index('<section id="curves">')])
    assert keys == {"0": "base", "1": "zero", "2": "cold_start", "3": "sft", "4": "final"}
    assert dict(legends) == keys
    loss = page[page.index("<figcaption>Loss</figcaption>") :]
    assert set(re.findall(r"var\(--series-(\d)\)", loss[: loss.index("</svg>")])) == {"1", "2", "3", "4"}


def test_what_each_model_gained_is_said_beside_the_table(page: str) -> None:
    beside = words_of(page[page.index('<div class="beside">') : page.index('<div class="overlays">')])
    assert "final gains 53.0 points in distribution and 24.5 out of it (formats 28.0, tasks 21.0): Γ 27.5." in beside
    assert "sft gains 35.0 points in distribution and loses 5.0 out of it" in beside


def test_the_table_has_the_gain_and_the_factor_of_each_kind_of_sets(page: str) -> None:
    _, further = tables(page)
    assert "Γ formats β = 2 Γ tasks β = 2 Gain formats difference Gain tasks difference" in further
    assert "The OOD sets come in kinds (formats, tasks), each of which weighs alike" in words_of(page)


def test_every_model_has_answers_out_of_distribution_among_its_samples_and_trainings_their_own(page: str) -> None:
    samples = page[page.index('<section id="samples">') : page.index('<section id="pairs">')]
    stages = re.findall(r"<summary>(\w+)</summary>(.*?)</details>", samples, re.DOTALL)
    assert [name for name, _ in stages] == ["base", "zero", "cold_start", "sft", "final"]
    for name, of_stage in stages:
        assert re.findall(r"set: ([\w/]+)", of_stage) == ["id", "formats/boxed", "tasks/letter"]
        assert ("While training" in of_stage) == (name != "base") == ("step 75" in of_stage)


def test_samples_carry_their_log_probabilities(page: str) -> None:
    completion = sample(0)["completions"][0]
    assert f"log-prob {number(completion['logprob'])}, -0.25 a token" in words_of(page)


def test_how_to_read_it_gives_the_formula(page: str) -> None:
    assert "Γ = (1 + β²) · G ID · G OOD / (β² · G ID + G OOD )" in words_of(page)
    assert "with β = 2" in page


def test_pairs_name_their_corruption_and_statistics_are_listed(page: str) -> None:
    assert '<span class="chip">announce answer</span>' in page
    assert "16,000" in page
    assert "judged inconsistent" in page


def test_rows_set_aside_are_counted_by_kind_and_the_first_fifty_listed(page: str) -> None:
    assert "distill: 59 rows" in page
    assert '<th scope="row">missing image file</th><td>58</td>' in page
    assert "49.png" in page
    assert "50.png" not in page


def test_the_page_says_who_judged_and_what_it_cost(tmp_path: Path, page: str) -> None:
    assert "No judge: answers in other words" in page
    folder = small_run(tmp_path)
    line = {"model": "gpt-4o", "base_url": None, "questions": 1200, "cache_hits": 200, "requests": 1001, "unscored": 1}
    write_jsonl(folder / "final" / "judge.jsonl", [line, line])
    judged = write_report(folder).read_text()
    assert "No judge" not in judged
    row = re.search(r'<td class="left">gpt-4o</td>(.*?)</tr>', judged)
    assert row is not None
    assert re.findall("<td>(.*?)</td>", row[1]) == ["2,400", "400", "2", "2,002", "0", "0"]


def test_settings_are_dotted_names(page: str) -> None:
    assert '<th scope="row">optimizer.betas</th>' in page
    assert '<th scope="row">model.lora</th><td class="left">null</td>' in page
    assert "[0.9, 0.95]" in page


def test_text_from_a_model_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", page)
    assert ATTACK in unescape(re.sub(r"</?b[^>]*>", "", page)), "and is still there to be read"


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,", "data:text/csv;")) for address in addresses)
    assert not re.findall(r"url\((?!#)", page)


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_names_in_attributes_and_titles_are_escaped(tmp_path: Path) -> None:
    folder = small_run(tmp_path, name='"><script>x</script>')
    row = sample(0) | {"images": ['"><script>'], "prompt": "<script>"}
    write_jsonl(folder / "final" / "samples.jsonl", [row])
    assert "<script" not in write_report(folder).read_text()


def test_a_run_that_has_just_begun_is_a_page(tmp_path: Path) -> None:
    folder = small_run(tmp_path, started="2026-03-02T09:12:44+00:00", finished=None, seconds=None)
    page = write_report(folder).read_text()
    assert "not finished yet" in page
    assert "final (not run)" in page
    assert '<section id="results">' not in page
    assert '<section id="curves">' not in page


def test_a_run_without_stages_is_a_page(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "empty"})
    assert "empty" in write_report(tmp_path).read_text()


def test_nan_and_null_do_not_break_the_page(tmp_path: Path) -> None:
    folder = small_run(tmp_path)
    (folder / "final").mkdir()
    (folder / "final" / "metrics.csv").write_text("step,train/loss,train/lr\n0,nan,\n1,0.5,\n2,inf,\n")
    nothing = {"n": 0, "format_kept": None, "correct": float("nan"), "solved": None, "tokens": None}
    models = [{"name": "m", "sets": {"id": nothing}, "gain_id": None, "gain_ood": None, "generalization_factor": None}]
    write_json(folder / "results.json", {"sets": [{"name": "id", "in_distribution": True}], "models": models})
    write_jsonl(folder / "final" / "pairs_preview.jsonl", [{"prompt": "p", "chosen": "c", "rejected": None}])
    page = write_report(folder).read_text()
    assert "2 values are not finite" in page
    assert ">nan<" not in page.lower()


def test_a_folder_without_a_run_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="specs run") as error:
        write_report(tmp_path)
    assert isinstance(error.value, SpecsError), "the command line prints it without a traceback"


def test_no_temporary_file_stays_behind(tmp_path: Path) -> None:
    write_report(small_run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.0, "0.0 s"), (45.2, "45 s"), (120, "2 min"), (3599, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_dates() -> None:
    assert date("2026-03-02T09:05:44+00:00") == "2 March 2026, 09:05"
    assert date("") == "–"


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (16000, "16,000"), (2.0, "2"), (0.70251, "0.7025"), (True, "true"), ("x", "x")]
)
def test_numbers(value: object, words: str) -> None:
    assert number(value) == words


def test_tags_are_cut_out() -> None:
    assert list(segments("<think>1 < 2</think>")) == [(True, "<think>"), (False, "1 < 2"), (True, "</think>")]


def test_nested_settings_become_dotted_names() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": None}) == [("a.b", "1"), ("a.c", "{}"), ("d", "null")]
