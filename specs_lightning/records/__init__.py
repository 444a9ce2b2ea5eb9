"""The files of a run: of each its type, its writer and its reader, in one place. None needs torch to be read.

=====================  ==================================  =========================================================
file                   record                              written by
=====================  ==================================  =========================================================
`run.json`             `run.RunRecord`                     `specs run`
`results.json`         `results.Results`                   `specs run`
`comparison.json`      `comparison.ComparisonRecord`             `specs compare`
`stage.json`           `run.StageRecord`                   `specs run`, in each stage's folder, as all that follow
`answers.jsonl`        `answers.Answer`, a line each       the evaluation of a stage's model
`metrics.csv`          `metrics.Series`, a column each     a training's logger
`samples.jsonl`        `samples.Sample`, a line each       the callback `SampleTable`
`answer_samples.jsonl` `samples.Sample`, a line each       the evaluation of a stage's model
`progress.json`        `progress.ProgressRecord`           a stage's progress bar, while there is one
`pairs.parquet`        `pairs.PreferencePair`, a row each  `specs distill`
`pairs_preview.jsonl`  `distillation.PairPreview`          `specs distill`
`statistics.json`      counts by name                      `specs distill`
`set_aside.jsonl`      `set_aside.SetAsideRow`             whatever reads data
`README.md`            `model_card.model_card`, Markdown   the export of a model, in its folder
`trackers.json`        names of runs by tracker            a training with `--logger`
`judge.jsonl`          `judge_usage.JudgeUsage`            whatever asks a judge, a line for each process
=====================  ==================================  =========================================================
"""
