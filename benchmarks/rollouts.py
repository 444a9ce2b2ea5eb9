"""Rollouts per CPU second of each engine, and of TRL with vLLM, on the same model and the same work.

    python benchmarks/rollouts.py --peers ../shared/peers/trl [--workload S] [--repeats 3]

The work of a round: prompts with an image each are encoded, the weights are handed over (they count as changed), and
completions of an exact length are drawn of each: 4, 8 and 64 tokens in S. Every engine runs in a fresh process with one
thread, in turns, so that whatever else the machine does meets all of them. CPU seconds of a server's process count with
those of its client.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import HERE, MACHINE, measure_trl
from workloads import WORKLOADS, Workload, run_child

ENGINES = ("hf", "vllm", "server")
TRL = "trl-vllm"
WARMUP = 2
PORT = 8765


def measure(engine_name: str, folder: Path, workload: Workload, rounds: int) -> dict[str, Any]:
    """Seconds of a round, in this process."""
    import psutil
    import torch

    from specs_lightning.groups import Prompt
    from specs_lightning.policy.loading import PolicySettings
    from specs_lightning.policy.policy import Policy
    from specs_lightning.prompts.encoder import PromptEncoder
    from specs_lightning.prompts.messages import build_messages
    from specs_lightning.rollout import HFEngine, RolloutEngine, SamplingSettings, VLLMEngine, VLLMServers, VLLMSettings

    torch.set_num_threads(1)
    model = str(folder / "model-without-end")
    policy = Policy(PolicySettings(model))
    rows = [json.loads(line) for line in (folder / "data" / "ours_grpo.jsonl").read_text().splitlines()]
    server: subprocess.Popen[bytes] | None = None
    engine: RolloutEngine
    if engine_name == "hf":
        engine = HFEngine()
    elif engine_name == "vllm":
        engine = VLLMEngine(VLLMSettings(max_model_len=1024))
    else:
        command = ["specs", "serve", f"--model={model}", f"--port={PORT}", "--vllm.max_model_len=1024"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        engine = VLLMServers([f"http://127.0.0.1:{PORT}"])
    encoder = PromptEncoder(policy.processor)
    sampling = SamplingSettings(workload.completions, workload.completion_tokens)

    def cpu_seconds() -> float:
        processes = [psutil.Process()] + ([psutil.Process(server.pid)] if server else [])
        return sum(p.cpu_times().user + p.cpu_times().system for p in processes)

    def one_round(number: int) -> int:
        prompts = []
        for i in range(workload.prompts):
            row = rows[(number * workload.prompts + i) % len(rows)]
            messages = build_messages(row["prompt"], 1, add_instruction=False)
            prompts.append(encoder.encode(Prompt(f"{number}-{i}", messages, (folder / "data" / row["image"],))))
        policy.version += 1
        engine.sync(policy)
        groups = engine.generate(prompts, sampling, f"round {number}")
        return sum(len(completion.token_ids) for group in groups for completion in group)

    try:
        for number in range(WARMUP):
            one_round(number)
        wall, cpu = time.perf_counter(), cpu_seconds()
        tokens = sum(one_round(WARMUP + number) for number in range(rounds))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
        engine.close()
    finally:
        if server is not None:
            server.terminate()
    assert tokens == rounds * workload.prompts * workload.completions * workload.completion_tokens
    return {"wall_s": wall / rounds, "cpu_s": cpu / rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder with make_model.py and bench_trl.py")
    parser.add_argument("--workload", default="S", choices=list(WORKLOADS), help="sizes of the work")
    parser.add_argument("--engines", default=",".join((*ENGINES, TRL)), help="which, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes of each engine")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds in each process")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where to write the figures as JSON")
    parser.add_argument("--measure", choices=ENGINES, help=argparse.SUPPRESS)  # the child process
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    if arguments.measure:
        print("RESULT " + json.dumps(measure(arguments.measure, arguments.inputs, workload, arguments.rounds)))
        return
    if arguments.peers is None:
        parser.error("name the peers' folder with --peers: model and data are made by its script")
    engines = arguments.engines.split(",")
    found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.write(arguments.peers, folder)
        for repeat in range(arguments.repeats):
            for engine in engines:
                if engine == TRL:
                    trl = measure_trl("grpo-vllm", folder, workload)
                    # Encoding and the hand-over of weights nest in it.
                    result = {"cpu_s": trl["phases"]["generate"]}
                else:
                    child = [sys.executable, __file__, f"--measure={engine}", f"--inputs={folder}"]
                    result = run_child([*child, f"--workload={arguments.workload}", f"--rounds={arguments.rounds}"])
                found[engine].append(result)
                print(f"repeat {repeat}, {engine:8}: {result['cpu_s']:.3f} CPU s", flush=True)
    completions = workload.prompts * workload.completions
    medians = {e: statistics.median(r["cpu_s"] for r in results) for e, results in found.items()}
    print("\n| Engine | Completions per CPU second | Least to greatest | Ratio to TRL |\n|---|---|---|---|")
    for engine, results in found.items():
        rates = sorted(completions / r["cpu_s"] for r in results)
        ratio = f"{medians[TRL] / medians[engine]:.2f}" if TRL in medians else ""
        print(f"| {engine} | {completions / medians[engine]:.1f} | {rates[0]:.1f}–{rates[-1]:.1f} | {ratio} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = {"machine": MACHINE, "workload": arguments.workload, "completions": completions, "runs": found}
    (arguments.out / "rollouts.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
