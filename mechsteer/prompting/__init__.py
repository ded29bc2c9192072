"""Prompts that accompany a steering, chosen by DSPy (the extra `mechsteer[dspy]`): see `mechsteer.prompting.with_dspy`."""
