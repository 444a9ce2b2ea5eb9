"""MEGA-Bench's fields, each metric worked out by hand."""

import json
import math

import pytest
from helpers.benchmark_prompts import prompt

from specs_lightning.groups import Prompt
from specs_lightning.scoring.benchmarks import judge_response
from specs_lightning.scoring.benchmarks.mega_bench import FIELD_METRICS
from specs_lightning.scoring.math_verify import Verdict


def mega(fields: dict[str, str], metrics: dict[str, str], parse: str = "json", **joined: object) -> Prompt:
    info = {"field_score_function": metrics, "aggregation": joined, "response_parse_function": parse}
    return prompt("mega_bench", "x", fields=json.dumps(fields), metric_info=str(info))


@pytest.mark.parametrize(
    ("question", "response", "share"),
    [
        (mega({"answer": "B"}, {"answer": "exact_str_match"}, "answer_string"), "Answer: A\nAnswer: (B) two", 1.0),
        (mega({"a": "1", "b": "x y"}, {"a": "exact_str_match", "b": "simple_str_match"}), '{"a": 1, "b": "X-Y"}', 1.0),
        (mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match")), 'Answer: {"a": "1", "b": "3"}', 0.5),
        (
            mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match"), field_weights={"a": 3, "b": 1}),
            '{"a": "1"}',
            0.75,
        ),
        (mega({"a": "1", "b": "2"}, dict.fromkeys("ab", "exact_str_match"), function="min"), '{"a": "1"}', 0.0),
        (mega({"a": "100"}, {"a": "general_single_numerical_match"}, "answer_string"), "Answer: 100.9", 1.0),
        (mega({"a": "['x', 'y']"}, {"a": "set_equality"}, "answer_string"), "Answer: ['y', 'x']", 1.0),
        (mega({"a": "['x', 'y']"}, {"a": "jaccard_index"}, "answer_string"), "Answer: ['y', 'z']", 1 / 3),
        (mega({"a": "['x', 'Y']"}, {"a": "multi_ref_phrase"}, "answer_string"), "Answer: y", 1.0),
    ],
)
def test_mega_bench_scores_fields(question: Prompt, response: str, share: float) -> None:
    assert judge_response(response, question) == pytest.approx(share)


# metric, answer, gold, and the score worked out by hand
FIELDS: list[tuple[str, object, str, float]] = [
    ("exact_str_match", "(B) two", "B", 1),
    ("exact_str_match", "Both", "B", 1),  # the benchmark's own oddity
    ("exact_str_match", "b", "B", 0),
    ("code_result_exact_str_match", "3", "```\n3\n```", 1),
    ("near_str_match", "The Café de Flores", "Cafe de Flore", 1 - 1 / 14),
    ("near_str_match", "Cafe", "Tea", 0),
    ("normalized_similarity_damerau_levenshtein", "abcd", "acbd", 0.75),
    ("normalized_similarity_damerau_levenshtein", "ca", "abc", 1 / 3),
    ("general_single_numerical_match", "x = 99.5", "100", 1),
    ("general_single_numerical_match", "98.5", "100", 0),
    ("boxed_single_numerical_match", r"so \boxed{\frac{1}{2}}", "0.5", 1),
    ("number_rel_diff_ratio", "75", "100", 0.75),
    ("number_rel_diff_ratio", "many", "100", 0),
    ("positive_int_match", "3", "3", 1),
    ("normalized_rmse", "0.45", "0.4", 0.5),
    ("angle_seq_float_rmse", "[0, 94]", "[0, 90]", 0.8),
    ("angle_seq_float_rmse", "[0]", "[0, 90]", 0),
    ("set_equality", "[1, 2]", "[2, 1]", 1),
    ("set_equality", "['1', '2']", "[2, 1]", 0),
    ("set_equality", "b, a", "{a, b}", 1),
    ("set_equality", "(a, b", "a, b", 0),
    ("str_set_equality_comma", "None, A", "a, none", 1),
    ("str_set_equality_line_break", r"A\nb", "b\na", 1),
    ("set_precision", "[1, 2, 3, 4]", "[1, 9]", 0.25),
    ("jaccard_index_case_insensitive", "[A, b]", "[a, c]", 1 / 3),
    ("chess_move_list_jaccard_index", "[Qh5#, e4]", "[Qh5, e4!]", 1),
    ("sequence_accuracy_case_insensitive", "[a, B, x]", "[A, b, c]", 2 / 3),
    ("sequence_accuracy_case_insensitive", "[a]", "[a, b]", 0),
    ("longest_common_list_prefix_ratio", "[1, 2, 9, 4]", "[1, 2, 3, 4, 5]", 0.4),
    ("sequence_coords_similarity", "[[0, 0], [1, 1]]", "[[0, 0], [0, 0]]", (1 + math.exp(-10)) / 2),
    ("dict_equality", '{"a": 1}', "{'a': 1}", 1),
    ("dict_precision", '{"a": "1", "b": "2"}', "{'a': '1'}", 0.5),
    ("dict_exact_str_match_agg_recall", {"a": "1"}, "{'a': '1', 'b': '2'}", 0.5),
    ("dict_exact_str_match_agg_recall", "no dictionary", "{'a': '1'}", 0),
    ("dict_set_equality_agg_jaccard", '{"a": [1], "c": [2]}', "{'a': [1], 'b': [2]}", 1 / 3),
    ("dict_jaccard_agg_jaccard", '{"a": [1, 2]}', "{'a': [1]}", 0.5),
    ("nbbox_iou_tuple", "[(0, 0, 1, 1), (0, 0, 1, 0.5)]", "[(0, 0, 1, 1)]", 0.75),
    ("nbbox_iou_single", "(0, 0, 1, 0.5)", "(0, 0, 1, 1)", 0.5),
    ("nbbox_iou_sequence", "[[0, 0, 1, 1]]", "[[0, 0, 1, 1], [0, 0, 1, 1]]", 0),
    (
        "dict_nbbox_iou_tuple_agg_jaccard",
        '{"cat": [[0, 0, 1, 1]]}',
        "{'cat': [[0, 0, 1, 1]], 'dog': [[0, 0, 1, 1]]}",
        0.5,
    ),
    ("xml_nbbox_iou_single", "<box>0, 0, 1, 0.5</box>", "<box>0, 0, 1, 1</box>", 0.5),
    ("xml_norm_point_distance", "<point>0.3, 0.4</point>", "<point>0, 0</point>", 0.5),
    ("xml_norm_point_distance", "<point>3, 4</point>", "<point>0, 0</point>", 0),
]


@pytest.mark.parametrize(("metric", "answer", "gold", "score"), FIELDS)
def test_a_metric_of_mega_bench(metric: str, answer: object, gold: str, score: float) -> None:
    question = mega({"a": gold}, {"a": metric})
    assert judge_response(json.dumps({"a": answer}), question) == pytest.approx(score)


def test_each_metric_that_is_read_is_worked_out_by_hand() -> None:
    elsewhere = {"exact_str_match_case_insensitive", "simple_str_match", "multi_ref_phrase", "jaccard_index"}
    elsewhere |= {"set_equality_case_insensitive", "sequence_equality", "sequence_equality_case_insensitive"}
    assert {metric for metric, *_ in FIELDS} | elsewhere == set(FIELD_METRICS)


@pytest.mark.parametrize("metric", FIELD_METRICS)
def test_whatever_a_model_says_a_metric_scores_it(metric: str) -> None:
    gold = "{'a': '1'}" if metric.startswith("dict") else "1"
    for answer in ("", None, "[[[", "{}", [], {}, 1e308, "(" * 10_000, "9" * 5000, "a " * 5000):
        score = judge_response(json.dumps({"a": answer}), mega({"a": gold}, {"a": metric}))
        assert isinstance(score, float) and 0 <= score <= 1


def test_a_field_that_does_not_count_leaves_the_score_to_the_others() -> None:
    question = mega({"a": "0", "b": "x"}, {"a": "positive_int_match", "b": "exact_str_match"})
    assert judge_response('{"a": "0", "b": "x"}', question) == 1.0
    alone = mega({"a": "0"}, {"a": "positive_int_match"})
    assert judge_response('{"a": "0"}', alone) == Verdict(None, "no field counts")


def test_a_point_is_looked_for_in_the_boxes_of_its_row() -> None:
    info = str({"field_score_function": {"a": "xml_norm_point_in_bbox"}, "response_parse_function": "answer_string"})
    row = {"fields": '{"a": ""}', "metric_info": info, "eval_context": "{'bounding_boxes': ['(0, 0, 0.5, 0.5)']}"}
    question = prompt("mega_bench", "x", **row)
    assert judge_response("Answer: <point>0.2, 0.5</point>", question) == 1.0
    assert judge_response("Answer: <point>0.6, 0.5</point>", question) == 0.0
    assert judge_response("Answer: there", question) == 0.0


def test_mega_benchs_other_metrics_are_named() -> None:
    question = mega({"a": "1", "b": "2"}, {"a": "gpt_4o_as_judge", "b": "exact_str_match"})
    assert judge_response("1", question) == Verdict(None, "no rule for the metric gpt_4o_as_judge")
