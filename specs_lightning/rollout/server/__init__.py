"""The other side of `rollout.servers`: vLLM behind HTTP."""
