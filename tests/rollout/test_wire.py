"""What trainer and server say to each other arrives as it was sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from helpers.server_checks import SAMPLING, MakeEngine, StartServer
from helpers.tiny_policies import encode

from specs_lightning.policy.policy import Policy
from specs_lightning.rollout.wire import architecture, differences


def test_a_prompt_arrives_as_it_was_sent(start: StartServer, make: MakeEngine, policy: Policy, tmp_path: Path) -> None:
    """Images byte by byte, be they in memory or in files."""
    server = start()
    engine = make(server)
    engine.sync(policy)
    prompt = encode(policy, "p", "<image> or <image>?", [(84, 84), (60, 60)])
    first, second = prompt.question.images
    assert isinstance(second, bytes)
    (tmp_path / "second.png").write_bytes(second)
    as_file = replace(prompt, prompt=replace(prompt.question, images=(first, tmp_path / "second.png")))
    engine.generate([as_file], SAMPLING, "seed")
    (request,) = server.sampler.requests
    assert request.images == (first, second)
    assert request.expanded_ids == tuple(prompt.input_ids.tolist())
    assert len(request.template_ids) < len(request.expanded_ids)


def test_architectures_that_differ_in_habits_alone_are_the_same(policy: Policy) -> None:
    config = policy.model.config
    mine = architecture(config)
    assert differences(json.loads(json.dumps(mine)), mine) == []
    other = type(config).from_dict(config.to_dict() | {"dtype": "float16", "eos_token_id": 3})
    other.text_config.use_cache = False
    assert differences(mine, architecture(other)) == []
    other.text_config.rope_parameters = other.text_config.rope_parameters | {"rope_theta": 5.0}
    assert differences(mine, architecture(other)) == ["text_config.rope_parameters.rope_theta is 10000.0, not 5.0"]
